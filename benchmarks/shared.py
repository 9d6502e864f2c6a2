"""What the benchmarks share: flags, the settings of the process, the machine, and a table."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

import onebit

ROOT = Path(__file__).parents[1]
"""Where other processes can import these benchmarks: the clone of the repository."""


def words(text: str) -> list[str]:
    """A flag that is a list: "a,b"."""
    return text.split(",")


def add_timing(parser: argparse.ArgumentParser, *, rounds: int, seconds: float) -> None:
    """Flags of whatever takes turns in rounds."""
    parser.add_argument("--rounds", type=int, default=rounds, help="timed rounds (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="at least, for each variant in a round (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of every variant (%(default)s)")


def set_up_process(threads: int) -> None:
    """Set the number of threads of torch and let malloc keep freed memory, as training does."""
    torch.set_num_threads(threads)
    onebit.common.memory.keep_freed_memory()


@contextmanager
def own_kernels(wanted: bool) -> Iterator[None]:
    """With the kernels of onebit, or without them, in plain torch."""
    before = os.environ.get("ONEBIT_NATIVE")
    os.environ["ONEBIT_NATIVE"] = str(int(wanted))
    try:
        yield
    finally:
        if before is None:
            del os.environ["ONEBIT_NATIVE"]
        else:
            os.environ["ONEBIT_NATIVE"] = before


def machine() -> dict[str, Any]:
    """The machine and the torch that figures are measured with."""
    name = platform.processor() or platform.machine()
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    return {"cpu": name, "cores": os.cpu_count(), "torch": torch.__version__, "threads": torch.get_num_threads()}


def ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """The median of the ratios of the rounds."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows in Markdown, aligned; `columns`: key of a row -> format of its values. Columns without a value are left out.

    Example:
        >>> print(table([{"net": "mlp", "ms": 1.25}], {"net": "", "ms": ".1f"}))
        | net |  ms |
        | --- | --- |
        | mlp | 1.2 |
    """
    shown = {key: form for key, form in columns.items() if any(row.get(key) is not None for row in rows)}
    heads = [key.replace("_", " ") for key in shown]
    cells = [["" if row.get(key) is None else format(row[key], form) for key, form in shown.items()] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(heads, *cells, strict=True)]
    lines = [heads, ["-" * width for width in widths], *cells]
    numbers = [form != "" for form in shown.values()]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, numbers, strict=True)
        )
        + " |"
        for line in lines
    )
