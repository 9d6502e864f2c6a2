"""The table of executors: for each operation, a function that makes the step of a batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onebit.packed import (
    AdaptiveAveragePool,
    Add,
    Affine,
    AveragePool,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    Hardtanh,
    MaxPool,
    Node,
    Pad,
    Prelu,
    RealConv,
    RealConvTranspose,
    RealDense,
    Relu,
    Sign,
    Slice,
    Threshold,
    Value,
)
from onebit.packed.bits import sign
from onebit.runtime.pooling import adaptive_average_pool, average_pool, max_pool
from onebit.runtime.products import conv, conv_transpose, dense

Step = Callable[..., np.ndarray]
"""Arrays (N, …), one for each input of the node -> the array (N, …) of its output."""

DTYPES = {"sign": np.int8, "integer": np.int32, "real": np.float32}
"""How the values of a kind lie in memory."""


def per_channel(array: np.ndarray, ndim: int) -> np.ndarray:
    """(C,) shaped to broadcast along axis 1 of a batch with `ndim` axes."""
    return array.reshape(-1, *[1] * (ndim - 2))


def _affine(node: Affine, x: Value) -> Step:
    def step(v: np.ndarray) -> np.ndarray:
        # rounded once, as the fused multiply-add of torch's BatchNorm does: two roundings would differ in the last bit
        y = v.astype(np.float64)
        if node.scale is not None:
            y *= per_channel(node.scale, v.ndim)
        if node.shift is not None:
            y += per_channel(node.shift, v.ndim)
        return y.astype(np.float32)

    return step


def _threshold(node: Threshold, x: Value) -> Step:
    def step(v: np.ndarray) -> np.ndarray:
        threshold = per_channel(node.threshold, v.ndim)
        rising = per_channel(node.direction > 0, v.ndim)
        return np.where(np.where(rising, v >= threshold, v <= threshold), np.int8(1), np.int8(-1))

    return step


def _sign(node: Sign, x: Value) -> Step:
    shift = node.shift
    return sign if shift is None else lambda v: sign(v - per_channel(shift, v.ndim))


def _prelu(node: Prelu, x: Value) -> Step:
    def step(v: np.ndarray) -> np.ndarray:
        y = v.astype(np.float32)
        return np.where(y > 0, y, y * per_channel(node.slope, v.ndim))

    return step


def _relu(node: Relu, x: Value) -> Step:
    dtype = DTYPES[node.infer(x).kind]
    return lambda v: np.maximum(v, 0, dtype=dtype)


def _hardtanh(node: Hardtanh, x: Value) -> Step:
    dtype = DTYPES[node.infer(x).kind]
    return lambda v: np.clip(v.astype(dtype, copy=False), -1, 1)


def _add(node: Add, a: Value, b: Value) -> Step:
    dtype = DTYPES[node.infer(a, b).kind]
    return lambda v, w: np.add(v, w, dtype=dtype, casting="unsafe")


def _flatten(node: Flatten, x: Value) -> Step:
    return lambda v: v.reshape(len(v), -1)


def _concat(node: Concat, *inputs: Value) -> Step:
    dtype = DTYPES[node.infer(*inputs).kind]
    return lambda *arrays: np.concatenate(arrays, axis=1, dtype=dtype, casting="unsafe")


def _slice(node: Slice, x: Value) -> Step:
    channels, rows, columns = (slice(*axis) for axis in zip(node.start, node.stop, node.step, strict=True))
    return lambda v: v[:, channels, rows, columns]


def _pad(node: Pad, x: Value) -> Step:
    dtype = DTYPES[node.infer(x).kind]
    width = ((0, 0), node.channels, node.padding[:2], node.padding[2:])
    return lambda v: np.pad(v.astype(dtype, copy=False), width, constant_values=node.value)


EXECUTORS: dict[type[Node], Callable[..., Step]] = {
    Flatten: _flatten,
    Dense: dense,
    RealDense: dense,
    Conv: conv,
    RealConv: conv,
    ConvTranspose: conv_transpose,
    RealConvTranspose: conv_transpose,
    MaxPool: max_pool,
    AveragePool: average_pool,
    AdaptiveAveragePool: adaptive_average_pool,
    Affine: _affine,
    Threshold: _threshold,
    Sign: _sign,
    Relu: _relu,
    Prelu: _prelu,
    Hardtanh: _hardtanh,
    Add: _add,
    Concat: _concat,
    Slice: _slice,
    Pad: _pad,
}
"""For each operation: (node, what is known of its inputs) -> the step of a batch."""
