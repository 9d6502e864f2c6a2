"""Surrogate gradients of the sign, draws of binary concrete weights: calls of csrc/training."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from onebit.native.abi import SURROGATE, ConcreteStruct, SurrogateStruct
from onebit.native.library import InstructionSet
from onebit.native.norm import PART_VALUES
from onebit.native.thread_pool import run_shares

TRIANGLE, BELL = SURROGATE["triangle"], SURROGATE["bell"]


def run_surrogate(
    isa: InstructionSet, struct: SurrogateStruct, values: int, *, threads: int = 1, keep: object = None
) -> None:
    """Compute all values, each by itself: any number of threads gives the same. keep: see `run_stages`."""
    _run(isa.run_surrogate, struct, values, threads, keep)


def run_concrete(
    isa: InstructionSet, struct: ConcreteStruct, values: int, *, threads: int = 1, keep: object = None
) -> bool:
    """Draw all signs, or compute all slopes, each by itself; whether a draw may not be ±1. keep: see `run_stages`."""
    return any(_run(isa.run_concrete, struct, values, threads, keep))


def _run(kernel: Callable[..., Any], struct: ctypes.Structure, values: int, threads: int, keep: object) -> list[Any]:
    """What the kernel returns for each share of the values."""
    struct.owners = keep
    parts = max(1, min(threads, values // PART_VALUES))
    bounds = [values * part // parts for part in range(parts + 1)]
    return list(run_shares(lambda share: kernel(ctypes.byref(struct), *share), list(pairwise(bounds))))
