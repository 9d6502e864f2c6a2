"""Operations that move or repeat values without changing them."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from operator import mul
from typing import Any

import numpy as np

from onebit.errors import FormatError
from onebit.packed.nodes.node import (
    Node,
    Value,
    check_size,
    merged,
    operation,
    require_alike,
    require_image,
    same_kind,
    signs,
)
from onebit.packed.nodes.view import View


@operation()
class Move(Node):
    """Base class of operations of one input that move, choose or repeat its elements."""

    moves = monotonic = True

    def view(self, x: Value) -> View:
        """Which elements of `x` the output has; not of `Take` and `Pad`."""
        raise NotImplementedError


@operation("flatten")
class Flatten(Move):
    """(C, H, W) -> (C·H·W,), the last axis fastest."""

    def infer(self, x: Value) -> Value:
        return same_kind(x, (prod(x.shape),))

    def view(self, x: Value) -> View:
        return View.of((prod(x.shape),))

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        return v.reshape(len(v), -1)


@operation("reshape")
class Reshape(Move):
    """The same elements, the last axis fastest, with another shape.

    Args:
        shape: of the output, without the batch axis; () for one number per sample.
    """

    shape: tuple[int, ...]

    def infer(self, x: Value) -> Value:
        if prod(self.shape) != prod(x.shape):
            raise FormatError(f"got a value of shape {x.shape}, expected {prod(self.shape)} elements for {self.shape}")
        return same_kind(x, self.shape)

    def view(self, x: Value) -> View:
        return View.of(self.shape)

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        return v.reshape(len(v), *self.shape)


@operation("permute")
class Permute(Move):
    """Axis i of the output is axis `axes[i]` of the input, without the batch axis.

    Args:
        axes: a permutation of 0, 1, …
    """

    axes: tuple[int, ...]

    def infer(self, x: Value) -> Value:
        if sorted(self.axes) != list(range(len(x.shape))):
            raise FormatError(f"axes are {self.axes}, expected a permutation of the {len(x.shape)} axes of {x.shape}")
        return same_kind(x, (x.shape[axis] for axis in self.axes))

    def view(self, x: Value) -> View:
        axes = View.of(x.shape).axes
        return View(tuple(axes[axis] for axis in self.axes))

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        return v.transpose(0, *(axis + 1 for axis in self.axes))


@operation("repeat")
class Repeat(Move):
    """Each element repeated along each axis, as by `numpy.repeat`: nearest upsampling, or broadcasting an axis of 1.

    Args:
        times: repetitions along each axis, without the batch axis.
    """

    times: tuple[int, ...]

    def infer(self, x: Value) -> Value:
        if len(self.times) != len(x.shape):
            raise FormatError(f"times are {self.times}, expected one for each axis of {x.shape}")
        shape = tuple(size * times for size, times in zip(x.shape, self.times, strict=True))
        check_size("its value", shape)
        return same_kind(x, shape)

    def view(self, x: Value) -> View:
        axes = zip(View.of(x.shape).axes, self.times, strict=True)
        return View(tuple((*axis, (times, 0)) for axis, times in axes))

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        for axis, times in enumerate(self.times, start=1):
            v = v.repeat(times, axis=axis)
        return v


@operation("concat")
class Concat(Node):
    """Concatenates two or more values along the channels."""

    arity = None
    moves = True

    def infer(self, *inputs: Value) -> Value:
        require_alike([x.shape[1:] for x in inputs])
        return merged(inputs, (sum(x.shape[0] for x in inputs), *inputs[0].shape[1:]))

    def compute(self, dtype: Any, *arrays: np.ndarray) -> np.ndarray:
        return np.concatenate(arrays, axis=1, dtype=dtype, casting="unsafe")


@operation("slice")
class Slice(Move):
    """x[start:stop:step] of an image, in each of (C, H, W): a crop, or a strided shortcut.

    Args:
        start: first index of each axis.
        stop: index after the last of each axis.
        step: distance between indices of each axis.
    """

    start: tuple[int, int, int] = (0, 0, 0)
    stop: tuple[int, int, int]
    step: tuple[int, int, int] = (1, 1, 1)

    def infer(self, x: Value) -> Value:
        axes = list(zip(require_image(x), self.start, self.stop, self.step, strict=True))
        if any(not start < stop <= size for size, start, stop, _ in axes):
            raise FormatError(f"got a value of shape {x.shape}, expected one that contains {self.start} to {self.stop}")
        return same_kind(x, [len(range(start, stop, step)) for _, start, stop, step in axes])

    def view(self, x: Value) -> View:
        steps = [step for ((_, step),) in View.of(x.shape).axes]
        sizes = self.infer(x).shape
        axes = (((size, step * by),) for size, step, by in zip(sizes, steps, self.step, strict=True))
        return View(tuple(axes), sum(map(mul, self.start, steps)))

    def resized(self, before: Value, after: Value) -> Slice:
        ends = zip(self.stop, before.shape, after.shape, strict=True)
        channels, height, width = (end + new - old for end, old, new in ends)
        return replace(self, stop=(channels, height, width))

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        index = slice(None), *map(slice, self.start, self.stop, self.step)
        return v[index]


@operation("take")
class Take(Move):
    """An image with chosen indices of one axis, as by `numpy.take`: reflected or repeated borders, flips, any resizing.

    Args:
        axis: 0, 1 or 2 of (C, H, W).
        indices: (n,) int32, from 0 to the size of the axis - 1, in any order and number.
    """

    axis: int
    indices: np.ndarray

    def infer(self, x: Value) -> Value:
        shape = list(require_image(x))
        shape[self.axis] = len(self.indices)
        check_size("its value", tuple(shape))
        return same_kind(x, shape)

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        return v.take(self.indices, axis=self.axis + 1)

    def check_values(self, *inputs: Value) -> None:
        super().check_values(*inputs)
        size = inputs[0].shape[self.axis]
        if count := int(np.count_nonzero((self.indices < 0) | (self.indices >= size))):
            raise FormatError(f"{count} of {self.indices.size} indices are not below {size}")

    def views(self, x: Value) -> list[View]:
        """Views that follow one another along the axis, as few as greedily found."""
        runs: list[tuple[int, int, int]] = []  # first index, step, size
        for index in self.indices.tolist():
            first, by, count = runs[-1] if runs else (0, 0, 0)
            if count == 1 or (count and index == first + by * count):
                runs[-1] = (first, index - first if count == 1 else by, count + 1)
            else:
                runs.append((index, 0, 1))
        axes = View.of(x.shape).axes
        before, ((_, step),), after = axes[: self.axis], axes[self.axis], axes[self.axis + 1 :]
        return [View((*before, ((size, by * step),), *after), first * step) for first, by, size in runs]


@operation("pad")
class Pad(Move):
    """An image with a constant border.

    Args:
        channels: channels added (before, after).
        padding: (top, bottom, left, right).
        value: 0, 1 or -1.
    """

    channels: tuple[int, int] = (0, 0)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    value: int = 0

    def infer(self, x: Value) -> Value:
        channels, height, width = require_image(x)
        top, bottom, left, right = self.padding
        border = signs(()) if self.value else Value((), "integer", 0, step=2)
        return merged((x, border), (channels + sum(self.channels), height + top + bottom, width + left + right))

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        width = ((0, 0), self.channels, self.padding[:2], self.padding[2:])
        return np.pad(v.astype(dtype, copy=False), width, constant_values=self.value)
