"""Where and in which order the values of an exported net are in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from onebit.packed import Value

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

Axis = tuple[tuple[int, int], ...]
"""An axis of a value in memory: parts (size, step), the last one fastest; several if axes were merged."""


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
        return self.first == 0 and [*map(_join, self.axes)] == [*map(_join, plain_axes(self.shape))]

    # the same memory in another shape

    def reshaped(self, shape: tuple[int, ...]) -> Stored | None:
        """The same elements in the same order as a view, None if that needs a copy."""
        parts = list(_join(tuple(part for axis in self.axes for part in axis)))
        axes = []
        for size in shape:
            axis: list[tuple[int, int]] = []
            while size > 1:
                if not parts:
                    return None
                count, step = parts.pop(0)
                if size % count == 0:
                    axis.append((count, step))
                    size //= count
                elif count % size == 0:
                    axis.append((size, step * (count // size)))
                    parts.insert(0, (count // size, step))
                    size = 1
                else:
                    return None
            axes.append(tuple(axis) or ((1, 0),))
        return replace(self, axes=tuple(axes))

    def sliced(self, start: tuple[int, ...], stop: tuple[int, ...], by: tuple[int, ...]) -> Stored:
        """A part of an evenly spaced value."""
        spans = list(zip(start, stop, by, self.steps() or (), strict=True))
        first = self.first + sum(begin * step for begin, _, _, step in spans)
        axes = tuple(((len(range(begin, end, every)), step * every),) for begin, end, every, step in spans)
        return replace(self, first=first, axes=axes)


def plain_axes(shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Axes with the channels of each pixel side by side, and pixels in their order."""
    return tuple(((size, shape[0] * prod(shape[axis + 1 :]) if axis else 1),) for axis, size in enumerate(shape))


def plain(value: Value, stage: int) -> Stored:
    """A value in new memory, in the smallest form that holds it, with the channels of each pixel side by side."""
    count, limits = prod(value.shape), value.limits if value.exact else None
    form = "real"
    if limits is not None:
        fitting = (form for form, (low, high) in RANGES.items() if low <= limits[0] and limits[1] <= high)
        form = "signs" if value.kind == "sign" else next(fitting, "integers")
    units = -(-count * BITS[form] // 8)
    return Stored(Memory(units, stage, stage, count), form, 0, plain_axes(value.shape), limits)


def _join(parts: Axis) -> Axis:
    """Merge parts that continue one another, and drop parts of size 1."""
    joined: list[tuple[int, int]] = []
    for size, step in parts:
        if size == 1:
            continue
        if joined and joined[-1][1] == size * step:
            joined[-1] = (joined[-1][0] * size, step)
        else:
            joined.append((size, step))
    return tuple(joined)


def _single(axis: Axis) -> int | None:
    joined = _join(axis)
    return None if len(joined) > 1 else joined[0][1] if joined else 0
