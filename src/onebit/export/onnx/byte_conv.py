"""A convolution and the requantization of its sums as one QLinearConv, if that gives the same integers.

QLinearConv adds an int32 bias to a sum, multiplies by a float32 scale and rounds to the nearest integer. The bias moves
the sums by whole units only, which is too coarse for most offsets. With weights ±w instead of ±1, it moves them by
multiples of 1/w. For each channel, `scales` searches w, bias and scale that give the right integer for every possible
sum. Both sides are monotonic, so it suffices to check the sums at which one of them rises.
"""

from __future__ import annotations

import numpy as np

from onebit.packed import Conv, Requantize, Value

MAX_WEIGHT = 64
"""Processors without VNNI add two products of a byte and a weight in 16 bits: 2 · 255 · 64 < 2^15."""
_CHANGES = sorted(np.linspace(-8, 8, 129).tolist(), key=abs)
"""Changes of the slope in the order of trial; 1 moves the last of n rises by 1 / n of a sum."""
_FAR = 2**40
"""Beyond all sums."""


def scales(conv: Conv, after: Requantize, x: Value) -> tuple[np.ndarray, ...] | None:
    """Parameters with which a QLinearConv gives the codes of `after`, value - `least`; None if not found.

    Arrays (C,): w of the weights ±w, int64, negative where signs flip; bias, int64; scale, float32.
    """
    ones = (conv.rows > 0).sum(axis=1).tolist()
    low, high = min(0, conv.padding_value, x.limits[0]), max(0, conv.padding_value, x.limits[1])
    offsets = (after.offset - (after.least << after.right_shift)).tolist()
    found = []
    for plus, multiplier, offset in zip(ones, after.multiplier[0].tolist(), offsets, strict=True):
        minus = conv.terms - plus
        if multiplier < 0:
            plus, minus = minus, plus
        limits = plus * low - minus * high, plus * high - minus * low
        rises = rising_sums(abs(multiplier), offset, after)
        one = channel_scales(rises, limits, abs(multiplier) / 2.0**after.right_shift)
        if one is None:
            return None
        weight, bias, scale = one
        found.append((-weight if multiplier < 0 else weight, bias, scale))
    weights, biases, factors = zip(*found, strict=True)
    return np.array(weights, np.int64), np.array(biases, np.int64), np.array(factors, np.float32)


def rising_sums(multiplier: int, offset: int, after: Requantize) -> np.ndarray:
    """(levels,) int64: the smallest sum v with ⌊(multiplier · v + offset) / 2^shift⌋ ≥ 1, 2, …, the largest code."""
    missing = [(level << after.right_shift) - offset for level in range(1, after.most - after.least + 1)]
    sums = [-(-least // multiplier) if multiplier else (2 * least - 1) * _FAR for least in missing]
    return np.array([min(max(v, -_FAR), _FAR) for v in sums])


def channel_scales(rises: np.ndarray, limits: tuple[int, int], slope: float) -> tuple[int, int, float] | None:
    """(w, bias, scale) with which round((w · v + bias) · scale), clipped, is the number of rises up to v.

    That holds for every integer v within `limits`. None if not found. slope: codes per sum.
    """
    inside = (rises > limits[0]) & (rises <= limits[1])
    if not inside.any():
        return 0, int(np.count_nonzero(rises <= limits[0])), 1.0
    rise, level = rises[inside].astype(np.float64), np.flatnonzero(inside) + 1
    w = np.arange(MAX_WEIGHT, 0, -1, dtype=np.float64)
    span = len(level) * max(1.0, rise[-1] - rise[0])
    for change in (change for change in _CHANGES if abs(change) < span):
        scale = (slope * (1 + change / span) / w).astype(np.float32)
        crossed = (level - 0.5) / scale[:, None].astype(np.float64)
        # bounds of the bias for each w
        low = (crossed - w[:, None] * rise).max(axis=1)
        high = (crossed - w[:, None] * (rise - 1)).min(axis=1)
        bias = np.rint((low + high) / 2)
        margin = np.minimum(bias - low, high - bias)
        for index in np.argsort(-margin)[:3]:
            one = int(w[index]), int(bias[index]), float(scale[index])
            if margin[index] > 0 and gives(*one, rises, limits):
                return one
    return None


def gives(w: int, bias: int, scale: float, rises: np.ndarray, limits: tuple[int, int]) -> bool:
    """Whether round((w · v + bias) · scale), clipped, is the number of rises up to v, for every v within `limits`.

    That must also hold with an exact product: some processors add and multiply with one rounding.
    """
    sums = np.unique(np.concatenate([rises - 1, rises, limits]).clip(*limits))
    shifted = w * sums + bias
    if max(abs(int(shifted[0])), abs(int(shifted[-1])), abs(bias)) > np.iinfo(np.int32).max:
        return False
    near, codes = shifted.astype(np.float32), np.searchsorted(rises, sums, side="right")
    products = near * np.float32(scale), near.astype(np.float64) * scale
    return all((np.clip(np.rint(product), 0, len(rises)) == codes).all() for product in products)
