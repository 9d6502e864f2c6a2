"""The input pixel under each tap of an output pixel, per axis, and runs of outputs whose taps are alike."""

from __future__ import annotations

from operator import mul
from typing import NamedTuple

import numpy as np

from onebit.native.layout import NotPlanned
from onebit.packed.nodes import Kernel, Transposed

_MAX_TAPS = 2**22  # per axis, over all outputs; the reference runs nets with more
_MAX_WIDENED = 2  # widest padded row, relative to the row


class Axis(NamedTuple):
    """One axis of an image.

    taps: (outputs, taps) int32, the input under each tap; -1 outside the image.
    stride: of outputs whose taps are alike; advance: of their inputs.
    """

    taps: np.ndarray
    stride: int = 1
    advance: int = 1

    @property
    def runs(self) -> np.ndarray:
        """(runs, 4) int32: first output, stride, count, and the advance of the inputs."""
        inside = self.taps >= 0
        runs = []
        for phase in range(min(self.stride, len(inside))):
            first = phase
            for output in range(phase, len(inside), self.stride):
                following = output + self.stride
                if following >= len(inside) or (inside[following] != inside[first]).any():
                    runs.append((first, self.stride, (output - first) // self.stride + 1, self.advance))
                    first = following
        return np.array(runs, np.int32)

    @property
    def rows_kept(self) -> int:
        """Number of input rows to keep if outputs are computed in order and each input is read once."""
        last, most = -1, 1
        for taps in self.taps:
            inside = taps[taps >= 0]
            if len(inside):
                last = max(last, int(inside.max()))
                most = max(most, last - int(inside.min()) + 1)
        return most


def whole(size: int) -> Axis:
    """A single output of a whole axis."""
    return Axis(np.arange(size, dtype=np.int32)[None])


def axes_of(node: Kernel, sizes: tuple[int, ...], made: tuple[int, ...]) -> tuple[Axis, Axis]:
    """Rows and columns of a (transposed) convolution or a pool, for images (H, W) and outputs (H', W').

    NotPlanned for too large tables.
    """
    if max(map(mul, made, node.kernel)) > _MAX_TAPS:
        raise NotPlanned("a kernel with too many taps")
    before = node.padding[::2]
    transposed = isinstance(node, Transposed)
    axes = []
    for axis in range(2):
        outputs, taps = np.arange(made[axis])[:, None], np.arange(node.kernel[axis])[None] * node.dilation[axis]
        stride = node.stride[axis]
        if transposed:
            pixel, rest = np.divmod(outputs + before[axis] - taps, stride)
            pixel[rest != 0] = -1
        else:
            pixel = outputs * stride + taps - before[axis]
        pixel[(pixel < 0) | (pixel >= sizes[axis])] = -1
        taps_of = pixel.astype(np.int32)
        axes.append(Axis(taps_of, stride, 1) if transposed else Axis(taps_of, 1, stride))
    return axes[0], axes[1]


def padded_columns(node: Kernel, width: int, made: int) -> tuple[Axis, dict[str, int]] | None:
    """Columns of a convolution on padded rows, and fields of the call; None if the rows would be too wide.

    All taps of all output columns are then inside the image.
    """
    outputs, taps = np.arange(made)[:, None], np.arange(node.kernel[1])[None]
    axis = Axis((outputs * node.stride[1] + taps * node.dilation[1]).astype(np.int32), 1, node.stride[1])
    padded = max(node.padding[2] + width, int(axis.taps.max()) + 1)
    return (axis, {"table_left": node.padding[2], "table_width": padded}) if padded <= _MAX_WIDENED * width else None
