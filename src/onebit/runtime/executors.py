"""The table of executors: for each operation, a function that makes its executor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onebit.errors import FormatError
from onebit.packed import Node, Value, nodes
from onebit.packed.bits import sign
from onebit.runtime.pooling import adaptive_average_pool, average_pool, max_pool
from onebit.runtime.reference_matmul import Executor, conv, conv_transpose, dense

DTYPES = {"sign": np.int8, "integer": np.int32, "real": np.float32}
"""The dtype of each kind of value."""


def per_channel(array: np.ndarray, ndim: int) -> np.ndarray:
    """(C,) shaped to broadcast along axis 1 of a batch with `ndim` axes."""
    return array.reshape(-1, *[1] * (ndim - 2))


def _affine(node: nodes.Affine, x: Value) -> Executor:
    def execute(v: np.ndarray) -> np.ndarray:
        # rounded once, like the fused multiply-add of torch's BatchNorm: two roundings would differ in the last bit
        y = v.astype(np.float64)
        if node.scale is not None:
            y *= per_channel(node.scale, v.ndim)
        if node.shift is not None:
            y += per_channel(node.shift, v.ndim)
        return y.astype(np.float32)

    return execute


def _threshold(node: nodes.Threshold, x: Value) -> Executor:
    def execute(v: np.ndarray) -> np.ndarray:
        threshold = per_channel(node.threshold, v.ndim)
        rising = per_channel(node.direction > 0, v.ndim)
        return np.where(np.where(rising, v >= threshold, v <= threshold), np.int8(1), np.int8(-1))

    return execute


def _sign(node: nodes.Sign, x: Value) -> Executor:
    shift = node.shift
    return sign if shift is None else lambda v: sign(v - per_channel(shift, v.ndim))


def _prelu(node: nodes.Prelu, x: Value) -> Executor:
    def execute(v: np.ndarray) -> np.ndarray:
        y = v.astype(np.float32)
        return np.where(y > 0, y, y * per_channel(node.slope, v.ndim))

    return execute


def _relu(node: nodes.Relu, x: Value) -> Executor:
    dtype = DTYPES[node.infer(x).kind]

    def execute(v: np.ndarray) -> np.ndarray:
        y = v.astype(dtype)
        y[y < 0] = 0  # keeps -0.0, for which np.maximum gives either zero
        return y

    return execute


def _hardtanh(node: nodes.Hardtanh, x: Value) -> Executor:
    dtype = DTYPES[node.infer(x).kind]
    return lambda v: np.clip(v.astype(dtype, copy=False), -1, 1)


def _add(node: nodes.Add, a: Value, b: Value) -> Executor:
    dtype = DTYPES[node.infer(a, b).kind]
    return lambda v, w: np.add(v, w, dtype=dtype, casting="unsafe")


def _flatten(node: nodes.Flatten, x: Value) -> Executor:
    return lambda v: v.reshape(len(v), -1)


def _reshape(node: nodes.Reshape, x: Value) -> Executor:
    return lambda v: v.reshape(len(v), *node.shape)


def _permute(node: nodes.Permute, x: Value) -> Executor:
    return lambda v: v.transpose(0, *(axis + 1 for axis in node.axes))


def _repeat(node: nodes.Repeat, x: Value) -> Executor:
    def execute(v: np.ndarray) -> np.ndarray:
        for axis, times in enumerate(node.times, start=1):
            v = v.repeat(times, axis=axis)
        return v

    return execute


def _clamp(node: nodes.Clamp, x: Value) -> Executor:
    def execute(v: np.ndarray) -> np.ndarray:
        y = v.astype(np.float32)
        for bound, beyond in ((node.low, np.less), (node.high, np.greater)):
            if bound is not None:  # keeps a -0.0 that is at a bound of 0.0, unlike np.clip
                np.copyto(y, bound, where=beyond(y, bound))
        return y

    return execute


def _multiply(node: nodes.Multiply, a: Value, b: Value) -> Executor:
    return lambda v, w: np.multiply(v, w, dtype=np.float32, casting="unsafe")


def _concat(node: nodes.Concat, *inputs: Value) -> Executor:
    dtype = DTYPES[node.infer(*inputs).kind]
    return lambda *arrays: np.concatenate(arrays, axis=1, dtype=dtype, casting="unsafe")


def _slice(node: nodes.Slice, x: Value) -> Executor:
    channels, rows, columns = (slice(*axis) for axis in zip(node.start, node.stop, node.step, strict=True))
    return lambda v: v[:, channels, rows, columns]


def _pad(node: nodes.Pad, x: Value) -> Executor:
    dtype = DTYPES[node.infer(x).kind]
    width = ((0, 0), node.channels, node.padding[:2], node.padding[2:])
    return lambda v: np.pad(v.astype(dtype, copy=False), width, constant_values=node.value)


def _requantize(node: nodes.Requantize, *inputs: Value) -> Executor:
    multipliers = node.multiplier.astype(np.int64)

    def execute(*arrays: np.ndarray) -> np.ndarray:
        ndim = arrays[0].ndim
        total = np.broadcast_to(per_channel(node.offset, ndim), arrays[0].shape).copy()
        for v, multiplier in zip(arrays, multipliers, strict=True):
            total += v * per_channel(multiplier, ndim)
        total >>= node.right_shift  # of negative integers, too, the floor
        return np.clip(total, node.least, node.most, out=total).astype(np.int32)

    return execute


def _quantize(node: nodes.Quantize, x: Value) -> Executor:
    def execute(v: np.ndarray) -> np.ndarray:
        y = v.astype(np.float32)
        if count := int(np.count_nonzero(np.isnan(y))):
            raise FormatError(f"{count} of {y.size} values are NaN, which cannot be rounded to an integer")
        return np.clip(np.rint(y, out=y), node.least, node.most, out=y).astype(np.int32)

    return execute


EXECUTORS: dict[type[Node], Callable[..., Executor]] = {
    nodes.Flatten: _flatten,
    nodes.Dense: dense,
    nodes.RealDense: dense,
    nodes.Conv: conv,
    nodes.RealConv: conv,
    nodes.ConvTranspose: conv_transpose,
    nodes.RealConvTranspose: conv_transpose,
    nodes.MaxPool: max_pool,
    nodes.AveragePool: average_pool,
    nodes.AdaptiveAveragePool: adaptive_average_pool,
    nodes.Affine: _affine,
    nodes.Threshold: _threshold,
    nodes.Sign: _sign,
    nodes.Relu: _relu,
    nodes.Prelu: _prelu,
    nodes.Hardtanh: _hardtanh,
    nodes.Add: _add,
    nodes.Concat: _concat,
    nodes.Slice: _slice,
    nodes.Pad: _pad,
    nodes.Reshape: _reshape,
    nodes.Permute: _permute,
    nodes.Repeat: _repeat,
    nodes.Clamp: _clamp,
    nodes.Multiply: _multiply,
    nodes.Requantize: _requantize,
    nodes.Quantize: _quantize,
}
"""For each operation: (node, values of its inputs without data) -> its executor."""
