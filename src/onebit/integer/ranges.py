"""The step of each rounded activation, found on some images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from onebit.errors import UsageError
from onebit.integer.conversion import Rounding
from onebit.packed import PackedNet
from onebit.packed.net import MAX_OUTPUTS, needed
from onebit.runtime import run
from onebit.runtime.input_batch import as_batches

MIN_IMAGES = 32
_SAMPLE = 1 << 16
"""Numbers drawn of a value, to compare them with their roundings."""
_AT_ONCE = 1 << 25
"""Most numbers of all values of a batch."""
_FINER, _CANDIDATES = 16, 97
"""Candidates of a range: the largest magnitude divided by powers of 2^(1/16), down to a 64th."""
_HEADROOM = 2
"""A residual stream may be twice as large as in the calibration."""


class Range(NamedTuple):
    """The step of a rounded value, and the share of the sampled numbers that its range clips."""

    step: float
    beyond: float


def find_ranges(net: PackedNet, images: Any, roundings: Sequence[Rounding]) -> dict[str, Range]:
    """The range of each value to be rounded, by name: it minimizes the mean squared rounding error on the images."""
    inputs = as_batches(net, images)
    count = inputs[0].shape[0]
    if count < MIN_IMAGES:
        raise UsageError(f"expected at least {MIN_IMAGES} images to calibrate ranges, got {count}")
    found = {}
    for start in range(0, len(roundings), MAX_OUTPUTS):
        part = roundings[start : start + MAX_OUTPUTS]
        samples = _samples(net, inputs, [rounding.name for rounding in part])
        for rounding in part:
            numbers, largest = samples[rounding.name]
            found[rounding.name] = _range_of(rounding, numbers, largest, count)
    return found


def _samples(net: PackedNet, inputs: list[Any], names: list[str]) -> dict[str, tuple[np.ndarray, float]]:
    """Numbers of each value drawn with a fixed seed, and the largest magnitude of all."""
    rng, count = np.random.default_rng(0), inputs[0].shape[0]
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in names}
    largest = dict.fromkeys(names, 0.0)
    size = max(1, _AT_ONCE // sum(prod(net.values[name].shape) for name in names))
    # inner values become outputs, so that the native library computes them
    given = [*net.inputs]
    inside = [name for name in names if name not in given]
    if inside:
        made = needed(net.nodes, inside)
        read = {name for node in made for name in node.inputs}
        specs = {name: spec for name, spec in net.inputs.items() if name in read}
        net = replace(net, inputs=specs, nodes=made, output=tuple(inside), classes=None, certificate=None, card=None)
    for start in range(0, count, size):
        values = {name: np.asarray(part[start : start + size]) for name, part in zip(given, inputs, strict=True)}
        if inside:
            values |= zip(inside, run(net, {name: values[name] for name in net.inputs}), strict=True)
        share = -(-_SAMPLE * min(size, count - start) // count)
        for name in names:
            numbers = values[name].reshape(-1)
            largest[name] = max(largest[name], float(np.abs(numbers).max(initial=0)))
            drawn[name].append(numbers[rng.integers(0, numbers.size, share)] if share < numbers.size else numbers)
    return {name: (np.concatenate(drawn[name]).astype(np.float64), largest[name]) for name in names}


def _range_of(rounding: Rounding, numbers: np.ndarray, largest: float, images: int) -> Range:
    if largest == 0:
        raise UsageError(f"{rounding.name} is 0 on all {images} calibration images, so it has no range")
    if rounding.sums:
        return Range(_HEADROOM * largest / rounding.most, 0.0)
    errors = []
    steps = [largest / rounding.most * 2 ** (-k / _FINER) for k in range(_CANDIDATES)]
    for step in steps:
        rounded = np.clip(np.floor(numbers / step + 0.5), rounding.least, rounding.most)
        errors.append(float(np.square(rounded * step - numbers).sum()))
    step = steps[int(np.argmin(errors))]
    cut = (numbers >= (rounding.most + 0.5) * step) | (numbers < (rounding.least - 0.5) * step)
    return Range(step, float(np.count_nonzero(cut)) / numbers.size)
