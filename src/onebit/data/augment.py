"""Random crops and mirrored images, a whole batch at a time, in uint8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from onebit.data.splits import Images
from onebit.errors import UsageError


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training batch.

    Args:
        crop_padding: pixels of value 0 put on every side before an image-sized window is cut out at random; 0 = none.
        flip: mirror each image left to right with probability 1/2.

    Raises:
        UsageError: `crop_padding` is negative.
    """

    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise UsageError(f"crop_padding={self.crop_padding}: expected 0 or more pixels")


def augment_images(images: Images, augmentation: Augmentation, *, rng: np.random.Generator) -> Images:
    """The batch, randomly cropped and mirrored; `images` itself is left as it is, and returned when nothing is asked.

    Every image gets its own window and its own coin. The padding has pixel value 0, the background of MNIST.

    Args:
        images: (N, C, H, W) uint8.
        augmentation: what to do.
        rng: drawn from in this order: the rows of the windows (N), their columns (N), the coins (N).

    Returns:
        (N, C, H, W) uint8.
    """
    count, _, height, width = images.shape
    padding = augmentation.crop_padding
    if padding:
        padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        # a view of every window, (N, C, 2p+1, 2p+1, H, W): one indexing copies the chosen ones in runs of a whole row
        windows = sliding_window_view(padded, (height, width), axis=(2, 3))
        top, left = rng.integers(0, 2 * padding + 1, (2, count))
        images = windows[np.arange(count), :, top, left]
    if augmentation.flip:
        mirrored = np.flatnonzero(rng.random(count) < 0.5)
        if not padding:
            images = images.copy()
        images[mirrored] = images[mirrored][..., ::-1]
    return images
