"""The random draws of data augmentation for a batch."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onebit.common.augmentation import Augmentation

LARGEST_LOG_RATIO = math.log(4 / 3)
"""The largest log(width / height) of a random resized crop."""


class Draws(NamedTuple):
    """The random draws for the N images of a batch; zeros for what the augmentation does not use.

    crops: (N, 4), see `resizing.crop_box`. top, left: (N,) corner of the window in the padded image. mirrored: (N,)
    bool. cut_row, cut_column: (N,) center of the square.
    """

    crops: npt.NDArray[np.float64]
    top: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]
    mirrored: npt.NDArray[np.bool_]
    cut_row: npt.NDArray[np.int64]
    cut_column: npt.NDArray[np.int64]

    def of(self, part: slice) -> Draws:
        """The draws for a part of the batch."""
        return Draws._make(array[part] for array in self)


def draw(augmentation: Augmentation, count: int, *, size: tuple[int, int], rng: np.random.Generator) -> Draws:
    """Draw for a batch, in this order: crops, rows of the windows, their columns, flips, cut rows, cut columns.

    `rng` is used only for what the augmentation needs; `size` is the height and width of an image.
    """
    crops, padding = np.zeros((count, 4)), augmentation.crop_padding
    top, left, cut_row, cut_column = np.zeros((4, count), np.int64)
    mirrored = np.zeros(count, np.bool_)
    if augmentation.min_area is not None:
        low = [augmentation.min_area, -LARGEST_LOG_RATIO, 0, 0]
        crops = rng.uniform(low, [1, LARGEST_LOG_RATIO, 1, 1], (count, 4))
    if padding:
        top, left = rng.integers(0, 2 * padding + 1, (2, count))
    if augmentation.flip:
        mirrored = rng.random(count) < 0.5
    if augmentation.cutout:
        cut_row, cut_column = (rng.integers(0, side, count) for side in size)
    return Draws(crops, top, left, mirrored, cut_row, cut_column)
