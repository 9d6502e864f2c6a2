"""The operations of a packed net: one frozen dataclass each, listed in `OPS`.

The shape (without the batch) and the kind of every value are known before a net runs.

=========  ================================================================================
kind       values
=========  ================================================================================
`sign`     exactly ±1
`integer`  int32 within `limits`
`real`     float32
=========  ================================================================================

A new operation is a dataclass here, an entry in `OPS` and an executor in `onebit.runtime`.
"""

from __future__ import annotations

from onebit.packed.nodes.arrange import Concat, Flatten, Pad, Permute, Repeat, Reshape, Slice
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
from onebit.packed.nodes.dense import Dense, OneBitWeights, RealDense, RealWeights
from onebit.packed.nodes.node import MOST_RANK, MOST_SIZE, Node, Numbers, Stored, Value, check_finite, check_size
from onebit.packed.nodes.pointwise import Add, Affine, Clamp, Hardtanh, Multiply, Prelu, Relu, Sign, Threshold
from onebit.packed.nodes.pool import AdaptiveAveragePool, AveragePool, MaxPool
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
    "add": Add,
    "concat": Concat,
    "slice": Slice,
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
    "MOST_RANK",
    "MOST_SIZE",
    "OPS",
    "AdaptiveAveragePool",
    "Add",
    "Affine",
    "AveragePool",
    "Clamp",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Convolution",
    "Dense",
    "Flatten",
    "Grouped",
    "Hardtanh",
    "Kernel",
    "MaxPool",
    "Multiply",
    "Node",
    "Numbers",
    "OneBitWeights",
    "Pad",
    "Permute",
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
    "Sign",
    "Slice",
    "Stored",
    "Threshold",
    "Transposed",
    "Value",
    "check_finite",
    "check_size",
]
