"""The native executor: a C library without dependencies that runs packed nets on whole batches."""

from onebit.native.abi import (
    ActivationStruct,
    ConcreteStruct,
    ConvolutionStruct,
    DenseGradientStruct,
    NormStruct,
    ProductStruct,
    SignsStruct,
    SurrogateStruct,
    UpdateStruct,
)
from onebit.native.arena import NativePlan
from onebit.native.layout import NotPlanned
from onebit.native.library import InstructionSet, instruction_set, instruction_sets
from onebit.native.plan import make_plan
from onebit.native.thread_pool import run_shares
from onebit.native.training import (
    ADAM,
    BELL,
    FLIP,
    MOMENTUM,
    MOST_TAPS,
    RPRELU,
    SHIFTED_SIGN,
    TRIANGLE,
    panel_words,
    run_activation,
    run_dense_gradient,
    run_norm,
    run_product,
    run_signs,
    run_values,
    run_weight_gradient,
    sign_blocks,
)

__all__ = [
    "ADAM",
    "BELL",
    "FLIP",
    "MOMENTUM",
    "MOST_TAPS",
    "RPRELU",
    "SHIFTED_SIGN",
    "TRIANGLE",
    "ActivationStruct",
    "ConcreteStruct",
    "ConvolutionStruct",
    "DenseGradientStruct",
    "InstructionSet",
    "NativePlan",
    "NormStruct",
    "NotPlanned",
    "ProductStruct",
    "SignsStruct",
    "SurrogateStruct",
    "UpdateStruct",
    "instruction_set",
    "instruction_sets",
    "make_plan",
    "panel_words",
    "run_activation",
    "run_dense_gradient",
    "run_norm",
    "run_product",
    "run_shares",
    "run_signs",
    "run_values",
    "run_weight_gradient",
    "sign_blocks",
]
