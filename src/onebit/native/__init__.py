"""Packed nets at the speed of bits: a C library without dependencies, called with whole batches of images."""

from onebit.native.library import InstructionSet, instruction_set, instruction_sets
from onebit.native.memory import NativePlan
from onebit.native.plan import NotPlanned, make_plan
from onebit.native.team import run_shares

__all__ = [
    "InstructionSet",
    "NativePlan",
    "NotPlanned",
    "instruction_set",
    "instruction_sets",
    "make_plan",
    "run_shares",
]
