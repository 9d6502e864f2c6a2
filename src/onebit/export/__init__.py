"""Trained nets for other software: one file and one line of `EXPORTS` per target. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from onebit.common.lazy import lazy

if TYPE_CHECKING:
    from onebit.export import torch_state as torch_state
    from onebit.runs.run import Run


class Target(NamedTuple):
    """A format of other software.

    text: what is written, in a line; suffixes: of the file; write: writes a run to a path, and checks what it wrote.
    """

    text: str
    suffixes: tuple[str, ...]
    write: Callable[[Run, Path], None]


def _torch(run: Run, path: Path) -> None:
    from onebit.export.torch_state import export_plain

    export_plain(run, path)


EXPORTS = {
    "torch": Target(
        "a plain ±1 checkpoint for torch.nn layers: .pth (state_dict) or .safetensors",
        (".pth", ".pt", ".safetensors"),
        _torch,
    ),
}
"""Name -> target of `onebit export RUN --to NAME`."""

__getattr__, __dir__, _ = lazy(__name__)
