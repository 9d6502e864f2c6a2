"""Where two packed nets differ: in their graphs, and array by array."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from onebit.packed.lines import arrays_of, to_lines
from onebit.packed.net import PackedNet
from onebit.packed.nodes import Node
from onebit.packed.strict import short

_RELATIVE = 1e-5
_STEP = 2
"""Neighbouring sums of an even or odd number of ±1 are 2 apart."""


class Difference(NamedTuple):
    """One array that two nets do not share.

    node, field: where it belongs.
    differing: how many of its numbers, or signs; size: of all.
    largest: |difference|.
    rounding: it is no more than the rounding of another processor or version of torch can make: signs and directions
        are equal, no threshold is more than one step away, and no real number by more than 1e-5 of the largest one, or
        of 1 if that is larger in a shift, which is a difference of two numbers.
    """

    node: str
    field: str
    differing: int
    size: int
    largest: float
    rounding: bool

    def __str__(self) -> str:
        largest = f" (by at most {self.largest:.2g})" if self.field not in ("signs", "direction") else ""
        return f"{self.differing:,} of {self.size:,} values of {self.field} of {self.node}{largest}"


def graph_difference(net: PackedNet, other: PackedNet) -> str | None:
    """The first thing besides arrays of nodes that two nets do not share, in words; certificates are not compared."""
    parts = [
        (f"input {name}", getattr(net.input, name), getattr(other.input, name))
        for name in ("shape", "coding", "mean", "std")
    ]
    lines, others = to_lines(net.nodes), to_lines(other.nodes)
    parts += [("number of nodes", len(lines), len(others))]
    parts += [("node", line, another) for line, another in zip(lines, others, strict=False)]
    parts += [(name, getattr(net, name), getattr(other, name)) for name in ("output", "classes", "name")]
    for what, here, there in parts:
        if not np.array_equal(here, there):
            return f"{what} {short(here)} instead of {short(there)}"
    return None


def array_differences(net: PackedNet, other: PackedNet) -> Iterator[Difference]:
    """The arrays in which two nets of one graph differ, bit for bit, node by node."""
    for node, twin in zip(net.nodes, other.nodes, strict=True):
        for (field, here), (_, there) in zip(arrays_of(node), arrays_of(twin), strict=True):
            if here.tobytes() != there.tobytes():
                yield _difference(node, field, here, there)


def _difference(node: Node, field: str, here: np.ndarray, there: np.ndarray) -> Difference:
    if field == "signs":
        count = int(np.unpackbits((here ^ there).view(np.uint8)).sum())
        return Difference(node.output, field, count, node.binary_weights, 2.0, False)
    apart = np.abs(here.astype(np.float64) - there)
    count = int(np.count_nonzero(here.view(f"u{here.itemsize}") != there.view(f"u{there.itemsize}")))
    if field == "threshold":
        close = bool((apart <= _STEP).all())
    else:
        most = np.abs(there.astype(np.float64)).max()
        close = field != "direction" and bool((apart <= _RELATIVE * max(most, field == "shift")).all())
    return Difference(node.output, field, count, here.size, float(apart.max()), close)
