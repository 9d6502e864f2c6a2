"""Integer multipliers, offsets and a shift that round an affine map of integers, and their error."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, frexp
from typing import Any, NamedTuple

import numpy as np

from onebit.packed.nodes import Requantize
from onebit.packed.nodes.node import INT32, MAX_SHIFT
from onebit.packed.nodes.rounding import EXACT_LIMIT

MAX_OFF = 2.0**-8
"""The numbers may round differently from the exact affine map only this near to a tie."""
ERROR = 2.0**-44
"""Bound of the error of float64 numbers, as a fraction of the largest magnitude they lead to: 9 bits above one
rounding, for tens of roundings and for differences that lose digits."""


class RealRounding(NamedTuple):
    """min(max(round(Σᵢ scales[i] · xᵢ + shift), least), most) per channel, which a `Requantize` node computes.

    values: names of the integers xᵢ. scales: (inputs, C) float64. shift: (C,) float64. Both are those of the trained
    net in units of the result, within `ERROR`.
    """

    values: tuple[str, ...]
    scales: np.ndarray
    shift: np.ndarray
    least: int
    most: int


def multipliers(scales: np.ndarray, constant: np.ndarray, bounds: Sequence[Any]) -> dict[str, Any] | None:
    """The fields of a `Requantize` node that rounds Σᵢ scales[i] · xᵢ + constant, half up.

    It computes ⌊(Σᵢ multiplier[i] · xᵢ + offset) / 2^right_shift⌋, with the largest shift with which all magnitudes are
    exact.

    Args:
        scales: (inputs, C) float64.
        constant: (C,) float64.
        bounds: the largest magnitude of each integer xᵢ.

    Returns:
        None if the numbers are so large that they round differently farther than `MAX_OFF` from a tie.
    """
    bound = np.array(bounds, np.float64)
    largest, scale = float((bound @ np.abs(scales) + np.abs(constant)).max()), float(np.abs(scales).max())
    if not largest < EXACT_LIMIT:  # true for NaN
        return None
    # the next power of two above each magnitude leaves a margin for the roundings, and for half of 2^shift
    shift = min(MAX_SHIFT, 51 - frexp(largest + 1)[1], 31 - frexp(scale)[1])
    if np.rint(np.ldexp(scale, shift)) > INT32.max:
        shift -= 1
    # each number is rounded by half a unit or less
    if shift < 1 or float(bound.sum() + 1) / 2 / 2.0**shift > MAX_OFF:
        return None
    multiplier = np.rint(np.ldexp(scales, shift)).astype(np.int32)
    offset = np.rint(np.ldexp(constant, shift)).astype(np.int64) + 2 ** (shift - 1)
    return {"multiplier": multiplier, "offset": offset, "right_shift": shift}


def half_up(x: float) -> float:
    """x rounded to an integer, ties up; infinities stay."""
    return floor(x + 0.5) if abs(x) < EXACT_LIMIT else x


def largest_error(node: Requantize, real: RealRounding, limits: Sequence[tuple[int, int]]) -> float:
    """Bound of |node - real arithmetic| before rounding; infinite for other inputs or limits.

    Farther than this from a tie the results are equal; elsewhere they differ by at most 1.

    Args:
        limits: the smallest and the largest integer of each input.
    """
    if (node.inputs, node.least, node.most) != (real.values, real.least, real.most):
        return np.inf
    multiplier, half = node.multiplier.astype(np.float64), 2**node.right_shift // 2
    bounds = np.array([max(-low, high) for low, high in limits], np.float64)
    reach = bounds @ np.abs(real.scales) + np.abs(real.shift)
    error = ERROR * (reach + max(-node.least, node.most) + 1)
    unit = 2.0**-node.right_shift
    apart = bounds @ np.abs(multiplier * unit - real.scales) + np.abs((node.offset - half) * unit - real.shift)
    return float((apart + error).max())
