"""BatchNorm of a training step, with a sum and bounds behind it: calls of the kernels of csrc/norm.h."""

from __future__ import annotations

import ctypes
from enum import IntEnum

from onebit.native.library import InstructionSet, NormStruct
from onebit.native.thread_pool import run_shares

PART_VALUES = 1 << 18
"""A thread of its own takes at least as many values."""


class NormStage(IntEnum):
    """`OB_NORM_*` of csrc/onebit.h: the first two are a forward pass, the others a backward pass."""

    MOMENTS = 1
    NORMALIZE = 2
    SUMS = 3
    PROPAGATE = 4


class NormCall:
    """A pass over values (rows, channels), whose addresses `struct` holds; the result is the same for any `threads`."""

    def __init__(self, isa: InstructionSet, struct: NormStruct, *, threads: int = 1) -> None:
        self.isa, self.struct = isa, struct
        self.parts = max(1, min(threads, struct.rows * struct.channels // PART_VALUES))

    def scratch(self) -> int:
        """The memory that `run` needs, in float64 numbers; its address goes into the structure."""
        return int(self.isa.run_norm(ctypes.byref(self.struct), 0, 0, self.parts))

    def run(self, *stages: NormStage) -> None:
        """Run stages one after the other."""
        address = ctypes.byref(self.struct)
        for stage in stages:
            if self.parts == 1:
                self.isa.run_norm(address, stage, 0, 1)
                continue

            def run_part(part: int, stage: NormStage = stage) -> int:
                return self.isa.run_norm(address, stage, part, self.parts)

            for _ in run_shares(run_part, range(self.parts)):
                pass
