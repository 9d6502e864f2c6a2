"""Fast packed nets: a C library without dependencies that runs whole batches."""

from onebit.native.arena import NativePlan
from onebit.native.layout import NotPlanned
from onebit.native.library import InstructionSet, NormStruct, instruction_set, instruction_sets
from onebit.native.norm import NormCall, NormStage
from onebit.native.plan import make_plan
from onebit.native.thread_pool import run_shares

__all__ = [
    "InstructionSet",
    "NativePlan",
    "NormCall",
    "NormStage",
    "NormStruct",
    "NotPlanned",
    "instruction_set",
    "instruction_sets",
    "make_plan",
    "run_shares",
]
