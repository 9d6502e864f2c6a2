"""The gradient to the weights of a convolution: calls of the kernel of csrc/weight_gradient.h."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from onebit.native.library import ConvolutionStruct, InstructionSet
from onebit.native.thread_pool import run_shares

MOST_TAPS = 49
"""`OB_MOST_TAPS` of csrc/onebit.h."""
STAGES = 1, 2
"""`OB_WEIGHT_SUMS`, `OB_WEIGHT_TOTAL`."""
PART_PRODUCTS = 1 << 26
"""A thread of its own takes at least as many products."""


def run_weight_gradient(
    isa: InstructionSet, struct: ConvolutionStruct, allocate: Callable[[int], int], *, threads: int = 1
) -> None:
    """Compute the gradient, the same for any number of threads.

    allocate: bytes -> the address of so much memory, aligned to 64 bytes, that stays until this call returns.
    """
    pixels = struct.images * struct.out_size[0] * struct.out_size[1]
    products = pixels * struct.channels * struct.outputs * struct.kernel[0] * struct.kernel[1]
    parts = max(1, min(threads, products // PART_PRODUCTS))
    address = ctypes.byref(struct)
    struct.scratch = allocate(int(isa.run_weight_gradient(address, 0, 0, parts)))
    for stage in STAGES:

        def run_part(part: int, stage: int = stage) -> int:
            return isa.run_weight_gradient(address, stage, part, parts)

        for _ in run_shares(run_part, range(parts)):
            pass
