"""What the verbs print: stdout for the answer, stderr for everything else (`onebit.common.progress`)."""

from __future__ import annotations

import json
import math
import os
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onebit.cli.parsing import thread_number
from onebit.common.progress import Progress as Progress
from onebit.common.progress import progress as progress
from onebit.common.progress import say as say
from onebit.errors import UsageError


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
