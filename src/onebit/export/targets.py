"""The export targets, formats of other software, and their table `EXPORTS`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


class CannotRun(Exception):
    """This machine cannot run an exported net; the message names what is missing: "node is not installed"."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A format of other software.

    Its module defines `OPERATIONS`, the operations of packed nets that it writes, or their base classes; `EXACT`,
    whether every output equals that of the reference executor bit for bit; `RUNS_WITH`, the name of what runs the
    exported net here; and two functions:

    * `write(net, path, **options)` writes the file `path`, and perhaps more files beside it, into a temporary folder;
      or it fills the empty folder `path`. The files beside `path`, and every file of a folder, contain "written by
      onebit" in their first 1,000 bytes: a later export replaces such files only.
    * `run(net, path, *inputs, **options)` returns what the files compute for (N, …) of each input: outputs by name,
      (N, …) float32. It raises `CannotRun` if this machine cannot run them.

    Args:
        text: one line on what is written.
        module: name of the module; imported on first use.
        suffixes: allowed suffixes of the file; empty if the target writes a folder.
        options: option -> allowed values; the first one is the default.
        layout_files: for each layout of a folder, one file that no other layout has.
        report: whether the module has `report(net, path, **options)`, a text on what the exported net needs.
        several_inputs: whether it takes nets with more than one input.
        samples: whether `write` takes `samples`: (N, …) real inputs of the net, or None.
        packed: whether it takes packed nets; one that takes language models instead needs no module.
    """

    text: str
    module: str
    suffixes: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    layout_files: tuple[str, ...] = ()
    report: bool = False
    several_inputs: bool = True
    samples: bool = False
    packed: bool = True

    @property
    def writer(self) -> Any:
        """The module."""
        return import_module(self.module)


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
        module="onebit.export.c.target",
        options={"layout": ("make", "arduino")},
        layout_files=("net.c", "src/net.c"),
        report=True,
    ),
    "html": Target(
        text="one web page that runs the net, without a server",
        module="onebit.export.html.target",
        suffixes=(".html",),
        several_inputs=False,
        samples=True,
    ),
    "gguf": Target(
        text="a language model for llama.cpp, from a folder of save_pretrained",
        module="",
        suffixes=(".gguf",),
        options={"rest": ("q8_0", "f16", "bf16", "f32")},
        packed=False,
    ),
}
"""Name -> target of `onebit export NET --to NAME`."""
