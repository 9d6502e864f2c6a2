"""The operations of a packed net: one frozen dataclass each, listed in `OPS`.

The shape (without the batch) and the kind of every value are known before a net runs.

=========  ================================================================================
kind       values
=========  ================================================================================
`sign`     exactly ±1
`integer`  int32 within `limits`
`real`     float32
=========  ================================================================================

A new operation is a class whose `compute` defines it; `@operation` enters it in `OPS`. A new field has an entry in
`ARRAYS` or `ATTRIBUTES`.
"""

from onebit.packed.nodes.activation import Activation as Activation, Reciprocal as Reciprocal, Sqrt as Sqrt
from onebit.packed.nodes.arrange import (
    Concat as Concat,
    Flatten as Flatten,
    Move as Move,
    Pad as Pad,
    Permute as Permute,
    Repeat as Repeat,
    Reshape as Reshape,
    Slice as Slice,
    Take as Take,
)
from onebit.packed.nodes.conv import (
    Conv as Conv,
    Convolution as Convolution,
    ConvTranspose as ConvTranspose,
    Grouped as Grouped,
    Kernel as Kernel,
    RealConv as RealConv,
    RealConvTranspose as RealConvTranspose,
    Transposed as Transposed,
)
from onebit.packed.nodes.dense import (
    Dense as Dense,
    DenseLayer as DenseLayer,
    OneBitWeights as OneBitWeights,
    RealDense as RealDense,
    RealWeights as RealWeights,
    ScaledDense as ScaledDense,
    Weights as Weights,
)
from onebit.packed.nodes.node import OPS as OPS, Node as Node, Value as Value, by_class as by_class
from onebit.packed.nodes.normalize import Normalize as Normalize, Softmax as Softmax
from onebit.packed.nodes.pointwise import (
    Add as Add,
    Affine as Affine,
    Bounded as Bounded,
    Clamp as Clamp,
    Hardtanh as Hardtanh,
    Multiply as Multiply,
    Prelu as Prelu,
    Relu as Relu,
    Sign as Sign,
    Threshold as Threshold,
)
from onebit.packed.nodes.pool import (
    AdaptiveAveragePool as AdaptiveAveragePool,
    AveragePool as AveragePool,
    MaxPool as MaxPool,
    Pool as Pool,
)
from onebit.packed.nodes.product import Product as Product
from onebit.packed.nodes.rounding import Quantize as Quantize, Requantize as Requantize
from onebit.packed.nodes.view import View as View
