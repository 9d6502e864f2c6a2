"""Executors of pooling."""

from __future__ import annotations

from functools import reduce

import numpy as np

from onebit.packed import AdaptiveAveragePool, AveragePool, MaxPool, Value
from onebit.packed.nodes import Pool
from onebit.runtime.reference_matmul import Executor


def max_pool(node: MaxPool, x: Value) -> Executor:
    size = node.positions(x)

    def execute(v: np.ndarray) -> np.ndarray:
        real = v.dtype.kind == "f"
        padded = _padded(v, node.padding, -np.inf if real else np.iinfo(v.dtype).min)
        largest = _over_windows(node, padded, size, np.maximum)
        return largest + np.float32(0) if real else largest  # of 0.0 and -0.0, np.maximum gives either

    return execute


def average_pool(node: AveragePool, x: Value) -> Executor:
    size = node.positions(x)
    divisor = node.pixels(x).astype(np.float32)
    result = np.int32 if node.infer(x).exact else np.float32

    def execute(v: np.ndarray) -> np.ndarray:
        v = _padded(v, node.padding, 0)
        if x.exact:
            sums = _over_windows(node, v.astype(np.int64), size, np.add).astype(result)
        else:
            sums = _row_by_row(node, v, size)
        return sums if node.sums else sums.astype(np.float32) / divisor

    return execute


def adaptive_average_pool(node: AdaptiveAveragePool, x: Value) -> Executor:
    rows, columns = node.windows(x)
    divisor = node.pixels(x).astype(np.float32)

    def execute(v: np.ndarray) -> np.ndarray:
        sums = v.astype(np.int64 if x.exact else np.float64)
        for axis, windows in ((2, rows), (3, columns)):
            lines = np.moveaxis(sums, axis, 0)
            sums = np.stack([reduce(np.add, lines[start:stop]) for start, stop in windows], axis)  # in this order
        return sums.astype(np.float32) / divisor

    return execute


def _padded(v: np.ndarray, padding: tuple[int, int, int, int], value: float) -> np.ndarray:
    top, bottom, left, right = padding
    if not any(padding):
        return v
    return np.pad(v, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def _over_windows(node: Pool, v: np.ndarray, size: tuple[int, int], combine: np.ufunc) -> np.ndarray:
    """`combine` over the pixels of each window: (N, C, H, W) -> (N, C, H', W'), down and then across."""
    for axis, taps, dilation, stride, count in zip((2, 3), node.kernel, node.dilation, node.stride, size, strict=True):
        v = np.moveaxis(v, axis, 0)
        length = (count - 1) * stride + 1
        combined = v[:length:stride]
        for tap in range(1, taps):
            combined = combine(combined, v[tap * dilation : tap * dilation + length : stride])
        v = np.moveaxis(combined, 0, axis)
    return v


def _row_by_row(node: AveragePool, v: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Sums of the pixels of each window in float32, in torch's order."""
    (down, across), (height, width) = node.stride, size
    sums = np.zeros((*v.shape[:2], height, width), np.float32)
    for i, j in np.ndindex(*node.kernel):
        top, left = i * node.dilation[0], j * node.dilation[1]
        sums += v[:, :, top : top + (height - 1) * down + 1 : down, left : left + (width - 1) * across + 1 : across]
    return sums
