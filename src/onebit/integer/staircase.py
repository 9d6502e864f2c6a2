"""Proof of requantizations: over all integers that can occur, where the integer rule and real arithmetic differ.

In each channel both are staircases. They are compared step by step: the smallest integer from which the rule gives a
result, in int64, with the one from which real arithmetic gives it, in float64 with a bound of its error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from onebit.packed.nodes import Requantize

ERROR = 2.0**-44
"""Bound of the error of numbers in float64, as a fraction of the largest magnitude they lead to: 9 bits more than one
rounding, for tens of roundings and for differences that lose digits."""
MOST_STEPS = 2**26
"""Steps of a node that are compared one by one; of more, the distance of the weighted sum from a step is counted."""
_BLOCK = 1 << 18
_BEYOND = 2.0**53  # no magnitude before the division reaches it
_MOST_COUNT = 2**63 - 1  # of a certificate


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


class Proved(NamedTuple):
    """How a requantization compares with real arithmetic, over all integers within the limits of its inputs.

    off: bound of the |difference| before rounding; infinite for other limits of the result. Where the real number is
        farther than this from a tie, the results are equal; elsewhere they differ by 1 if it is below 1.
    exact: every integer was decided. If not, weighted sums of several inputs were: Σᵢ multiplier[i] · xᵢ + offset.
    integers: (channel, integers) pairs, or weighted sums of all channels.
    differing: those for which the result differs, or is as near to a tie as `ERROR`; of weighted sums, those for which
        it may differ. Counted only if `off` is below 1/2.
    """

    off: float
    exact: bool = False
    integers: int = 0
    differing: int = 0


def proved(node: Requantize, real: RealRounding, limits: Sequence[tuple[int, int]]) -> Proved:
    """Compare a node with real arithmetic.

    Args:
        limits: the smallest and the largest integer of each input; the node passes `check_values` for them.
    """
    if (node.inputs, node.least, node.most) != (real.values, real.least, real.most):
        return Proved(np.inf)
    multiplier, half = node.multiplier.astype(np.float64), 2**node.right_shift // 2
    bounds = np.array([max(-low, high) for low, high in limits], np.float64)
    reach = bounds @ np.abs(real.scales) + np.abs(real.shift)
    error = ERROR * (reach + max(-node.least, node.most) + 1)
    unit = 2.0**-node.right_shift
    apart = bounds @ np.abs(multiplier * unit - real.scales) + np.abs((node.offset - half) * unit - real.shift)
    off = float((apart + error).max())
    if not off < 0.5:  # also NaN
        return Proved(off)
    sizes = [high - low + 1 for low, high in limits]
    others = prod(sizes) // max(sizes)
    if others * len(node.offset) * (node.most - node.least) <= MOST_STEPS:
        integers = prod(sizes) * len(node.offset)
        return Proved(off, True, integers, sum(_differing(node, real, limits, error)))
    return Proved(off, False, *_near_steps(node, apart + error, limits))


def _differing(
    node: Requantize, real: RealRounding, limits: Sequence[tuple[int, int]], error: np.ndarray
) -> Iterator[int]:
    """The number of differing pairs, in parts: steps of the widest input, for all integers of the others."""
    widest = int(np.argmax([high - low for low, high in limits]))
    low, high = limits[widest]
    scale, multiplier = real.scales[widest], node.multiplier[widest].astype(np.int64)
    # mirrored where the staircase falls; 0 where it is flat and stays as it is
    turn = np.where(scale != 0, np.sign(scale), np.sign(multiplier)).astype(np.int64)
    scale, multiplier = scale * turn, multiplier * turn
    first, end = np.where(turn < 0, -high, low), np.where(turn < 0, -low, high) + 1
    others = [range(low, high + 1) if at != widest else range(1) for at, (low, high) in enumerate(limits)]
    sizes = [len(numbers) for numbers in others]
    width = max(1, _BLOCK // len(scale))
    for least in range(node.least, node.most, width):
        levels = np.arange(least + 1, min(least + width, node.most) + 1)
        steps = np.clip(levels * 2.0**node.right_shift, -_BEYOND, _BEYOND).astype(np.int64)
        rows = max(1, width // len(levels))
        for start in range(0, prod(sizes), rows):
            at = np.unravel_index(np.arange(start, min(start + rows, prod(sizes))), sizes)
            given = [place + numbers.start for place, numbers in zip(at, others, strict=True)]
            shift, offset = np.zeros((len(given[0]), len(scale))), np.zeros((len(given[0]), len(scale)), np.int64)
            for x, own, whole in zip(given, real.scales, node.multiplier, strict=True):
                shift += x[:, None] * own
                offset += x[:, None] * whole.astype(np.int64)
            numbers = (scale, shift + real.shift, error, multiplier, offset + node.offset, first, end)
            yield int(_between(*(a[..., None] for a in numbers), ties=levels - 0.5, steps=steps).sum())


def _between(
    scale: np.ndarray,
    shift: np.ndarray,
    error: np.ndarray,
    multiplier: np.ndarray,
    offset: np.ndarray,
    first: np.ndarray,
    end: np.ndarray,
    *,
    ties: np.ndarray,
    steps: np.ndarray,
) -> np.ndarray:
    """For each step the number of integers from `first` to before `end` that are on other sides of it.

    The rule is above where multiplier · x + offset >= step, real arithmetic where scale · x + shift > tie; scales are 0
    or more.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        # the rule is above from here on, or before it where it falls though real arithmetic does not
        step = -((offset - steps) // np.maximum(multiplier, 1))
        step = np.where(multiplier == 0, np.where(offset < steps, end, first), step)
        step = np.where(multiplier < 0, (offset - steps) // np.maximum(-multiplier, 1) + 1, step)
        # twice the error, for those of this subtraction and division
        below, above = (ties - shift + slack for slack in (-2 * error, 2 * error))
        # all integers from `sure` on are above, none before `maybe` is
        sure = np.where(scale > 0, np.floor(above / scale) + 1, np.where(above < 0, first, end))
        maybe = np.where(scale > 0, np.ceil(below / scale), np.where(below > 0, end, first))
    step, sure, maybe = (np.clip(x, first, end).astype(np.int64) for x in (step, sure, maybe))
    return np.where(
        multiplier < 0,
        np.minimum(step, sure) - first + end - np.maximum(step, maybe),
        np.maximum(sure - step, 0) + np.maximum(step - maybe, 0),
    )


def _near_steps(node: Requantize, apart: np.ndarray, limits: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The number of weighted sums, and of those as near to a step as `apart`, of which each real number is away."""
    integers = differing = 0
    levels = np.arange(node.least + 1, node.most + 1)
    steps = np.clip(levels * 2.0**node.right_shift, -_BEYOND, _BEYOND).astype(np.int64)
    ends = np.array(limits, np.int64)
    for channel, near in enumerate(np.ceil(apart * 2.0**node.right_shift).astype(np.int64)):
        products = ends * node.multiplier[:, channel, None].astype(np.int64)
        low, high = (np.sort(products).sum(axis=0) + node.offset[channel]).tolist()
        integers += high - low + 1
        differing += int(np.maximum(np.minimum(steps + near, high) - np.maximum(steps - near, low) + 1, 0).sum())
    return min(integers, _MOST_COUNT), min(differing, integers, _MOST_COUNT)  # sums may be near two steps
