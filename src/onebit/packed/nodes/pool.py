"""Pooling: the largest value or the average of each window of an image, channel by channel."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from onebit.errors import FormatError
from onebit.packed.nodes.conv import Kernel
from onebit.packed.nodes.node import Node, Value, check_size, integer, operation, require_image, same_kind


@operation()
class Pool(Kernel):
    """(C, H, W) -> (C, H', W'); each window must contain a pixel of the image."""

    pools = monotonic = True

    def positions(self, x: Value) -> tuple[int, int]:
        for size, span, step, before, after in zip(
            require_image(x)[1:], self.extent, self.dilation, self.padding[::2], self.padding[1::2], strict=True
        ):
            # a window over the border has a tap inside if the image is at least as wide as the gaps between taps
            if max(before, after) >= span or (max(before, after) and size < step):
                raise FormatError(
                    f"with a padding of {self.padding} some windows contain no pixel of an image {x.shape}"
                )
        return super().positions(x)


@operation("max_pool")
class MaxPool(Pool):
    """The largest value in each window, without padding.

    Args:
        whole: 1 if the window is the whole image, of any size; else 0.
    """

    whole: int = 0

    moves = True

    def infer(self, x: Value) -> Value:
        if self.whole and (self.kernel != x.shape[1:] or self.extent != self.kernel or any(self.padding)):
            raise FormatError(f"a window of {self.kernel} is not the whole image of {x.shape}")
        return same_kind(x, (x.shape[0], *self.positions(x)))

    def resized(self, before: Value, after: Value) -> MaxPool:
        if not self.whole:
            return self
        _, height, width = require_image(after)
        return replace(self, kernel=(height, width), stride=(height, width))


@operation("average_pool")
class AveragePool(Pool):
    """The sum of each window divided by the number of its pixels.

    Args:
        count_padding: 1 to count padding pixels, which are zero; else 0.
        sums: 1 to omit the division, so that sums of integers stay integers; else 0.
    """

    count_padding: int = 0
    sums: int = 0

    def infer(self, x: Value) -> Value:
        shape = (x.shape[0], *self.positions(x))
        if x.bound is None or not self.sums:
            return Value(shape, "real")
        area, (least, most) = prod(self.kernel), x.limits
        step = 1 if any(self.padding) and x.bound % 2 else x.step  # borders have fewer pixels
        return integer(shape, area * x.bound, area * min(0, least), area * max(0, most), step)

    def pixels(self, x: Value) -> np.ndarray:
        """(H', W'): the divisor of each window."""
        counts = []
        for axis, positions in enumerate(self.positions(x)):
            starts = np.arange(positions)[:, None] * self.stride[axis] - self.padding[2 * axis]
            taps = starts + np.arange(self.kernel[axis]) * self.dilation[axis]
            inside = (taps >= 0) & (taps < x.shape[1 + axis])
            counts.append((inside | bool(self.count_padding)).sum(axis=1))
        return np.outer(*counts)


@operation("adaptive_average_pool")
class AdaptiveAveragePool(Node):
    """Averages of H' × W' windows that cover the image: window i of n spans floor(i·H/n) to ceil((i + 1)·H/n).

    Args:
        size: (H', W'), of any size; (1, 1) averages the whole image.
    """

    size: tuple[int, int]

    pools = True

    def infer(self, x: Value) -> Value:
        channels, _, _ = require_image(x)
        check_size("its value", (channels, *self.size))
        return Value((channels, *self.size), "real")

    def windows(self, x: Value) -> list[list[tuple[int, int]]]:
        """(start, stop) of each window, for rows and for columns."""
        return [
            [(i * size // n, -(-(i + 1) * size // n)) for i in range(n)]
            for n, size in zip(self.size, x.shape[1:], strict=True)
        ]

    def pixels(self, x: Value) -> np.ndarray:
        """(H', W'): the number of pixels of each window."""
        return np.outer(*(np.diff(axis)[:, 0] for axis in self.windows(x)))
