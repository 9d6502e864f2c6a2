"""The gradient to the weights of a convolution: calls of the kernel of csrc/training/weight_gradient.h."""

from __future__ import annotations

from onebit.native.abi import MOST_TAPS as MOST_TAPS
from onebit.native.abi import WEIGHT, ConvolutionStruct
from onebit.native.library import InstructionSet
from onebit.native.thread_pool import run_stages

STAGES = WEIGHT["sums"], WEIGHT["total"]
PART_PRODUCTS = 1 << 26
"""A thread of its own takes at least as many products."""


def run_weight_gradient(
    isa: InstructionSet, struct: ConvolutionStruct, *, threads: int = 1, keep: object = None
) -> None:
    """Compute the gradient, the same for any number of threads. keep: see `run_stages`."""
    pixels = struct.images * struct.out_size[0] * struct.out_size[1]
    products = pixels * struct.channels * struct.outputs * struct.kernel[0] * struct.kernel[1]
    parts = max(1, min(threads, products // PART_PRODUCTS))
    run_stages(isa.run_weight_gradient, struct, STAGES, parts=parts, unit=1, keep=keep)
