"""Training batches from a whole training set: selected, augmented, and in the memory layout of the net."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onebit.common.augmentation import Augmentation
from onebit.data.decoding import StreamedImages, prefetched
from onebit.data.mask_augment import MaskedImages
from onebit.data.resizing import Images, Integers, Reals, resized_crops
from onebit.data.splits import Split
from onebit.errors import UsageError

_FOR_LABELS, _FOR_MASKS = ("cutout", "min_area", "first_size"), ("crop_size", "flip_vertical", "rotate", "elastic")
MAX_LOG_RATIO = math.log(4 / 3)
"""The largest log(width / height) of a random resized crop."""


class Draws(NamedTuple):
    """The random draws for the N images of a batch; zeros for what the augmentation does not use.

    crops: (N, 4), see `resizing.crop_box`. top, left: (N,) corner of the window in the padded image. mirrored: (N,)
    bool. cut_row, cut_column: (N,) center of the square.
    """

    crops: Reals
    top: Integers
    left: Integers
    mirrored: npt.NDArray[np.bool_]
    cut_row: Integers
    cut_column: Integers


def draw(
    augmentation: Augmentation, count: int, *, size: tuple[int, int], rng: np.random.Generator, part: slice
) -> Draws:
    """Draw for a batch, in this order: crops, rows of the windows, their columns, flips, cut rows, cut columns.

    `rng` is used only for what the augmentation needs. `size` is the height and width of an image. Returns the draws
    for a part of the batch.
    """
    crops, padding = np.zeros((count, 4)), augmentation.crop_padding
    top, left, cut_row, cut_column = np.zeros((4, count), np.int64)
    mirrored = np.zeros(count, np.bool_)
    if augmentation.min_area is not None:
        low = [augmentation.min_area, -MAX_LOG_RATIO, 0, 0]
        crops = rng.uniform(low, [1, MAX_LOG_RATIO, 1, 1], (count, 4))
    if padding:
        top, left = rng.integers(0, 2 * padding + 1, (2, count))
    if augmentation.flip:
        mirrored = rng.random(count) < 0.5
    if augmentation.cutout:
        cut_row, cut_column = (rng.integers(0, side, count) for side in size)
    return Draws._make(drawn[part] for drawn in (crops, top, left, mirrored, cut_row, cut_column))


class TrainingImages:
    """The images of a training split, as a source of batches.

    Args:
        images: (N, C, H, W) uint8.
        augmentation: changes to every batch.
        channels_last: whether batches (N, C, H, W) have NHWC memory; otherwise they are contiguous.
    """

    def __init__(self, images: Images | StreamedImages, augmentation: Augmentation, *, channels_last: bool) -> None:
        self.augmentation, self.channels_last = augmentation, channels_last
        self.size = images.shape[2], images.shape[3]
        if not isinstance(images, StreamedImages):
            images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        self._images = images

    def batch(self, indices: Integers, rng: np.random.Generator, *, part: slice = slice(None)) -> Images:
        """A batch of images, changed at random.

        Args:
            indices: (N,), the images.
            rng: for the draws of all `indices`: processes that share a batch draw the same.
            part: the part of the batch to make.

        Returns:
            uint8 (len(indices[part]), C, H, W), a new array.

        Raises:
            DataError: a streamed image does not decode.
        """
        augmentation = self.augmentation
        draws = draw(augmentation, len(indices), size=self.size, rng=rng, part=part)
        pixels = self._read(np.asarray(indices)[part], None if augmentation.min_area is None else draws.crops)
        if augmentation.crop_padding:
            pixels = self._cropped(pixels, draws)
        if augmentation.flip:
            pixels[draws.mirrored] = pixels[draws.mirrored][:, :, ::-1]
        if augmentation.cutout:
            corners = np.stack([draws.cut_row, draws.cut_column]) - augmentation.cutout // 2
            edges = np.maximum(np.concatenate([corners, corners + augmentation.cutout]), 0).tolist()
            # one image at a time: masking the whole batch at once takes more than twice as long
            for image, top, left, bottom, right in zip(pixels, *edges, strict=True):
                image[top:bottom, left:right] = 0
        batch = pixels.transpose(0, 3, 1, 2)
        return batch if self.channels_last else batch.copy()  # with the strides of contiguous memory

    @property
    def pixels(self) -> Images | None:
        """All images, (N, H, W, C); None if they are streamed or cropped by `min_area`."""
        if isinstance(self._images, StreamedImages) or self.augmentation.min_area is not None:
            return None
        return self._images

    def _read(self, rows: Integers, crops: Reals | None) -> Images:
        """Images before other changes than `min_area`, (len(rows), H, W, C)."""
        if isinstance(self._images, StreamedImages):
            return self._images.subset(rows).read(crops)
        pixels = np.take(self._images, rows, axis=0)
        if crops is not None:
            cropped = resized_crops(pixels.transpose(0, 3, 1, 2), crops)
            pixels = np.ascontiguousarray(cropped.transpose(0, 2, 3, 1))
        return pixels

    def _cropped(self, pixels: Images, draws: Draws) -> Images:
        """Pad images (N, H, W, C) and crop the drawn windows."""
        count, height, width, channels = pixels.shape
        padding = self.augmentation.crop_padding
        mode: Any = "reflect" if self.augmentation.padding_mode == "reflect" else "constant"
        padded = np.pad(pixels, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode)
        # a view of all windows in which a row, W·C bytes, is one element: the drawn windows are copied row by row
        image, down, across, _ = padded.strides
        windows: npt.NDArray[np.void] = np.ndarray(
            (count, 2 * padding + 1, 2 * padding + 1, height),
            np.dtype(f"V{width * channels}"),
            padded,
            strides=(image, down, across, down),
        )
        return windows[np.arange(count), draws.top, draws.left].view(np.uint8).reshape(pixels.shape)


class TrainingSamples:
    """The samples of a training split, images with labels or with masks, as a source of batches.

    The arguments are those of `TrainingImages`.

    Raises:
        UsageError: a change that does not work on these samples.
    """

    def __init__(self, split: Split, augmentation: Augmentation | None, *, channels_last: bool) -> None:
        augmentation, masks = augmentation or Augmentation(), split.labels.ndim > 1
        self.labels, self.count = split.labels, len(split) * augmentation.repeats
        for name in _FOR_LABELS if masks else _FOR_MASKS:
            if getattr(augmentation, name):
                raise UsageError(f"augmentation.{name} is for images with {'labels' if masks else 'masks'}")
        self._streamed = isinstance(split.images, StreamedImages)
        self.images: TrainingImages | MaskedImages
        if masks:
            self.images = MaskedImages(split.images[:], split.labels, augmentation, channels_last=channels_last)
        else:
            self.images = TrainingImages(split.images, augmentation, channels_last=channels_last)

    def order(self, rng: np.random.Generator) -> Integers:
        """The samples of an epoch in random order, each of them `repeats` times."""
        return rng.permutation(self.count) % len(self.labels)

    def batches(
        self, chosen: Iterable[tuple[Integers, slice]], rng: np.random.Generator
    ) -> Iterator[tuple[Images, npt.NDArray]]:
        """Images and labels for each (indices, part) in `chosen`; streamed images are read ahead.

        Leave `rng` to the iterator until that ends.
        """
        made = (self._batch(indices, part, rng) for indices, part in chosen)
        return prefetched(made) if self._streamed else made

    def _batch(self, indices: Integers, part: slice, rng: np.random.Generator) -> tuple[Images, npt.NDArray]:
        made = self.images.batch(indices, rng, part=part)
        return made if isinstance(made, tuple) else (made, self.labels[indices[part]])
