"""Activations with learned numbers per channel: calls of the kernel of csrc/activation.h."""

from __future__ import annotations

import ctypes

import numpy as np

from onebit.native.library import ActivationStruct, InstructionSet
from onebit.native.norm import PART_VALUES
from onebit.native.thread_pool import run_shares

RPRELU, SHIFTED_SIGN = 1, 2
"""`OB_ACTIVATION_*` of csrc/onebit.h."""
_VALUES, _TOTAL = 1, 2


def run_activation(isa: InstructionSet, struct: ActivationStruct, *, threads: int = 1) -> None:
    """Compute y, or the gradients if `struct` has one to y; the result is the same for any number of threads."""
    address = ctypes.byref(struct)
    parts = max(1, min(threads, struct.rows * struct.channels // PART_VALUES))
    scratch = np.empty(isa.run_activation(address, 0, 0, parts))
    struct.scratch = scratch.ctypes.data
    for _ in run_shares(lambda part: isa.run_activation(address, _VALUES, part, parts), range(parts)):
        pass
    if struct.gradient:
        isa.run_activation(address, _TOTAL, 0, 1)
