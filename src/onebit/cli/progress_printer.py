"""Progress messages of a training: a bar, lines above it, and the same lines in log.txt."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from onebit.cli.output import Progress, progress
from onebit.common.files import append_text
from onebit.errors import TrainingError
from onebit.runs.folders import remove, written
from onebit.train.history import EpochLines, EpochLog

if TYPE_CHECKING:
    from torch import nn

    from onebit.train.ranks import Ranks


@dataclass
class ProgressPrinter:
    """Prints what a training does, and logs it."""

    bar: Progress
    log: TextIO
    began: bool = False
    lines: EpochLines = field(default_factory=EpochLines)

    def note(self, text: str) -> None:
        """A line above the bar, and in the log."""
        self.bar.print(text)
        self.write(text)

    def write(self, text: str) -> None:
        """A line in the log alone."""
        self.log.write(text + "\n")
        self.log.flush()

    def model(self, model: nn.Module, example: Any) -> None:
        """The model that is trained; `example` is a batch as it is fed."""
        from onebit.train.printing import net_lines, packing_lines

        for line in [*net_lines(model), *packing_lines(model, example)]:
            self.note(line)

    def epoch(self, row: EpochLog) -> None:
        """An epoch is done: a row of a table above the bar, and all its numbers in the log."""
        for line in self.lines.of(row):
            self.bar.print(line)
        self.write(str(row))

    def step(self, done: int, total: int) -> None:
        """`done` of `total` optimizer steps are done."""
        self.began = True
        self.bar.update(done, total)


@contextmanager
def printing_progress(name: str, folder: Path, ranks: Ranks) -> Iterator[ProgressPrinter]:
    """Within the context warnings become notes; a training that fails before its first step leaves no new files."""
    before, printer = written(folder), None
    try:
        with (
            progress(name, "steps") as bar,
            append_text(folder / "log.txt") if ranks.writes else open(os.devnull, "a", encoding="utf-8") as log,
            warnings.catch_warnings(),
        ):
            printer = ProgressPrinter(bar, log)
            warnings.showwarning = lambda message, *where: printer.note(f"note: {message}")
            try:
                yield printer
            except (KeyboardInterrupt, TrainingError) as stop:
                with suppress(OSError):
                    printer.write(str(stop) or "interrupted")
                raise
    except Exception:
        if ranks.writes and not (printer and printer.began):
            for path in written(folder):
                if path not in before:
                    remove(path)
        raise
