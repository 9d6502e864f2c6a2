"""The table of export targets."""

from __future__ import annotations

from onebit.export.target import Target

EXPORTS: dict[str, Target] = {
    "torch": Target(
        text="±1 weights and a program in plain torch that loads them",
        module="onebit.export.plain_torch.target",
        suffixes=(".safetensors", ".pth", ".pt"),
    ),
    "onnx": Target(
        text="an ONNX file for onnxruntime, with weights of one bit",
        module="onebit.export.onnx.target",
        suffixes=(".onnx",),
        options={"flavor": ("standard", "float", "qonnx")},
    ),
    "c": Target(
        text="a folder of C99 without dependencies, for microcontrollers",
        module="onebit.export.c",
        options={"layout": ("make", "arduino")},
        layout_files=("net.c", "src/net.c"),
        report=True,
    ),
    "html": Target(
        text="one web page that runs the net, without a server",
        module="onebit.export.html.writer",
        suffixes=(".html",),
        samples=True,
    ),
}
"""Name -> target of `onebit export NET --to NAME`."""
