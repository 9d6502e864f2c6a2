"""Integer nets: the activations of an exact net become integers of 8, 4 or 2 bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import pi
from typing import Any, NamedTuple

import numpy as np

from onebit.errors import UsageError
from onebit.integer.conversion import Affines, Conversion, Rounding, float64_or
from onebit.integer.form import Form
from onebit.integer.multipliers import RealRounding
from onebit.integer.operations import CONVERSIONS
from onebit.integer.ranges import Range, find_ranges
from onebit.packed import PackedNet

BITS = 8, 4, 2
_DIFFERS = "the packed net has other operations than the model with rounded activations"


class Calibrated(NamedTuple):
    """An integer net, and the range of each value that was rounded, by its name in the exact net."""

    net: PackedNet
    ranges: dict[str, Range]

    @property
    def beyond(self) -> float:
        """The largest share of numbers that a range clips."""
        return max((found.beyond for found in self.ranges.values()), default=0.0)


def integer_net(packed: PackedNet, images: Any, *, activations: int = 8) -> PackedNet:
    """The integer net of a packed net: real activations become integers of 8, 4 or 2 bits, without retraining.

    BatchNorm, ReLU, a residual sum and the rounding are one operation on exact integer sums, `Requantize`. `Quantize`
    rounds the results of real weights. Pixels keep 8 bits; residual streams that no weights read have 16 bits; logits
    are real. Each value is rounded to multiples of the step that minimizes the mean squared rounding error on `images`.

    Args:
        packed: the exact net, from `onebit.pack`.
        images: training images (N, …) in the input format of the net, with N of 32 or more; 500 are enough.
        activations: bits of an activation: 8, 4 or 2.

    Raises:
        WrongTypeError: not a packed net.
        UsageError: other bits, too few images or another shape, a value that is zero on all images, or a net whose
            activations are ±1 or integers.
        FormatError: values that are NaN or infinite, or sums that may not fit an int32.

    Example:
        >>> small = integer_net(packed, data.train.spread(500).images)  # doctest: +SKIP
        >>> run(small, data.test.images).argmax(axis=1)  # doctest: +SKIP
    """
    return calibrated(packed, images, activations=activations).net


def calibrated(packed: PackedNet, images: Any, *, activations: int = 8) -> Calibrated:
    """An integer net and its ranges. Arguments and errors: see `integer_net`."""
    if activations not in BITS:
        raise UsageError(f"expected activations of {', '.join(map(str, BITS))} bits, got {activations!r}")
    plan, groups = plan_conversion(packed, activations)
    if not plan.roundings and not plan.rounds_pixels:
        raise UsageError("nothing to round: all activations of the net are ±1 or integers")
    ranges = find_ranges(packed, images, list(plan.roundings.values())) if plan.roundings else {}
    # concatenated values share the largest of their steps
    steps = {name: max(ranges[other].step for other in groups[name]) for name in ranges}
    net = Conversion(packed, activations, lambda rounding, _: steps[rounding.name], CONVERSIONS).convert()
    net.check_values()
    return Calibrated(net, ranges)


def rounded_as_trained(
    packed: PackedNet, numbers: Mapping[str, Affines] | None = None
) -> tuple[PackedNet, dict[str, RealRounding]]:
    """The net with the roundings of its training as integer operations, where they follow integers.

    Args:
        numbers: float64 scale and shift of the affine maps of the net, by name.

    Returns:
        The net, and for each requantization what it computes in real arithmetic, by name.
    """
    if not any(node.span for node in packed.nodes):
        return packed, {}
    conversion = Conversion(packed, None, lambda *_: 1.0, CONVERSIONS, numbers)
    return conversion.convert(), conversion.real_roundings


def real_arithmetic(packed: PackedNet, made: PackedNet, activations: int) -> tuple[PackedNet, dict[str, RealRounding]]:
    """The integer net of an exact net with the steps of `made`, and the real arithmetic of its requantizations.

    The steps follow from the numbers in `made`: its multipliers are scales of the exact net divided by a step.

    Raises:
        UsageError: `made` is not an integer net of this exact net.
    """
    _, groups = plan_conversion(packed, activations)
    twins, steps = {node.output: node for node in made.nodes}, dict[str, float]()

    def step(rounding: Rounding, form: Form) -> float:
        group = min(groups[rounding.name])
        if group not in steps:
            steps[group] = _stated_step(twins, conversion.free(rounding.name), form)
        return steps[group]

    conversion = Conversion(packed, activations, step, CONVERSIONS)
    twin = conversion.convert()
    ours, theirs = ([(type(x), x.inputs, x.output) for x in net.nodes] for net in (twin, made))
    if ours != theirs:
        raise UsageError(_DIFFERS)
    return twin, conversion.real_roundings


def _stated_step(twins: Mapping[str, Any], name: str, form: Form) -> float:
    """The step of a rounded value of an integer net: the scales of its form divided by those in front of it."""
    values, ones = [name], np.ones(len(form.shift))
    while values:
        value = values.pop()
        node = twins.get(value)
        if node is not None and "multiplier" in node.arrays and node.inputs == tuple(form.terms):
            scales, stated = list(form.terms.values()), node.multiplier * 2.0**-node.right_shift
        elif value in form.terms:
            scales, stated = [form.terms[value]], ones
        elif node is not None and node.affine and node.inputs[0] in form.terms:
            scales, stated = [form.terms[node.inputs[0]]], ones * float64_or(node.scale, 1.0)
        elif node is None:
            break
        else:
            values += node.inputs
            continue
        total, divided = (float(np.abs(numbers).sum()) for numbers in (scales, stated))
        return total / divided if total and divided else 1.0
    raise UsageError(_DIFFERS)


def plan_conversion(packed: PackedNet, activations: int) -> tuple[Conversion, dict[str, frozenset[str]]]:
    """A conversion with placeholder steps, and for each rounded value the group that shares its step."""
    groups: dict[str, frozenset[str]] = {}
    while True:
        plan = Conversion(packed, activations, _distinct_steps(groups), CONVERSIONS)
        plan.convert()
        found = _groups(plan.roundings, plan.joined)
        if found == groups:
            return plan, groups
        groups = found


def _distinct_steps(groups: dict[str, frozenset[str]]) -> Callable[[Rounding, Form], float]:
    """A different step for each group.

    No step is 1, even times a scale: borders of ±1 are multiples of 1, but not of the final steps.
    """
    steps: dict[str, float] = {}

    def step(rounding: Rounding, _: Form) -> float:
        group = min(groups.get(rounding.name, [rounding.name]))
        return steps.setdefault(group, (pi + len(steps)) / 1024)

    return step


def _groups(names: Iterable[str], joined: list[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """The connected components of pairs of names, by name."""
    groups = {name: frozenset([name]) for name in names}
    for one, two in joined:
        both = groups[one] | groups[two]
        groups |= dict.fromkeys(both, both)
    return groups
