"""BatchNorm of a training step: calls of the kernels of csrc/norm.h."""

from __future__ import annotations

import ctypes

from onebit.errors import UsageError
from onebit.native.library import NormStruct, instruction_set

STAGES = {"moments": 1, "normalize": 2, "sums": 3, "propagate": 4}
"""OB_NORM_* of csrc/onebit.h."""


def run_norm(call: NormStruct, stage: str | None = None) -> int:
    isa = instruction_set()
    assert isa is not None
    return int(isa.run_norm(ctypes.byref(call), STAGES[stage] if stage else 0, 0, 1))
