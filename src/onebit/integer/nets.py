"""Integer nets: the activations of an exact net become integers of few bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from onebit.errors import UsageError
from onebit.integer.conversion import Conversion, Rounding
from onebit.integer.operations import CONVERSIONS
from onebit.integer.ranges import Range, find_ranges
from onebit.packed import PackedNet, Quantize, check_net

BITS = 8, 4, 2


class Calibrated(NamedTuple):
    """An integer net, and the range of each value that was rounded, by its name in the exact net."""

    net: PackedNet
    ranges: dict[str, Range]

    @property
    def beyond(self) -> float:
        """The largest share of numbers that a range cuts off."""
        return max((found.beyond for found in self.ranges.values()), default=0.0)


def integer_net(packed: PackedNet, images: Any, *, activations: int = 8) -> PackedNet:
    """The integer net of a packed net with real activations: they become integers of few bits, without retraining.

    BatchNorm, ReLU, a residual sum and the rounding are one operation on exact integer sums, `Requantize`. What follows
    real weights is rounded by `Quantize`. Pixels keep 8 bits. Residual streams that no weights read have 16 bits. The
    logits are real. Each value is rounded to multiples of a step, which minimizes the mean squared rounding error of
    what the exact net computes for `images`.

    Args:
        packed: the exact net, from `onebit.pack`.
        images: some training images as the net takes them, (N, …) with N of 32 or more; 500 are enough.
        activations: bits of an activation: 8, 4 or 2.

    Raises:
        UsageError: other bits, too few images, a value that is zero for all of them, or a net whose activations are ±1
            or integers already.
        FormatError: values that are NaN or infinite, or sums that may not fit an int32; the message names the layer.

    Example:
        >>> small = integer_net(packed, data.train.spread(500).images)  # doctest: +SKIP
        >>> run(small, data.test.images).argmax(axis=1)  # doctest: +SKIP
    """
    return calibrated(packed, images, activations=activations).net


def calibrated(packed: PackedNet, images: Any, *, activations: int = 8) -> Calibrated:
    """An integer net and its ranges. Arguments and errors: see `integer_net`."""
    check_net(packed)
    if type(activations) is not int or activations not in BITS:
        raise UsageError(f"got activations of {activations!r} bits, expected {', '.join(map(str, BITS))}")
    plan, groups = _planned(packed, activations)
    if not plan.roundings and not plan.rounds_pixels:
        raise UsageError("all activations of the net are ±1 or integers already: there is nothing to round")
    ranges = find_ranges(packed, images, list(plan.roundings.values())) if plan.roundings else {}
    # values that are concatenated have one step, the largest of theirs
    steps = {name: max(ranges[other].step for other in groups[name]) for name in ranges}
    net = Conversion(packed, activations, lambda rounding: steps[rounding.name], CONVERSIONS).convert()
    net.check_values()
    return Calibrated(net, ranges)


def rounded_as_trained(packed: PackedNet) -> PackedNet:
    """The net with the roundings that it was trained with, where they follow integers, as integer operations."""
    if not any(isinstance(node, Quantize) for node in packed.nodes):
        return packed
    return Conversion(packed, None, lambda rounding: 1.0, CONVERSIONS).convert()


def _planned(packed: PackedNet, activations: int) -> tuple[Conversion, dict[str, frozenset[str]]]:
    """What will be rounded, and for each value those that must have the same step."""
    groups: dict[str, frozenset[str]] = {}
    while True:
        plan = Conversion(packed, activations, _apart(groups), CONVERSIONS)
        plan.convert()
        found = _groups(plan.roundings, plan.joined)
        if found == groups:
            return plan, groups
        groups = found


def _apart(groups: dict[str, frozenset[str]]) -> Callable[[Rounding], float]:
    """Another step for each group, so that values that will differ in their steps do so in a plan already."""
    steps: dict[str, float] = {}
    return lambda rounding: steps.setdefault(min(groups.get(rounding.name, [rounding.name])), 1 + len(steps) / 1024)


def _groups(names: Iterable[str], joined: list[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """For each name all those joined with it, also through others."""
    groups = {name: frozenset([name]) for name in names}
    for one, two in joined:
        both = groups[one] | groups[two]
        groups |= dict.fromkeys(both, both)
    return groups
