"""What the benchmarks share: their flags, the settings of the process, and what is printed about the machine."""

from __future__ import annotations

import argparse
import math
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

import onebit

ROOT = Path(__file__).parents[1]
"""Where other processes can import these benchmarks: the clone of the repository."""


def add_rounds(parser: argparse.ArgumentParser, rounds: int, what: str = "timed rounds") -> None:
    parser.add_argument("--rounds", type=int, default=rounds, help=f"{what} ({rounds})")


def add_seconds(parser: argparse.ArgumentParser, seconds: float) -> None:
    parser.add_argument(
        "--seconds", type=float, default=seconds, help=f"at least, for each variant in a round ({seconds:g})"
    )


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """The arguments of `set_up_process` as flags."""
    parser.add_argument("--threads", type=int, default=1, help="threads of every variant (1)")
    parser.add_argument(
        "--default-malloc", action="store_true", help="leave malloc as it is (see onebit.common.memory); for comparison"
    )


def need_positive(seconds: float, **counts: int) -> None:
    """Raise UsageError unless the counts, of what is named, are 1 or more, and the seconds positive and finite."""
    if min(counts.values()) < 1 or not 0 < seconds < math.inf:
        raise onebit.errors.UsageError(f"{', '.join(counts)} and seconds must be positive")


def native_sets() -> Mapping[str, onebit.native.InstructionSet]:
    """The instruction sets of this machine; UsageError without the native library."""
    if not (known := onebit.native.instruction_sets()):
        raise onebit.errors.UsageError(
            "the native library is not installed; reinstall onebit with a C compiler available"
        )
    return known


def set_up_process(threads: int, *, default_malloc: bool = False) -> dict[str, Any]:
    """Set the number of threads of torch and let malloc keep freed memory; returns the machine, as JSON."""
    torch.set_num_threads(threads)
    kept = not default_malloc and onebit.common.memory.keep_freed_memory()
    return {**machine(threads), "freed_memory_kept": kept}


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


def machine(threads: int) -> dict[str, Any]:
    """The machine and the torch that figures are measured with."""
    name = platform.processor() or platform.machine()
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    return {"cpu": name, "cores": os.cpu_count(), "torch": torch.__version__, "threads": threads}


def describe_machine(where: dict[str, Any]) -> str:
    """What `set_up_process` returned, as text."""
    return (
        f"{where['cpu']}, {where['cores']} cores; torch {where['torch']}, {where['threads']} thread(s), "
        f"freed memory {'kept' if where['freed_memory_kept'] else 'given back'}"
    )
