"""`Target`, a format of other software, and what its module has to have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    import numpy as np

    from onebit.packed import Node, PackedNet


class CannotRun(Exception):
    """What runs an exported net is not on this machine; the text says what is missing: "node is not installed"."""


class Writer(Protocol):
    """What the module of a target has.

    OPERATIONS: the operations of packed nets that it can write, or base classes of them.
    EXACT: whether every output equals that of the reference executor bit for bit.
    RUNS_WITH: what runs the exported net here, for display.
    """

    OPERATIONS: Collection[type[Node]]
    EXACT: bool
    RUNS_WITH: str

    def write(self, net: PackedNet, path: Path, **options: Any) -> None:
        """Write a net to `path`, in a folder of its own: a file, perhaps with others beside it; or an empty folder.

        Files beside, and one file of a folder at least, say near their start that they are "written by onebit": a later
        export replaces those, and no others.
        """

    def run(self, net: PackedNet, path: Path, inputs: np.ndarray, **options: str) -> dict[str, np.ndarray]:
        """What the files at `path` compute for `inputs`: outputs by name, (N, …) float32."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A format of other software.

    Args:
        text: what is written, in a line.
        module: name of the module that writes it, a `Writer`; imported when it is used.
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
    def writer(self) -> Writer:
        """The module."""
        return cast(Writer, import_module(self.module))

    def report_on(self, net: PackedNet, path: Path, **options: str) -> str:
        """What the net that was exported to `path` needs."""
        module: Any = self.writer
        return str(module.report(net, path, **options))
