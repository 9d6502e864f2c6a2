"""Surrogate gradients of the sign: calls of the kernel of csrc/surrogate.h."""

from __future__ import annotations

import ctypes
from itertools import pairwise

from onebit.native.library import InstructionSet, SurrogateStruct
from onebit.native.norm import PART_VALUES
from onebit.native.thread_pool import run_shares

TRIANGLE, BELL = 1, 2
"""`OB_SURROGATE_*` of csrc/onebit.h."""


def run_surrogate(
    isa: InstructionSet, struct: SurrogateStruct, values: int, *, threads: int = 1, keep: object = None
) -> None:
    """Compute all values, each by itself: any number of threads gives the same. keep: see `run_stages`."""
    struct.owners = keep
    parts = max(1, min(threads, values // PART_VALUES))
    bounds = [values * part // parts for part in range(parts + 1)]
    shares = list(pairwise(bounds))
    for _ in run_shares(lambda share: isa.run_surrogate(ctypes.byref(struct), *share), shares):
        pass
