"""Where and in which order the values of an exported net are in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from onebit.native.layout import strides
from onebit.packed import Value
from onebit.packed.nodes.view import Axis, View, joined

LOADS = {
    "signs": "load_signs",
    "small": "load_small",
    "shorts": "load_shorts",
    "integers": "load_words",
    "real": "load_words",
    "bytes": "load_bytes",
    "centered": "load_centered",
    "floats": "load_floats",
}
"""Form of a value in memory -> the kernel that loads it; the last two are forms of inputs only."""
BITS = {"signs": 1, "small": 8, "bytes": 8, "shorts": 16, "integers": 32, "real": 32}
RANGES = {"small": (-128, 127), "bytes": (0, 255), "shorts": (-32768, 32767)}


@dataclass(eq=False)
class Memory:
    """A part of the arena.

    units: bytes; first, last: the first and last stage that use it; count: its elements; offset: where it begins.
    """

    units: int
    first: int
    last: int
    count: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Stored:
    """A value in memory.

    memory: None for the input; form: a key of LOADS; first: index of its first element; axes: one per logical axis;
    limits: the smallest and the largest integer, None for real values.
    """

    memory: Memory | None
    form: str
    first: int
    axes: tuple[Axis, ...]
    limits: tuple[int, int] | None

    @property
    def bound(self) -> int | None:
        """The largest magnitude of integers, None for real values."""
        return None if self.limits is None else max(-self.limits[0], self.limits[1])

    @property
    def value(self) -> Value:
        """Shape, kind and bound."""
        kind = "real" if self.limits is None else "sign" if self.form == "signs" else "integer"
        return Value(self.shape, kind, self.bound, *(self.limits or ()))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(prod(size for size, _ in axis) for axis in self.axes)

    @property
    def step(self) -> int | None:
        """Distance between channels, None if they are not evenly spaced."""
        return _single(self.axes[0]) if self.axes else 1

    @property
    def pixel_step(self) -> int | None:
        """Distance between pixels, None if they are not evenly spaced."""
        return _single(tuple(part for axis in self.axes[1:] for part in axis))

    def steps(self) -> tuple[int, ...] | None:
        """Distance between neighbors along each axis, None if one is not evenly spaced."""
        steps = [_single(axis) for axis in self.axes]
        return None if None in steps else tuple(step for step in steps if step is not None)

    @property
    def is_words(self) -> bool:
        """Whether the numbers of a pixel are 32-bit words side by side."""
        return BITS.get(self.form) == 32 and self.step in (0, 1)

    @property
    def is_plain(self) -> bool:
        """Whether it has the layout of `plain`."""
        return self.first == 0 and [*map(joined, self.axes)] == [*map(joined, plain_axes(self.shape))]

    def seen(self, view: View) -> Stored | None:
        """A view of the same memory, None if that needs a copy."""
        made = view.through(part for axis in self.axes for part in axis)
        return made and replace(self, first=self.first + made.offset, axes=made.axes)


def plain_axes(shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Axes with the channels of each pixel side by side, and pixels in their order."""
    return tuple((part,) for part in zip(shape, strides(shape), strict=True))


def plain(value: Value, stage: int) -> Stored:
    """A value in new memory, in the smallest form that holds it, with the channels of each pixel side by side."""
    count, limits = prod(value.shape), value.limits if value.exact else None
    form = "real"
    if limits is not None:
        fitting = (form for form, (low, high) in RANGES.items() if low <= limits[0] and limits[1] <= high)
        form = "signs" if value.kind == "sign" else next(fitting, "integers")
    units = -(-count * BITS[form] // 8)
    return Stored(Memory(units, stage, stage, count), form, 0, plain_axes(value.shape), limits)


def _single(axis: Axis) -> int | None:
    parts = joined(axis)
    return None if len(parts) > 1 else parts[0][1] if parts else 0
