"""What the benchmarks share: flags, the settings of the process, the machine, and a table."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import onebit

ROOT = Path(__file__).parents[1]
"""The clone of the repository, from which other processes import the benchmarks."""


def words(text: str) -> list[str]:
    """A flag that is a list: "a,b"."""
    return text.split(",")


def speedups(of: onebit.runtime.timing.Timed, to: onebit.runtime.timing.Timed, name: str) -> dict[str, float]:
    """How many times faster `of` is: the median over rounds, and for the fastest rounds."""
    return {
        f"{name}_speedup": statistics.median(b / a for a, b in zip(of.seconds, to.seconds, strict=True)),
        f"{name}_fastest_speedup": min(to.seconds) / min(of.seconds),
    }


def add_timing(parser: argparse.ArgumentParser, *, rounds: int, seconds: float) -> None:
    """Flags of benchmarks that take turns in rounds."""
    parser.add_argument("--rounds", type=int, default=rounds, help="timed rounds (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="least time of each variant in a round (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of every variant (%(default)s)")


def set_up_process(threads: int) -> None:
    """Set the number of threads of torch and let malloc keep freed memory, as training does."""
    torch.set_num_threads(threads)
    onebit.common.memory.keep_freed_memory()


def machine() -> dict[str, Any]:
    """The machine and the torch that figures are measured with."""
    name = platform.processor() or platform.machine()
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    return {"cpu": name, "cores": os.cpu_count(), "torch": torch.__version__, "threads": torch.get_num_threads()}


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows as text; `columns`: key of a row -> format of its values. Columns without a value are left out."""
    shown = {key: form for key, form in columns.items() if any(row.get(key) is not None for row in rows)}
    cells = [["" if row.get(key) is None else format(row[key], form) for key, form in shown.items()] for row in rows]
    numbers = [i for i, form in enumerate(shown.values()) if form]
    return onebit.common.text.table([[key.replace("_", " ") for key in shown], *cells], right=numbers, width=200)
