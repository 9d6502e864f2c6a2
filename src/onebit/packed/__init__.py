"""`PackedNet`, the deployable form of a net, and its `.1bit` file."""

from onebit.packed.card import Card as Card, CardScore as CardScore
from onebit.packed.certificate import Certificate as Certificate, LayerProof as LayerProof
from onebit.packed.file import dumps as dumps, load as load, loads as loads, save as save
from onebit.packed.net import (
    InputSpec as InputSpec,
    NodeCost as NodeCost,
    PackedNet as PackedNet,
    costs as costs,
    infer as infer,
)
from onebit.packed.nodes import (
    OPS as OPS,
    AdaptiveAveragePool as AdaptiveAveragePool,
    Add as Add,
    Affine as Affine,
    AveragePool as AveragePool,
    Clamp as Clamp,
    Concat as Concat,
    Conv as Conv,
    ConvTranspose as ConvTranspose,
    Dense as Dense,
    Flatten as Flatten,
    Hardtanh as Hardtanh,
    MaxPool as MaxPool,
    Multiply as Multiply,
    Node as Node,
    OneBitWeights as OneBitWeights,
    Pad as Pad,
    Permute as Permute,
    Prelu as Prelu,
    Quantize as Quantize,
    RealConv as RealConv,
    RealConvTranspose as RealConvTranspose,
    RealDense as RealDense,
    RealWeights as RealWeights,
    Relu as Relu,
    Repeat as Repeat,
    Requantize as Requantize,
    Reshape as Reshape,
    Sign as Sign,
    Slice as Slice,
    Take as Take,
    Threshold as Threshold,
    Value as Value,
)
