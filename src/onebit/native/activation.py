"""Activations with learned numbers per channel: calls of the kernel of csrc/training/activation.h."""

from __future__ import annotations

from onebit.native.abi import ACTIVATION, STAGE, ActivationStruct
from onebit.native.library import InstructionSet
from onebit.native.norm import PART_VALUES
from onebit.native.thread_pool import run_stages

RPRELU, SHIFTED_SIGN = ACTIVATION["rprelu"], ACTIVATION["sign"]


def run_activation(isa: InstructionSet, struct: ActivationStruct, *, threads: int = 1, keep: object = None) -> None:
    """Compute y, or the gradients if `struct` has one to y; the result is the same for any number of threads.

    keep: see `run_stages`.
    """
    parts = max(1, min(threads, struct.rows * struct.channels // PART_VALUES))
    stages = (STAGE["values"], STAGE["total"]) if struct.gradient else (STAGE["values"],)
    run_stages(isa.run_activation, struct, stages, parts=parts, keep=keep)
