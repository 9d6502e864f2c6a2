"""`View`: which elements of its input a move has, and where they are in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from math import prod
from typing import NamedTuple

Axis = tuple[tuple[int, int], ...]
"""An axis in parts (size, step), the last one fastest."""


class View(NamedTuple):
    """Elements of a value, whose last axis is the fastest.

    offset: of the first one.
    """

    axes: tuple[Axis, ...]
    offset: int = 0

    @classmethod
    def of(cls, shape: Sequence[int]) -> View:
        """All elements of a value in order."""
        return cls(tuple(((size, prod(shape[axis:])),) for axis, size in enumerate(shape, start=1)))

    def flat(self) -> View:
        """The same elements with all axes after the first as one."""
        return View((joined(chain(*self.axes[:1])), joined(chain(*self.axes[1:]))), self.offset)

    def through(self, parts: Iterable[tuple[int, int]]) -> View | None:
        """The same elements of a value that is in memory as `parts`; None if even steps do not lead to them."""
        levels = list[list[int]]()  # of each part: elements in a step, size, step, least and largest index
        first, unit = 0, 1
        for size, step in reversed(joined(parts)):
            at = self.offset // unit % size
            levels.append([unit, size, step, at, at])
            first += at * step
            unit *= size
        axes = list[Axis]()
        for axis in self.axes:
            made = list[tuple[int, int]]()
            for size, by in reversed(axis):
                for level in levels:
                    unit, count, step, *_ = level
                    # the steps stay in this part, or fill it and go on in the next one
                    if size > 1 and unit <= abs(by) < unit * count:
                        every, rest = divmod(by, unit)
                        inside = min(size, -(-count // abs(every)))
                        if rest or size % inside or (inside < size and inside * abs(every) != count):
                            return None
                        level[3 + (by > 0)] += every * (inside - 1)
                        made.insert(0, (inside, every * step))
                        size, by = size // inside, by * inside
                made.insert(0, (size, 0))
            axes.append(joined(made) or ((1, 0),))
        inside_all = all(least >= 0 and largest < count for _, count, _, least, largest in levels)
        return View(tuple(axes), first) if inside_all else None


def joined(parts: Iterable[tuple[int, int]]) -> Axis:
    """Parts that continue one another merged, and without those of size 1."""
    made = list[tuple[int, int]]()
    for size, step in parts:
        if size == 1:
            continue
        if made and made[-1][1] == size * step:
            made[-1] = (made[-1][0] * size, step)
        else:
            made.append((size, step))
    return tuple(made)
