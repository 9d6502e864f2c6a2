"""The table `FOLDS`: how each operation becomes part of a packed net."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from onebit.fold import arrange, attention, pointwise, pooling, weight_layers
from onebit.fold.arithmetic import add_product, arithmetic, with_constant
from onebit.fold.call import Operation
from onebit.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose1d,
    BinaryConvTranspose2d,
    BinaryLinear,
    InputCoding,
    Normalize,
    RPReLU,
)
from onebit.packed import AveragePool, MaxPool
from onebit.packed.nodes import OPS, Activation
from onebit.quantizers import Quantizer, sign

FOLDS: dict[Any, Operation] = {
    InputCoding: pointwise.input_coding,
    Normalize: pointwise.normalize,
    BinaryLinear: weight_layers.linear,
    **dict.fromkeys((BinaryConv1d, BinaryConv2d), weight_layers.conv),
    **dict.fromkeys((BinaryConvTranspose1d, BinaryConvTranspose2d), weight_layers.conv_transpose),
    "conv": weight_layers.conv,
    "convtranspose": weight_layers.conv_transpose,
    # torch.batch_norm has another order of arguments
    **dict.fromkeys((F.batch_norm, nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm), pointwise.batch_norm),
    Quantizer: pointwise.input_quantizer,
    RPReLU: pointwise.rprelu,
    sign: pointwise.sign_function,
    **dict.fromkeys(("sign", "sgn", "heaviside"), pointwise.ternary),
    "linear": weight_layers.linear,
    **dict.fromkeys(("matmul", "bmm"), attention.matmul),
    "layernorm": attention.layer_norm,
    "rmsnorm": partial(attention.layer_norm, centered=0),
    "groupnorm": attention.group_norm,
    "softmax": attention.softmax,
    "scaleddotproductattention": attention.attention,
    "einsum": attention.einsum,
    "pow": attention.power,
    "square": partial(attention.power, exponent=2),
    "rsqrt": partial(attention.power, exponent=-0.5),
    "norm": attention.norm,
    "normalize": attention.normalize,
    "relu": pointwise.relu,
    "relu6": partial(pointwise.clamped, low=0.0, high=6.0),
    "prelu": pointwise.prelu,
    "leakyrelu": pointwise.leaky_relu,
    "hardtanh": pointwise.hardtanh,
    "hardsigmoid": pointwise.hardsigmoid,
    **{name: partial(pointwise.activation, kind) for name, kind in OPS.items() if issubclass(kind, Activation)},
    "gelu": pointwise.gelu,
    "clamp": pointwise.clamp,
    "clampmin": pointwise.clamp,
    "clampmax": pointwise.clamp_max,
    "dropout": pointwise.dropout,
    "alphadropout": pointwise.dropout,
    "add": partial(arithmetic, torch.add),
    "sub": partial(arithmetic, torch.sub),
    "mul": partial(arithmetic, torch.mul),
    "div": partial(arithmetic, torch.div),
    "addcmul": add_product,
    "neg": partial(with_constant, constant=-1, compute=torch.mul),
    "maxpool": pooling.max_pool,
    "avgpool": pooling.average_pool,
    "adaptiveavgpool": pooling.adaptive_average_pool,
    "adaptivemaxpool": pooling.adaptive_max_pool,
    "mean": pooling.mean,
    "sum": partial(pooling.over_axes, AveragePool, sums=1),
    "amax": partial(pooling.over_axes, MaxPool),
    "pad": arrange.pad,
    "zeropad": arrange.pad,
    "constantpad": arrange.pad,
    **dict.fromkeys(("reflectionpad", "replicationpad", "circularpad"), arrange.take),
    **dict.fromkeys(("flip", "roll", "repeat", "tile", "repeatinterleave", "indexselect"), arrange.take),
    **dict.fromkeys(("channelshuffle", "nativechannelshuffle"), arrange.channel_shuffle),
    "pixelshuffle": arrange.pixel_shuffle,
    "pixelunshuffle": arrange.pixel_unshuffle,
    "upsample": weight_layers.upsample,
    "upsamplingnearest": weight_layers.upsample,
    "upsamplingbilinear": weight_layers.upsample,
    "interpolate": weight_layers.upsample,
    "cat": arrange.concat,
    "stack": arrange.stack,
    "getitem": arrange.select,
    **dict.fromkeys(("chunk", "split", "unbind"), arrange.same),  # `getitem` takes the parts
    **dict.fromkeys(("flatten", "unflatten", "reshape", "view"), arrange.reshape),
    **dict.fromkeys(("viewas", "reshapeas", "squeeze", "unsqueeze"), arrange.reshape),
    **dict.fromkeys(("permute", "transpose", "movedim"), arrange.permute),
    **dict.fromkeys(("expand", "expandas"), arrange.expand),
    **dict.fromkeys(("identity", "contiguous", "clone", "detach", "cpu"), arrange.same),
    **dict.fromkeys(("to", "type", "typeas", "float", "int", "long", "short"), pointwise.convert),
}
"""Layer class or function -> operation. Torch's layers, functions and methods are keyed by `call.canonical` name."""
