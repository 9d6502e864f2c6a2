"""The native executor: a C library without dependencies that runs packed nets on whole batches."""

from onebit.native.abi import (
    ActivationStruct as ActivationStruct,
    ConcreteStruct as ConcreteStruct,
    ConvolutionStruct as ConvolutionStruct,
    DenseGradientStruct as DenseGradientStruct,
    NormStruct as NormStruct,
    ProductStruct as ProductStruct,
    SignedConvolutionStruct as SignedConvolutionStruct,
    SignsStruct as SignsStruct,
    SurrogateStruct as SurrogateStruct,
    UpdateStruct as UpdateStruct,
)
from onebit.native.arena import NativePlan as NativePlan
from onebit.native.layout import NotPlanned as NotPlanned
from onebit.native.library import (
    InstructionSet as InstructionSet,
    instruction_set as instruction_set,
    instruction_sets as instruction_sets,
)
from onebit.native.plan import make_plan as make_plan
from onebit.native.thread_pool import run_shares as run_shares, thread_count as thread_count
from onebit.native.training import (
    ADAM as ADAM,
    BELL as BELL,
    FLIP as FLIP,
    MAX_TAPS as MAX_TAPS,
    MOMENTUM as MOMENTUM,
    RPRELU as RPRELU,
    SHIFTED_SIGN as SHIFTED_SIGN,
    TRIANGLE as TRIANGLE,
    panel_words as panel_words,
    run_activation as run_activation,
    run_convolution as run_convolution,
    run_dense_gradient as run_dense_gradient,
    run_norm as run_norm,
    run_product as run_product,
    run_signs as run_signs,
    run_values as run_values,
    run_weight_gradient as run_weight_gradient,
    sign_blocks as sign_blocks,
)
