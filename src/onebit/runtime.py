"""Run a packed net with numpy alone: the reference executor, which defines what a packed net computes.

* `sign` values are int8 and `integer` values int32, and their sums are exact, whatever computes them.
* Sums of real values are accumulated in float64 and rounded to float32 once, so that they do not depend on the order a
  matrix library adds in. An affine map is rounded once, as a fused multiply-add is. Scales, centres and the input
  coding are float32 operations, one rounding each, in the order in which `onebit.packed.nodes` writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onebit.bits import pack_signs, sign, unpack_signs, xnor_dot
from onebit.errors import FormatError, UsageError
from onebit.packed import (
    Affine,
    Dense,
    Flatten,
    Hardtanh,
    InputSpec,
    Node,
    PackedNet,
    RealDense,
    Relu,
    Sign,
    Threshold,
    Value,
    infer,
    load,
)
from onebit.packed.net import INPUT

__all__ = ["EXECUTORS", "load", "run", "softmax"]

Step = Callable[[np.ndarray], np.ndarray]

_FLOAT32_EXACT = 2**24  # float32 holds every integer up to here, so sums of integers below it are exact in any order


def run(
    net: PackedNet,
    images: np.ndarray,
    *,
    batch_size: int = 1000,
    on_images: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Logits of images; `argmax(axis=1)` of them are the labels.

    Args:
        net: a packed net, see `load`.
        images: (N, C, H, W) uint8 as the net's input says; also (N, H, W) when C is 1.
        batch_size: images computed at once; bounds the memory, not the result.
        on_images: called with (images done, images).

    Returns:
        (N, classes) float32.

    Raises:
        UsageError: images of another shape or dtype.
        FormatError: the net's real parameters make a logit that is not finite.
        NotBinaryError: or a NaN whose sign would be taken.

    Example:
        >>> labels = run(load("mnist.1bit"), images).argmax(axis=1)
    """
    images = _check_images(net.input, images)
    if type(batch_size) is not int or batch_size < 1:
        raise UsageError(f"got batch_size {batch_size!r}, expected a positive integer")
    values = infer(net)
    steps = [EXECUTORS[type(node)](node, *(values[name] for name in node.inputs)) for node in net.nodes]
    last_use = {name: index for index, node in enumerate(net.nodes) for name in node.inputs}
    logits = np.empty((len(images), *values[net.output].shape), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found at the end, once
        for start in range(0, len(images), batch_size):
            batch = {INPUT: _code(net.input, images[start : start + batch_size])}
            for index, (node, step) in enumerate(zip(net.nodes, steps, strict=True)):
                batch[node.output] = step(*(batch[name] for name in node.inputs))
                for name in node.inputs:
                    if last_use[name] == index and name != net.output:
                        batch.pop(name, None)
            logits[start : start + batch_size] = batch[net.output]
            if on_images is not None:
                on_images(min(start + batch_size, len(images)), len(images))
    if not np.isfinite(logits).all():
        raise FormatError(
            f"the net {net.name!r} makes logits that are not finite: its real parameters overflow float32"
        )
    return logits


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities exp(l) / sum(exp(l)) over the last axis: (…, classes) -> float32 of the same shape."""
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


def _check_images(spec: InputSpec, images: Any) -> np.ndarray:
    """`images` as (N, C, H, W) uint8."""
    channels, height, width = spec.shape
    if hasattr(images, "__array__"):  # numpy arrays, and tensors without loading torch
        array = np.asarray(images)
        if array.ndim == 3 and channels == 1:
            array = array[:, np.newaxis]
        if array.dtype == np.uint8 and array.shape[1:] == spec.shape:
            return array
        got = f"{array.dtype} {np.shape(images)}"
    else:
        got = type(images).__name__
    also = f" or (N, {height}, {width})" if channels == 1 else ""
    raise UsageError(f"got images {got}, expected uint8 (N, {channels}, {height}, {width}){also}")


def _code(spec: InputSpec, images: np.ndarray) -> np.ndarray:
    """The value "input" of a batch: int32 or float32, (N, C, H, W)."""
    if spec.mean is None or spec.std is None:
        return images.astype(np.int32) * 2 - 255
    return (images.astype(np.float32) - _per_channel(spec.mean, 4)) / _per_channel(spec.std, 4)


def _per_channel(array: np.ndarray, ndim: int) -> np.ndarray:
    """(C,) shaped to broadcast along axis 1 of a batch with `ndim` axes."""
    return array.reshape(-1, *[1] * (ndim - 2))


def _flatten(node: Flatten, x: Value) -> Step:
    return lambda v: v.reshape(len(v), -1)


def _dense(node: Dense, x: Value) -> Step:
    sums, scale, centre = _sums(node, x), node.scale, node.centre
    if scale is None and centre is None:
        return sums

    def step(v: np.ndarray) -> np.ndarray:
        y = sums(v).astype(np.float32)
        if scale is not None:
            y *= scale
        if centre is not None:
            total = v.sum(axis=1, dtype=np.int64 if x.exact else np.float64, keepdims=True)
            y += total.astype(np.float32) * centre
        return y

    return step


def _sums(node: Dense, x: Value) -> Step:
    """signs · x: int32 for sign and integer values, float32 for real ones."""
    count = node.in_features
    if x.kind == "sign":
        return lambda v: xnor_dot(pack_signs(v), node.signs, count)
    exact_in_float32 = x.bound is not None and count * x.bound <= _FLOAT32_EXACT
    dtype = np.float32 if exact_in_float32 else np.float64
    result = np.int32 if x.exact else np.float32
    weight = unpack_signs(node.signs, count, dtype=dtype).T  # once per run, not per batch
    return lambda v: (v.astype(dtype) @ weight).astype(result)


def _real_dense(node: RealDense, x: Value) -> Step:
    weight = node.weight.astype(np.float64).T
    return lambda v: (v.astype(np.float64) @ weight).astype(np.float32)


def _affine(node: Affine, x: Value) -> Step:
    def step(v: np.ndarray) -> np.ndarray:
        # rounded once, as the fused multiply-add of torch's BatchNorm does: two roundings would differ in the last bit
        y = v.astype(np.float64)
        if node.scale is not None:
            y *= _per_channel(node.scale, v.ndim)
        if node.shift is not None:
            y += _per_channel(node.shift, v.ndim)
        return y.astype(np.float32)

    return step


def _threshold(node: Threshold, x: Value) -> Step:
    def step(v: np.ndarray) -> np.ndarray:
        threshold = _per_channel(node.threshold, v.ndim)
        rising = _per_channel(node.direction > 0, v.ndim)
        return np.where(np.where(rising, v >= threshold, v <= threshold), np.int8(1), np.int8(-1))

    return step


def _sign(node: Sign, x: Value) -> Step:
    return sign


def _relu(node: Relu, x: Value) -> Step:
    return lambda v: np.maximum(v, 0)


def _hardtanh(node: Hardtanh, x: Value) -> Step:
    return lambda v: np.clip(v, -1, 1)


EXECUTORS: dict[type[Node], Callable[..., Callable[..., np.ndarray]]] = {
    Flatten: _flatten,
    Dense: _dense,
    RealDense: _real_dense,
    Affine: _affine,
    Threshold: _threshold,
    Sign: _sign,
    Relu: _relu,
    Hardtanh: _hardtanh,
}
"""For each operation: (node, what is known of its inputs) -> the function of a batch."""
