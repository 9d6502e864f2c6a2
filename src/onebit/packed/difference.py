"""Differences of two packed nets: of their graphs, and array by array."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from onebit.errors import short
from onebit.packed.net import PackedNet
from onebit.packed.node_text import to_lines

_RELATIVE = 1e-5
_SPACING = 2
"""Distance of neighboring sums of ±1, which are all even or all odd."""


class Difference(NamedTuple):
    """An array that differs between two nets.

    node, field: name of the array.
    differing, size: how many numbers or signs differ, and how many there are.
    rounding: whether rounding on another processor or version of torch explains the difference: signs and directions
        are equal, thresholds differ by at most one possible sum (where `onebit.verification` requires a tie), other
        integers by at most 1 plus 1e-5, and real numbers by at most 1e-5, relative to the numbers of the same channel,
        see `_sizes`.
    """

    node: str
    field: str
    differing: int
    size: int
    rounding: bool

    def __str__(self) -> str:
        return f"{self.differing:,} of {self.size:,} values of {self.field} of {self.node}"


def graph_difference(net: PackedNet, other: PackedNet) -> str | None:
    """The first difference apart from arrays, certificates and cards, in words; None if there is none."""
    parts: list[tuple[str, Any, Any]] = [("inputs", [*net.inputs], [*other.inputs])]
    for spec, twin in zip(net.inputs.values(), other.inputs.values(), strict=False):
        parts += [(f"input {item.name}", getattr(spec, item.name), getattr(twin, item.name)) for item in fields(spec)]
    parts += [("node", *lines) for lines in zip_longest(to_lines(net.nodes), to_lines(other.nodes))]
    parts += [(name, getattr(net, name), getattr(other, name)) for name in ("output", "classes", "name")]
    for what, here, there in parts:
        if here != there if isinstance(here, dict) else not np.array_equal(here, there):
            return f"{what} {short(here)} instead of {short(there)}"
    return None


def array_differences(net: PackedNet, other: PackedNet) -> Iterator[Difference]:
    """The arrays that differ in any bit between two nets with the same graph."""
    for node, twin in zip(net.nodes, other.nodes, strict=True):
        for field, here in node.stored.items():
            there = twin.stored[field]
            bits, close = here.view(f"u{here.itemsize}") ^ there.view(f"u{here.itemsize}"), False
            if not bits.any():
                continue
            if field not in ("signs", "direction"):
                rounded = field in ("multiplier", "offset")  # to integers
                allowed = _SPACING if field == "threshold" else _RELATIVE * _sizes(twin, field) + rounded
                close = bool((np.abs(here.astype(np.float64) - there) <= allowed).all())
            signs = field == "signs"
            count = int(np.bitwise_count(bits).sum()) if signs else int(np.count_nonzero(bits))
            yield Difference(node.output, field, count, node.binary_weights if signs else here.size, close)


def _sizes(node: Any, field: str) -> np.ndarray:
    """What the differences of an array are relative to: numbers of the same channel.

    Shifts, offsets and centers are differences of two numbers and may be far smaller than these.
    """
    array = np.abs(getattr(node, field).astype(np.float64))
    if field == "weight":
        return array.max(axis=1, keepdims=True)
    scale = getattr(node, "scale", None)
    if field == "centre":
        return np.maximum(array, 1 if scale is None else np.abs(scale))
    if field == "shift" and scale is not None and scale.any():
        scale = np.abs(scale.astype(np.float64))
        # the size of the values that were subtracted, as most channels have it; at most as if all had the largest one
        values = min(np.median(array[scale > 0] / scale[scale > 0]), array.max() / scale.max())
        return np.maximum(array, scale * values)
    if field == "offset":
        return np.maximum(array, 2.0**node.right_shift * max(-node.least, node.most))
    return array
