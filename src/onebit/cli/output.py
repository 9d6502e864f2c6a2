"""stdout for the answer, stderr for talk; bars on a terminal, lines elsewhere."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onebit.cli.parsing import thread_number
from onebit.errors import UsageError

Bar = Any


def say(text: str) -> None:
    """Talk, on stderr."""
    print(text, file=sys.stderr, flush=True)


def answer(text: str) -> None:
    """The answer, on stdout."""
    print(text, flush=True)


def answer_json(value: dict[str, Any]) -> None:
    """The answer as one JSON object on stdout; JSON has no number that is not finite, so those become null."""
    print(json.dumps(_finite(value), indent=2, allow_nan=False, default=str), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def table(rows: list[list[str]], *, right: tuple[int, ...] = ()) -> str:
    """Columns of text, two spaces apart; columns in `right` are aligned right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


class Progress:
    """Progress of something countable: `update(done, total)`. A rich bar on a terminal, otherwise silent.

    Args:
        label: what progresses; unit: what is counted.
    """

    def __init__(self, label: str, unit: str) -> None:
        self.label, self.unit = label, unit
        self._first: tuple[int, float] | None = None  # what was done at the first update, and when that was
        self._bar: Bar = None
        self._task: Any = None
        self._shown = 0.0

    def update(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done; cheap enough to call at every step."""
        if self._first is None:
            self._first = done, time.monotonic()
        if not sys.stderr.isatty():
            return
        now = time.monotonic()
        if now - self._shown < 0.1 and done != total:
            return
        self._shown = now
        if self._bar is None:
            self._open(total)
        self._bar.update(self._task, completed=done, total=total, rate=self._rate(done))

    def print(self, text: str) -> None:
        """A line of talk above the bar."""
        if self._bar is None:
            say(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _open(self, total: int) -> None:
        # imported here: only a terminal pays for it
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn(self.label),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(self.label, total=total, rate="")
        self._bar.start()

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


@contextmanager
def download_progress() -> Iterator[Any]:
    """The callback that data loading takes, see `onebit.data.Progress`."""
    bars: dict[str, Progress] = {}

    def update(name: str, done: int, total: int) -> None:
        if name not in bars:
            bars[name] = Progress(name, "B")
            bars[name].print(name)
        bars[name].update(done, total)
        if done == total:
            bars[name].close()

    try:
        yield update
    finally:
        for bar in bars.values():
            bar.close()


def set_threads() -> None:
    """Apply ONEBIT_THREADS to torch.

    Raises:
        UsageError: not a number above 0.
    """
    text = os.environ.get("ONEBIT_THREADS")
    if not text:
        return
    try:
        threads = thread_number(text)
    except ArgumentTypeError as error:
        raise UsageError(f"ONEBIT_THREADS {error}") from None
    import torch

    torch.set_num_threads(threads)
