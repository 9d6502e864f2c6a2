"""The operations of a packed net: one frozen dataclass each, listed in `OPS`.

The shape (without the batch) and the kind of every value are known before a net runs.

=========  ================================================================================
kind       values
=========  ================================================================================
`sign`     exactly ±1
`integer`  int32 within `limits`
`real`     float32
=========  ================================================================================

A new operation is a class whose `compute` defines it and an entry in `OPS`; a new field has an entry in `ARRAYS` or
`ATTRIBUTES`.
"""

from __future__ import annotations

from onebit.packed.nodes.activation import Activation, Gelu, GeluTanh, Hardswish, Sigmoid, Silu, Tanh
from onebit.packed.nodes.arrange import Concat, Flatten, Move, Pad, Permute, Repeat, Reshape, Slice, Take
from onebit.packed.nodes.conv import (
    Conv,
    Convolution,
    ConvTranspose,
    Grouped,
    Kernel,
    RealConv,
    RealConvTranspose,
    Transposed,
)
from onebit.packed.nodes.dense import Dense, DenseLayer, OneBitWeights, RealDense, RealWeights, ScaledDense, Weights
from onebit.packed.nodes.node import Node, Value, by_class
from onebit.packed.nodes.pointwise import (
    Add,
    Affine,
    Bounded,
    Clamp,
    Hardtanh,
    Multiply,
    Prelu,
    Relu,
    Sign,
    Threshold,
)
from onebit.packed.nodes.pool import AdaptiveAveragePool, AveragePool, MaxPool, Pool
from onebit.packed.nodes.rounding import Quantize, Requantize

OPS: dict[str, type[Node]] = {
    "flatten": Flatten,
    "dense": Dense,
    "real_dense": RealDense,
    "conv": Conv,
    "real_conv": RealConv,
    "conv_transpose": ConvTranspose,
    "real_conv_transpose": RealConvTranspose,
    "max_pool": MaxPool,
    "average_pool": AveragePool,
    "adaptive_average_pool": AdaptiveAveragePool,
    "affine": Affine,
    "threshold": Threshold,
    "sign": Sign,
    "relu": Relu,
    "prelu": Prelu,
    "hardtanh": Hardtanh,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "silu": Silu,
    "gelu": Gelu,
    "gelu_tanh": GeluTanh,
    "hardswish": Hardswish,
    "add": Add,
    "concat": Concat,
    "slice": Slice,
    "take": Take,
    "pad": Pad,
    "reshape": Reshape,
    "permute": Permute,
    "repeat": Repeat,
    "clamp": Clamp,
    "multiply": Multiply,
    "requantize": Requantize,
    "quantize": Quantize,
}

__all__ = [
    "OPS",
    "Activation",
    "AdaptiveAveragePool",
    "Add",
    "Affine",
    "AveragePool",
    "Bounded",
    "Clamp",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Convolution",
    "Dense",
    "DenseLayer",
    "Flatten",
    "Gelu",
    "GeluTanh",
    "Grouped",
    "Hardswish",
    "Hardtanh",
    "Kernel",
    "MaxPool",
    "Move",
    "Multiply",
    "Node",
    "OneBitWeights",
    "Pad",
    "Permute",
    "Pool",
    "Prelu",
    "Quantize",
    "RealConv",
    "RealConvTranspose",
    "RealDense",
    "RealWeights",
    "Relu",
    "Repeat",
    "Requantize",
    "Reshape",
    "ScaledDense",
    "Sigmoid",
    "Sign",
    "Silu",
    "Slice",
    "Take",
    "Tanh",
    "Threshold",
    "Transposed",
    "Value",
    "Weights",
    "by_class",
]
