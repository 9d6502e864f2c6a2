"""Progress messages of a training: a bar, lines above it, and the same lines in log.txt."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from onebit.cli.output import Progress, progress
from onebit.cli.processes import resumable
from onebit.common.files import append_text, remove_made
from onebit.errors import TrainingError
from onebit.train.history import EpochLines, EpochLog

if TYPE_CHECKING:
    from torch import nn

    from onebit.train.ranks import Ranks


@dataclass
class ProgressPrinter:
    """Prints what a training does, and logs it; `prints` is False for all but one of the processes of torchrun."""

    bar: Progress
    log: TextIO
    prints: bool
    began: bool = False
    lines: EpochLines = field(default_factory=EpochLines)

    def note(self, text: str) -> None:
        """A line above the bar, and in the log."""
        if self.prints:
            self.bar.print(text)
            self.write(text)

    def write(self, text: str) -> None:
        """A line in the log alone."""
        self.log.write(text + "\n")
        self.log.flush()

    def model(self, model: nn.Module, example: Any) -> None:
        """The model that is trained; `example` is a batch as it is fed."""
        from onebit.train.printing import check_lines, net_lines

        if self.prints:
            for line in [*net_lines(model), *check_lines(model, example)]:
                self.note(line)

    def epoch(self, row: EpochLog) -> None:
        """An epoch is done: a row of a table above the bar, and all its numbers in the log."""
        if self.prints:
            for line in self.lines.of(row):
                self.bar.print(line)
            self.write(str(row))

    def step(self, done: int, total: int) -> None:
        """`done` of `total` optimizer steps are done."""
        self.began = True
        if self.prints:
            self.bar.update(done, total)


@contextmanager
def printing_progress(name: str, folder: Path, ranks: Ranks, *, new_paths: Sequence[Path]) -> Iterator[ProgressPrinter]:
    """Within the context warnings become notes, and an interruption ends in a line that says how to go on.

    Args:
        name: of the training; folder: where log.txt goes.
        new_paths: what was not there before: removed again when the training is refused before its first step.
    """
    printer = None
    try:
        with (
            progress(name, "steps") as bar,
            append_text(folder / "log.txt") if ranks.writes else open(os.devnull, "a", encoding="utf-8") as log,
        ):
            printer = ProgressPrinter(bar, log, prints=ranks.writes)
            try:
                with resumable(folder, ranks), warnings.catch_warnings():
                    warnings.showwarning = lambda message, *where: printer.note(f"note: {message}")
                    yield printer
            except (KeyboardInterrupt, TrainingError) as stop:
                with suppress(OSError):
                    printer.write(str(stop))
                raise
    except Exception:
        if ranks.writes and not (printer and printer.began):
            remove_made(new_paths)
        raise
