"""The order of elements in memory, and the copies that change it.

A value (A, B, C, …) is in memory as (B, C, …, A): its channels, the first axis, are contiguous. An image (C, H, W) is
in NHWC order; any other value is an image with a single row.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

from onebit.native.abi import AXES


class NotPlanned(Exception):
    """The library cannot run a net, but the reference executor can."""


class Axis(NamedTuple):
    """An axis of a copy: number of elements, and units between neighbors in the source and in the target."""

    size: int
    source: int
    target: int


def image_of(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """A value of any shape as an image (C, H, W)."""
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    return (shape[0], 1, prod(shape[1:])) if shape else (1, 1, 1)


def strides(shape: Sequence[int]) -> list[int]:
    """Units between neighbors along each axis."""
    return [1, *(shape[0] * prod(shape[axis + 1 :]) for axis in range(1, len(shape)))][: len(shape)]


def merged(axes: list[Axis]) -> list[Axis]:
    """The same copy with the fewest axes, the most distant targets first; [Axis(n, 1, 1)] copies in order."""
    result: list[Axis] = []
    for axis in sorted((axis for axis in axes if axis.size > 1), key=lambda axis: -axis.target):
        outer = result[-1] if result else None
        if outer and outer.source == axis.source * axis.size and outer.target == axis.target * axis.size:
            result[-1] = Axis(outer.size * axis.size, axis.source, axis.target)
        else:
            result.append(axis)
    return result or [Axis(1, 1, 1)]


def box_fields(axes: list[Axis]) -> dict[str, Any]:
    """The fields of a copy: the innermost axis, the one that threads share, the others; NotPlanned if too many."""
    axes = merged(axes)
    if len(axes) > AXES:
        raise NotPlanned(f"a copy along {len(axes)} axes")
    inner = max(axes, key=lambda axis: ((axis.source == 1) + (axis.target == 1), axis.size))
    axes.remove(inner)
    ordered = [inner, *axes[:1], *reversed(axes[1:])]
    ordered += [Axis(1, 0, 0)] * (AXES - len(ordered))
    sizes, sources, targets = zip(*ordered, strict=True)
    return {"box": sizes, "from_stride": sources, "to_stride": targets}
