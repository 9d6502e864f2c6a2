"""Compares an exported net with the packed net on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from onebit.errors import OnebitError
from onebit.packed import PackedNet

MAX_LABELS = 0.05
"""Largest share of labels that may differ if a target adds real numbers in another order. Rounding changes about one
label in a hundred; a wrong graph changes most of them."""
MAX_DISTANCE = 1e-3
"""Largest relative difference: the median over logits, the maximum over other outputs."""


class Comparison(NamedTuple):
    """How the outputs of an exported net differ from those of the packed net.

    samples, what: number and description of the inputs; runs_with: what ran the exported net.
    labels, label_mismatches: number of labels (pixels of masks), and how many differ; None if outputs are not logits.
    largest: largest |difference|; relative: largest difference relative to the largest number of its output, for
    regressions relative to the range of each number; median: largest median of an output's relative differences.
    bit_exact: whether all bits are equal. noun: "labels" or "pixels".
    """

    samples: int
    what: str
    runs_with: str
    labels: int | None
    label_mismatches: int | None
    largest: float
    relative: float
    median: float
    bit_exact: bool
    noun: str = "labels"

    def __str__(self) -> str:
        found = "every bit equal" if self.bit_exact else f"largest difference {self.largest:.2g}"
        if self.label_mismatches is not None:
            found = f"{self.label_mismatches:,} of {self.labels:,} {self.noun} differ, {found}"
        return f"compared with the packed net on {self.what}, run with {self.runs_with}: {found}"

    def check(self, *, exact: bool) -> None:
        """Raise OnebitError if the differences are too large; with `exact`, if any bit differs."""
        wrong = self.relative > MAX_DISTANCE
        if self.label_mismatches is not None and self.labels:
            wrong = self.label_mismatches > MAX_LABELS * self.labels or self.median > MAX_DISTANCE
        if wrong or (exact and not self.bit_exact):
            raise OnebitError(
                f"the exported net differs from the packed net: {self}; nothing was written; please report this"
            )


def compare(
    net: PackedNet, expected: dict[str, np.ndarray], found: dict[str, np.ndarray], *, what: str, runs_with: str
) -> Comparison:
    """Compare outputs by name, each (N, …) float32."""
    largest = relative = median = 0.0
    exact = True
    for name in net.outputs:
        here, there = expected[name], found[name]
        if there.shape != here.shape or there.dtype != here.dtype:
            shapes = f"{there.dtype} {there.shape}, expected {here.dtype} {here.shape}"
            raise OnebitError(f"output {name!r} of the exported net is {shapes}")
        exact &= here.tobytes() == there.tobytes()
        apart = np.abs(here - there)
        apart[~np.isfinite(apart)] = np.inf
        share = apart / (_ranges(here) if net.compared == "values" else float(np.abs(here).max()) or 1.0)
        largest = max(largest, float(apart.max()))
        relative = max(relative, float(share.max()))
        median = max(median, float(np.median(share)))
    labels, others = _labels(net, expected), _labels(net, found)
    size, mismatches = (None, None) if labels is None else (labels.size, int(np.count_nonzero(labels != others)))
    logits = expected[net.outputs[0]]
    noun = "pixels" if net.compared == "labels" and logits.ndim == 4 else "labels"
    return Comparison(len(logits), what, runs_with, size, mismatches, largest, relative, median, exact, noun)


def _labels(net: PackedNet, outputs: dict[str, np.ndarray]) -> np.ndarray | None:
    """The label of each sample or pixel, or whether each of several labels applies; None if outputs are not logits."""
    logits = outputs[net.outputs[0]]
    if not isinstance(net.output, str) or net.compared == "values":
        return None
    if net.compared == "multi-label":
        return logits > 0
    return logits.argmax(axis=1) if logits.ndim in (2, 4) and logits.shape[1] > 1 else None


def run_in_batches(
    compute: Callable[..., dict[str, np.ndarray]], inputs: Sequence[np.ndarray], size: int
) -> dict[str, np.ndarray]:
    """The outputs of `compute` by name, called with at most `size` samples of each input at once."""
    starts = range(0, len(inputs[0]), size)
    parts = [compute(*(part[start : start + size] for part in inputs)) for start in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def split_outputs(net: PackedNet, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Split (N, numbers of all outputs in the order of `net.outputs`) into outputs by name, (N, …)."""
    shapes = [net.values[name].shape for name in net.outputs]
    parts = np.split(numbers, np.cumsum([prod(shape) for shape in shapes])[:-1], axis=1)
    return {name: part.reshape(-1, *shape) for name, part, shape in zip(net.outputs, parts, shapes, strict=True)}


def _ranges(values: np.ndarray) -> np.ndarray:
    """The range of each number of an output (N, C, …), to broadcast.

    At least a hundredth of its magnitude: numbers that hardly vary differ by rounding.
    """
    axes = tuple(axis for axis in range(values.ndim) if axis != 1)
    most = np.abs(values).max(axis=axes, keepdims=True)
    found = np.maximum(np.ptp(values, axis=axes, keepdims=True), most / 100)
    return np.where(found > 0, found, 1)
