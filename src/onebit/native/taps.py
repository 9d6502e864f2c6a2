"""Which input pixels an output pixel sees, axis by axis, and which output pixels see theirs in the same way."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from onebit.packed.nodes import Grouped, Kernel, Transposed


class Axis(NamedTuple):
    """One axis of an image.

    taps: (outputs, taps) int32, the input under each tap; -1 outside of the image.
    stride: of outputs whose taps lie alike, and advance: of their inputs.
    """

    taps: np.ndarray
    stride: int = 1
    advance: int = 1

    @property
    def runs(self) -> np.ndarray:
        """(runs, 4) int32: first output, their stride, their number, and the advance of their inputs."""
        inside = self.taps >= 0
        found = []
        for phase in range(min(self.stride, len(inside))):
            first = phase
            for output in range(phase, len(inside), self.stride):
                following = output + self.stride
                if following >= len(inside) or (inside[following] != inside[first]).any():
                    found.append((first, self.stride, (output - first) // self.stride + 1, self.advance))
                    first = following
        return np.array(found, np.int32)

    @property
    def reach(self) -> int:
        """How many input rows have to be kept, when outputs are made in order and inputs as they are first seen."""
        last, most = -1, 1
        for taps in self.taps:
            seen = taps[taps >= 0]
            if len(seen):
                last = max(last, int(seen.max()))
                most = max(most, last - int(seen.min()) + 1)
        return most


POINT = Axis(np.zeros((1, 1), np.int32))
"""A single pixel that sees a single pixel."""


def whole(size: int) -> Axis:
    """A single output that sees all of an axis."""
    return Axis(np.arange(size, dtype=np.int32)[None])


def axes_of(node: Kernel, sizes: tuple[int, ...], made: tuple[int, ...]) -> tuple[Axis, Axis]:
    """Rows and columns of a convolution, transposed or not, or of a pool, for images of (H, W) and outputs (H', W')."""
    before = node.padding[::2]
    transposed = isinstance(node, Grouped) and isinstance(node, Transposed)
    axes = []
    for axis in range(2):
        outputs, taps = np.arange(made[axis])[:, None], np.arange(node.kernel[axis])[None] * node.dilation[axis]
        stride = node.stride[axis]
        if transposed:
            place, rest = np.divmod(outputs + before[axis] - taps, stride)
            place[rest != 0] = -1
        else:
            place = outputs * stride + taps - before[axis]
        place[(place < 0) | (place >= sizes[axis])] = -1
        taps_of = place.astype(np.int32)
        axes.append(Axis(taps_of, stride, 1) if transposed else Axis(taps_of, 1, stride))
    return axes[0], axes[1]


def padded_columns(node: Kernel, width: int, made: int) -> tuple[Axis, int, int]:
    """Columns of a convolution whose rows are filled up with zeros; how many before them, and the width with all.

    No output column is then unlike the others.
    """
    outputs, taps = np.arange(made)[:, None], np.arange(node.kernel[1])[None]
    axis = Axis((outputs * node.stride[1] + taps * node.dilation[1]).astype(np.int32), 1, node.stride[1])
    left = node.padding[2]
    return axis, left, max(left + width, int(axis.taps.max()) + 1)
