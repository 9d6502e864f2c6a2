"""The native executor: a C library without dependencies that runs packed nets on whole batches."""

from onebit.native.abi import ActivationStruct, ConcreteStruct, ConvolutionStruct, NormStruct, SurrogateStruct
from onebit.native.arena import NativePlan
from onebit.native.layout import NotPlanned
from onebit.native.library import InstructionSet, instruction_set, instruction_sets
from onebit.native.plan import make_plan
from onebit.native.thread_pool import run_shares
from onebit.native.training import (
    BELL,
    MOST_TAPS,
    RPRELU,
    SHIFTED_SIGN,
    TRIANGLE,
    run_activation,
    run_norm,
    run_values,
    run_weight_gradient,
)

__all__ = [
    "BELL",
    "MOST_TAPS",
    "RPRELU",
    "SHIFTED_SIGN",
    "TRIANGLE",
    "ActivationStruct",
    "ConcreteStruct",
    "ConvolutionStruct",
    "InstructionSet",
    "NativePlan",
    "NormStruct",
    "NotPlanned",
    "SurrogateStruct",
    "instruction_set",
    "instruction_sets",
    "make_plan",
    "run_activation",
    "run_norm",
    "run_shares",
    "run_values",
    "run_weight_gradient",
]
