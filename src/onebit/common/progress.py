"""Progress of long operations on stderr: a bar on a terminal, lines of text elsewhere."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, ClassVar, TextIO

from onebit.errors import escaped, shortened

COLUMNS = 80
"""Width of a bar with its label and numbers."""
MAX_LABEL_LENGTH = 24
"""Characters of a label that fit next to the bar."""
PATIENCE = 1.0
"""Seconds before a function that is often fast draws its bar."""
Done = Callable[[int, int], None]


def say(text: str) -> None:
    """Print a line of progress or a note on stderr, with unprintable characters escaped."""
    print_note("\n".join(map(escaped, text.split("\n"))))


def print_note(text: str) -> None:
    """Print text on stderr, unchanged; drop it if that fails because the reader has gone or the disk is full."""
    if sys.stderr is not None:  # as after `2>&-`; to print to None prints on stdout
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def print_answer(text: str) -> None:
    """Print text on stdout; drop it if the reader has gone, as in `onebit list recipes | head -1`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        discard(sys.stdout)


def discard(stream: TextIO) -> None:
    """Discard all further output to a stream; its buffered text would fail again at the exit."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:  # one in memory has no descriptor
        os.dup2(nothing.fileno(), stream.fileno())


def in_notebook() -> bool:
    """Whether a Jupyter kernel shows what is printed."""
    return type(sys.stdout).__module__.startswith("ipykernel")


def shows_progress(verbose: bool | None, *callbacks: object) -> bool:
    """Whether a function of the library prints its progress.

    Args:
        verbose: the argument of that function. None prints on a terminal and in a notebook, unless the caller passed
            callbacks.
        callbacks: those of the caller, or None.
    """
    if verbose is not None:
        return verbose
    return all(callback is None for callback in callbacks) and (_on_terminal() or in_notebook())


def _on_terminal() -> bool:
    """Whether stderr is a terminal; it is None in programs without a console, such as pythonw."""
    return sys.stderr is not None and sys.stderr.isatty()


class Progress:
    """A progress bar: `update(done, total)` draws it on a terminal; elsewhere nothing is printed.

    Only one bar is drawn at a time: an operation inside another one draws none.

    Args:
        label: name of the operation. unit: plural of what it counts.
        then, verbose: called with each (done, total); whether to draw, see `shows_progress`.
        after: seconds before the bar is drawn.
    """

    _drawn: ClassVar[Progress | None] = None

    def __init__(self, label: str, unit: str, then: Done | None = None, verbose: bool | None = None, after: float = 0):
        self.label, self.unit, self.then = label, unit, then
        self._bar: Any = None
        self._task: Any = None
        self._due = time.monotonic() + (after if shows_progress(verbose, then) else math.inf)

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done; cheap enough to be called often."""
        due = time.monotonic() >= self._due or (done == total and self._bar is not None)
        if due and _on_terminal() and Progress._drawn in (None, self):
            self._due = time.monotonic() + 0.1
            with suppress(OSError):  # as in `print_note`
                if self._bar is not None or self._open(total):
                    speed = self._bar.tasks[0].speed
                    rate = f"{speed:,.0f} {self.unit}/s" if speed else ""
                    self._bar.update(self._task, completed=done, total=total, rate=rate)
        if self.then is not None:
            self.then(done, total)

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif in_notebook():
            print(text, flush=True)
        else:
            print_note(text)

    def close(self) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.stop()
            self._bar = None
            Progress._drawn = None

    def _open(self, total: int) -> bool:
        """Draw the bar; False if rich is not installed, which is part of `onebit[train]`."""
        try:
            # imported here, as only a terminal needs it
            from rich import progress as rich
            from rich.console import Console
        except ImportError:
            return False
        console = Console(stderr=True)
        console.width = min(console.width, COLUMNS)
        label = shortened(self.label, MAX_LABEL_LENGTH)
        self._bar = rich.Progress(
            label,
            rich.BarColumn(bar_width=None),
            rich.MofNCompleteColumn(),
            "{task.fields[rate]}",
            rich.TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(label, total=total, rate="")
        self._bar.start()
        Progress._drawn = self
        return True


def progress(label: str, unit: str, then: Done | None = None, **options: Any) -> closing[Progress]:
    """A `Progress` that is closed at the end of the block, also after an error."""
    return closing(Progress(label, unit, then, **options))
