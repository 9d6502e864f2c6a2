"""Integer multipliers, offsets and a shift that round an affine map of integers."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, frexp
from typing import NamedTuple

import numpy as np

from onebit.packed.nodes.node import MOST_SHIFT
from onebit.packed.nodes.rounding import EXACT_LIMIT

MOST_OFF = 2.0**-8
"""Numbers are taken if they decide otherwise than the exact affine map only this near to a tie."""
_MOST_MULTIPLIER = 2**31 - 1


class Multipliers(NamedTuple):
    """The numbers of a `Requantize` node.

    multiplier: (inputs, C) int32. offset: (C,) int64. shift: an integer.
    off: the largest |difference| from the exact affine map before rounding, over all integers within the bounds: where
        the exact number is farther than this from a tie, the two round alike.
    """

    multiplier: np.ndarray
    offset: np.ndarray
    shift: int
    off: float


def multipliers(scales: np.ndarray, constant: np.ndarray, bounds: Sequence[int]) -> Multipliers | None:
    """Numbers with which ⌊(Σᵢ multiplier[i] · xᵢ + offset) / 2^shift⌋ rounds Σᵢ scales[i] · xᵢ + constant, half up.

    The shift is the largest with which all magnitudes are exact, see `Requantize`.

    Args:
        scales: (inputs, C) float64.
        constant: (C,) float64.
        bounds: the largest magnitude of each xᵢ.

    Returns:
        None if the numbers are so large that `off` would be above `MOST_OFF`.
    """
    bound = np.array(bounds, np.float64)
    reach = bound @ np.abs(scales) + np.abs(constant)
    largest, scale = float(reach.max()), float(np.abs(scales).max())
    if not largest < EXACT_LIMIT:  # also NaN
        return None
    # the next power of two above each magnitude leaves room for the roundings, and for half of 2^shift
    shift = min(MOST_SHIFT, 51 - frexp(largest + 1)[1], 31 - frexp(scale)[1])
    if np.rint(np.ldexp(scale, shift)) > _MOST_MULTIPLIER:
        shift -= 1
    off = float(bound.sum() + 1) / 2 / 2.0**shift  # each number is rounded by half a unit or less
    if shift < 1 or off > MOST_OFF:
        return None
    multiplier = np.rint(np.ldexp(scales, shift))
    offset = np.rint(np.ldexp(constant, shift)).astype(np.int64) + 2 ** (shift - 1)
    return Multipliers(multiplier.astype(np.int32), offset, shift, off)


def half_up(x: float) -> float:
    """x rounded to an integer, ties up; infinities stay."""
    return floor(x + 0.5) if abs(x) < EXACT_LIMIT else x
