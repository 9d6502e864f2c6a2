"""Reference executors of dense layers and convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from onebit.packed import OneBitWeights, Value, nodes
from onebit.packed.bits import pack_signs, unpack_signs, xnor_dot
from onebit.packed.grid import FLOAT32_EXACT, GRID_BITS, exact_products, on_grid

Executor = Callable[..., np.ndarray]
"""Arrays (N, …), one per input of the node -> the array (N, …) of its output."""

_BLOCK_VALUES = 1 << 18  # of windows unrolled at once, to fit the second-level cache
_LOCK, _LIMITS = Lock(), list[Any]()  # the limit of BLAS threads, once for each use of it
_libraries = cache(ThreadpoolController)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread: on a busy core, its threads wait for each other longer than a block takes."""
    with _LOCK:
        _LIMITS.append(_LIMITS[0] if _LIMITS else _libraries().limit(limits=1, user_api="blas"))
    try:
        yield
    finally:
        with _LOCK:
            limit = _LIMITS.pop()
            if not _LIMITS:  # uses overlap in several threads
                limit.restore_original_limits()


def dense(node: nodes.DenseLayer, x: Value) -> Executor:
    """(N, K) -> (N, O)."""
    finish = _finish(node)
    if x.kind == "sign" and isinstance(node, nodes.Dense) and node.centre is None:
        signs, count = node.signs, node.in_features
        return lambda v: finish(xnor_dot(pack_signs(v), signs, count)[:, None, :, None], None)[:, 0, :, 0]
    [weight], prepare = _weight(node, x), _prepare(node, x)
    multiply = np.matmul if isinstance(node, OneBitWeights) else exact_products

    def execute(v: np.ndarray) -> np.ndarray:
        v, units = prepare(v)
        sums = multiply(weight, v.astype(weight.dtype, copy=False).T)
        return finish(sums.T[:, None, :, None], units)[:, 0, :, 0]

    return execute


def dense_in_groups(node: nodes.ScaledDense, x: Value) -> Executor:
    """(N, K) -> (N, O) for real inputs."""
    weight = unpack_signs(node.signs, node.in_features, dtype=np.float64)

    def execute(v: np.ndarray) -> np.ndarray:
        integers, units = on_grid(v.astype(np.float32))
        y = np.zeros((len(v), node.outputs), np.float32)
        for g, scale in enumerate(node.scales.T):
            part = slice(g * node.group, (g + 1) * node.group)
            y += (integers[:, part] @ weight[:, part].T).astype(np.float32) * units[:, None] * scale
        return y

    return execute


def conv(node: nodes.Convolution, x: Value) -> Executor:
    """(N, I, H, W) -> (N, O, H', W')."""
    weight = _weight(node, x, groups=node.groups, padding_value=node.padding_value)
    channels, height, width = x.shape
    top, bottom, left, right = node.padding
    canvas = channels, height + top + bottom, width + left + right
    target = slice(None), slice(None), slice(top, top + height), slice(left, left + width)
    return _correlation(node, x, weight, canvas, (slice(None),), target, stride=node.stride, border=node.padding_value)


def conv_transpose(node: nodes.Transposed, x: Value) -> Executor:
    """(N, I, H, W) -> (N, O, H', W'): the correlation of the dilated image with the flipped kernel."""
    weight = _weight(node, x, groups=node.groups)
    turned = weight.reshape(*weight.shape[:2], *node.kernel, -1)[:, :, ::-1, ::-1]
    source, target, sizes = [slice(None)] * 2, [slice(None)] * 2, []
    for size, made, span, stride, cut in zip(
        x.shape[1:], node.infer(x).shape[1:], node.extent, node.stride, node.padding[::2], strict=True
    ):
        length, offset = made + span - 1, span - 1 - cut  # of the canvas; of the first pixel on it
        first = -(min(offset, 0) // stride)
        last = max(first, min(size, (length - 1 - offset) // stride + 1))
        source.append(slice(first, last))
        target.append(slice(offset + first * stride, max(0, offset + (last - 1) * stride + 1), stride))
        sizes.append(length)
    weight = np.ascontiguousarray(turned).reshape(weight.shape)
    return _correlation(node, x, weight, (x.shape[0], *sizes), tuple(source), tuple(target))


def _weight(node: Any, x: Value, *, groups: int = 1, padding_value: int = 0) -> np.ndarray:
    """(groups, rows, K) of integers: float32 if it holds every sum exactly, else float64.

    With `centre`, each group has another row of ones, for sum(x). Real weights are rounded to their grid.
    """
    if not isinstance(node, OneBitWeights):
        return on_grid(node.weight)[0].astype(np.float64).reshape(groups, -1, node.terms)
    exact = x.bound is not None and node.terms * max(x.bound, abs(padding_value)) <= FLOAT32_EXACT
    dtype = np.float32 if exact else np.float64
    weight = unpack_signs(node.signs, node.terms, dtype=dtype).reshape(groups, -1, node.terms)
    if node.centre is None:
        return weight
    return np.concatenate([weight, np.ones((groups, 1, node.terms), dtype)], axis=1)


def _prepare(node: Any, x: Value) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]:
    """A function from values to integers and the grid unit of each image; None for integers, which stay as they are.

    With real weights, integers larger than the grid count as real values.
    """
    if x.bound is not None and (isinstance(node, OneBitWeights) or x.bound <= 2**GRID_BITS):
        return lambda v: (v, None)
    least = abs(getattr(node, "padding_value", 0))
    return lambda v: on_grid(v.astype(np.float32), least=least)


def _finish(node: Any, *, groups: int = 1) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
    """A function from sums (N, groups, rows, P) and grid units (N,) to outputs (N, groups, O / groups, P)."""
    parts = (node.scale, node.centre) if isinstance(node, OneBitWeights) else (on_grid(node.weight)[1], None)
    scale, centre = (None if array is None else array.reshape(groups, -1, 1) for array in parts)

    def finish(sums: np.ndarray, units: np.ndarray | None) -> np.ndarray:
        if units is None and scale is None and centre is None:
            return sums.astype(np.int32, copy=False)
        sums = sums.astype(np.float32)
        if units is not None:
            sums *= units[:, None, None, None]
        y = sums if centre is None else sums[:, :, :-1]
        if scale is not None:
            y = y * scale
        if centre is not None:
            y = y + sums[:, :, -1:] * centre
        return y

    return finish


def _correlation(
    node: nodes.Grouped,
    x: Value,
    weight: np.ndarray,
    canvas: tuple[int, ...],
    source: tuple[slice, ...],
    target: tuple[slice, ...],
    *,
    stride: tuple[int, int] = (1, 1),
    border: int = 0,
) -> Executor:
    """Each row of weights times each window of the canvas (C, H, W), in blocks of unrolled windows.

    The slices `source` of a batch are copied to `target` on the canvas; the rest of the canvas is `border`.
    """
    made = node.infer(x)
    outputs, height, width = made.shape
    groups, _, terms = weight.shape
    prepare, finish = _prepare(node, x), _finish(node, groups=groups)
    multiply = np.matmul if isinstance(node, OneBitWeights) else exact_products
    unrolled = groups * terms  # values of a window
    across = min(width, max(1, _BLOCK_VALUES // unrolled))
    down = min(height, max(1, _BLOCK_VALUES // (unrolled * width)))
    images_at_once = max(1, _BLOCK_VALUES // (unrolled * width * height))

    def execute(v: np.ndarray) -> np.ndarray:
        y = np.empty((len(v), outputs, height, width), np.int32 if made.exact else np.float32)
        v, units = prepare(v)
        surface = np.full((min(images_at_once, len(v)), *canvas), border, weight.dtype)
        image = surface[target]
        grouped = surface.reshape(len(surface), groups, -1, *canvas[1:])
        windows = np.lib.stride_tricks.sliding_window_view(grouped, node.extent, axis=(3, 4))
        windows = windows[:, :, :, :: stride[0], :: stride[1], :: node.dilation[0], :: node.dilation[1]]
        windows = windows.transpose(0, 1, 5, 6, 2, 3, 4)  # as a row of weights: (kH, kW, I / groups)
        unrolled_windows = np.empty(len(surface) * unrolled * down * across, weight.dtype)
        for first in range(0, len(v), images_at_once):
            count = len(v[first : first + images_at_once])
            part_units = None if units is None else units[first : first + count]
            if border and part_units is not None:
                on_the_grid = np.rint(border / part_units.reshape(-1, 1, 1, 1))
                surface[:count] = np.where(np.isfinite(on_the_grid), on_the_grid, 0)
            image[:count] = v[first : first + images_at_once][source]
            for top in range(0, height, down):
                for left in range(0, width, across):
                    part = windows[:count, ..., top : min(top + down, height), left : min(left + across, width)]
                    columns = unrolled_windows[: part.size].reshape(part.shape)
                    np.copyto(columns, part)
                    sums = finish(multiply(weight, columns.reshape(count, groups, terms, -1)), part_units)
                    out = y[first : first + count, :, top : top + part.shape[-2], left : left + part.shape[-1]]
                    out[...] = sums.reshape(out.shape)
        return y

    return execute
