"""The options of data augmentation, and the random draws for a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onebit.errors import UsageError

PADDING_MODES = ("zero", "reflect")
LARGEST_LOG_RATIO = math.log(4 / 3)
"""The largest log(width / height) of a random resized crop."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training batch.

    Args:
        crop_padding: pixels added on every side before a random window of the image size is cropped; 0 = none.
        flip: mirror each image horizontally with probability 1/2.
        padding_mode: how to pad: "zero", or "reflect" (mirror the image at its edge pixels).
        cutout: side of a square at a random center that is set to 0, clipped at the border of the image; 0 = none.
        min_area: crop a random part with at least this share of the area and an aspect ratio of 3:4 to 4:3, and resize
            it to the image size; None = none. Streamed files are cropped at their full resolution.
        repeats: number of times that an epoch uses each image, with new random changes each time.
        first_size: shorter side of the images in the first epoch; they grow to their size during the first part of a
            training, and are shrunk after all other changes. None = full size from the beginning.
        growing: share of the epochs in which they grow.
        crop_size: side of the window, if not that of the image. This and all below are for images with masks.
        flip_vertical: mirror vertically with probability 1/2.
        rotate: rotate by a random multiple of 90 degrees.
        elastic: standard deviation, in pixels, of a random displacement of each pixel; 0 = none.
        elastic_smoothness: standard deviation, in pixels, of the Gaussian that smooths the displacements.

    Raises:
        UsageError: a size below 0, a share outside (0, 1], an unknown padding, or both kinds of crops.

    Source: cutout: DeVries and Taylor 2017 (arXiv:1708.04552); min_area: Szegedy et al. 2015 (arXiv:1409.4842);
        elastic: Simard, Steinkraus, Platt 2003 (ICDAR), section 2, with a standard deviation in place of their scale α.
    """

    crop_padding: int = 0
    flip: bool = False
    padding_mode: str = "zero"
    cutout: int = 0
    min_area: float | None = None
    repeats: int = 1
    first_size: int | None = None
    growing: float = 0.7
    crop_size: int | None = None
    flip_vertical: bool = False
    rotate: bool = False
    elastic: float = 0.0
    elastic_smoothness: float = 8.0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout", "elastic"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name}={getattr(self, name)}: expected 0 or more pixels")
        for name in ("repeats", "first_size", "crop_size", "elastic_smoothness"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name}={value}: expected more than 0")
        if not 0 < self.growing <= 1:
            raise UsageError(f"growing={self.growing}: expected more than 0 and at most 1")
        if self.padding_mode not in PADDING_MODES:
            raise UsageError(f"padding_mode={self.padding_mode!r}: expected {' or '.join(PADDING_MODES)}")
        if self.min_area is not None:
            if not 0 < self.min_area <= 1:
                raise UsageError(f"min_area={self.min_area}: expected more than 0 and at most 1")
            if self.crop_padding:
                raise UsageError("min_area and crop_padding are two ways to crop: choose one")

    def __repr__(self) -> str:
        # checkpoints compare this text: without a first size it is that of earlier versions
        unused = ("first_size", "growing") if self.first_size is None else ()
        found = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in unused}
        return f"Augmentation({', '.join(f'{name}={value!r}' for name, value in found.items())})"


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
