"""Progress of whatever takes long, on stderr: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

COLUMNS = 80
"""The widest line."""
LONGEST_LABEL = 24
"""Characters of a label that fit beside the bar and its numbers."""


def say(text: str) -> None:
    """A line of progress or a note, on stderr."""
    print(text, file=sys.stderr, flush=True)


def in_notebook() -> bool:
    """Whether a Jupyter kernel shows what is printed."""
    return type(sys.stdout).__module__.startswith("ipykernel")


def shows_progress(verbose: bool | None, *callbacks: object) -> bool:
    """Whether a function of the library prints its progress.

    Args:
        verbose: whether it was asked to; None leaves it to where it runs: on a terminal or in a notebook it does,
            unless the caller shows the progress by callbacks of its own.
        callbacks: None, or what the caller passed.
    """
    if verbose is not None:
        return verbose
    return all(callback is None for callback in callbacks) and (sys.stderr.isatty() or in_notebook())


class Progress:
    """Progress of something countable: `update(done, total)`. A rich bar on a terminal, otherwise silent.

    Only one bar is drawn at a time: what runs inside something with a bar shows none of its own.

    Args:
        label: what progresses; unit: what is counted.
    """

    _drawn: ClassVar[Progress | None] = None

    def __init__(self, label: str, unit: str) -> None:
        label = label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"
        self.label, self.unit = label, unit
        self._first: tuple[int, float] | None = None  # what was done at the first update, and when that was
        self._bar: Any = None
        self._task: Any = None
        self._shown = 0.0

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done; cheap enough to call at every step."""
        if self._first is None:
            self._first = done, time.monotonic()
        if not sys.stderr.isatty() or Progress._drawn not in (None, self):
            return
        now = time.monotonic()
        if now - self._shown < 0.1 and done != total:
            return
        self._shown = now
        if self._bar is None and not self._open(total):
            return
        self._bar.update(self._task, completed=done, total=total, rate=self._rate(done))

    def print(self, text: str) -> None:
        """A line above the bar."""
        if self._bar is None:
            print(text, file=sys.stdout if in_notebook() else sys.stderr, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            Progress._drawn = None

    def _open(self, total: int) -> bool:
        """Draw the bar; False where rich is not installed, which comes with `onebit[train]`."""
        try:
            # imported here: only a terminal pays for it
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress
        except ImportError:
            return False
        console = Console(stderr=True)
        console.width = min(console.width, COLUMNS)

        self._bar = RichProgress(
            TextColumn(self.label),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(self.label, total=total, rate="")
        self._bar.start()
        Progress._drawn = self
        return True

    def _rate(self, done: int) -> str:
        assert self._first is not None
        before, since = self._first
        seconds = time.monotonic() - since
        return f"{(done - before) / seconds:,.0f} {self.unit}/s" if seconds > 0.2 else ""


@contextmanager
def progress(label: str, unit: str) -> Iterator[Progress]:
    """A `Progress` that is closed at the end, also after an error."""
    bar = Progress(label, unit)
    try:
        yield bar
    finally:
        bar.close()
