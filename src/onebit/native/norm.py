"""BatchNorm of a training step, with a sum and bounds behind it: calls of the kernels of csrc/training/norm.h."""

from __future__ import annotations

from enum import IntEnum

from onebit.native import abi
from onebit.native.abi import NormStruct
from onebit.native.library import InstructionSet
from onebit.native.thread_pool import run_stages

PART_VALUES = 1 << 18
"""A thread of its own takes at least as many values."""


class NormStage(IntEnum):
    """`OB_NORM_*` of csrc/onebit.h: the first two are a forward pass, the others a backward pass."""

    MOMENTS = abi.NORM["moments"]
    NORMALIZE = abi.NORM["normalize"]
    SUMS = abi.NORM["sums"]
    PROPAGATE = abi.NORM["propagate"]


def run_norm(
    isa: InstructionSet, struct: NormStruct, *stages: NormStage, threads: int = 1, keep: object = None
) -> None:
    """Run stages on values (rows, channels); the result is the same for any number of threads. keep: `run_stages`."""
    parts = max(1, min(threads, struct.rows * struct.channels // PART_VALUES))
    run_stages(isa.run_norm, struct, stages, parts=parts, keep=keep)
