"""How far the integer rule of a requantization is from real arithmetic, over all integers that can occur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onebit.packed.nodes import Requantize

ERROR = 2.0**-44
"""Bound of the error of numbers in float64, as a fraction of the largest magnitude they lead to: 9 bits more than one
rounding, for tens of roundings and for differences that lose digits."""


class RealRounding(NamedTuple):
    """min(max(round(Σᵢ scales[i] · xᵢ + shift), least), most), per channel, which a `Requantize` node is to compute.

    values: names of the integers xᵢ. scales: (inputs, C) float64. shift: (C,) float64. They are those of the trained
    net, in units of the result, and right to within `ERROR`.
    """

    values: tuple[str, ...]
    scales: np.ndarray
    shift: np.ndarray
    least: int
    most: int


def largest_error(node: Requantize, real: RealRounding, limits: Sequence[tuple[int, int]]) -> float:
    """Bound of the |difference| between a node and real arithmetic before rounding; infinite for other limits.

    Where the real number is farther than this from a tie, the results are equal; elsewhere they differ by at most 1.

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
