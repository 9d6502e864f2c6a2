"""`Target`, a format of other software, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


class CannotRun(Exception):
    """What runs an exported net is not on this machine; the text says what is missing: "node is not installed"."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A format of other software.

    Its module has `OPERATIONS`, the operations of packed nets that it can write, or base classes of them; `EXACT`,
    whether every output equals that of the reference executor bit for bit; `RUNS_WITH`, what runs the exported net
    here, for display; and two functions:

    * `write(net, path, **options)` writes a net to `path`, in a folder of its own: a file, perhaps with others beside
      it; or an empty folder. Files beside, and one file of a folder at least, say near their start that they are
      "written by onebit": a later export replaces those, and no others.
    * `run(net, path, inputs, **options)` gives what the files compute: outputs by name, (N, …) float32; or raises
      `CannotRun`.

    Args:
        text: what is written, in a line.
        module: name of the module that writes it; imported when it is used.
        suffixes: of the file; empty if a folder is written.
        options: options of its own -> their values, the first of which is the default.
        layout_files: one of the files of each layout of a folder, which no other layout has.
        report: the module has `report(net, path, **options)`, a text on what the exported net needs.
        samples: `write` takes `samples`: (N, …) real inputs of the net, or None.
    """

    text: str
    module: str
    suffixes: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    layout_files: tuple[str, ...] = ()
    report: bool = False
    samples: bool = False

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
