"""Batches for training from a whole training set: chosen, augmented, and laid out as the net wants them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from onebit.data.augment import (
    Augmentation,
    change_pixels,
    check_augmentation,
    draw,
    padded_buffer,
    plain_first,
    shuffles,
)
from onebit.data.mask_augment import MaskedImages
from onebit.data.resizing import resized_crops
from onebit.data.splits import Split
from onebit.data.streaming import Images, StreamedImages, prefetched
from onebit.errors import UsageError


class TrainingImages:
    """The images of a training split, from which batches are made.

    For channels_last the set is held in NHWC memory: once more, unless it has one channel or already lies so. Working
    memory for one batch is kept from batch to batch.

    Args:
        images: (N, C, H, W) uint8.
        augmentation: what is done to every batch; None for nothing.
        channels_last: batches are (N, C, H, W) in NHWC memory, which costs nothing; else in the order of their shape.

    Raises:
        UsageError: an augmentation that these images are too small for.
    """

    def __init__(
        self, images: Images | StreamedImages, augmentation: Augmentation | None, *, channels_last: bool
    ) -> None:
        _, channels, height, width = images.shape
        self.augmentation = augmentation or Augmentation()
        check_augmentation(self.augmentation, (height, width))
        self.channels_last = channels_last
        self.count, self.size = len(images), (height, width)
        # (P, H, W, K) of `change_pixels`
        self._shape = (1, height, width, channels) if channels_last else (channels, height, width, 1)
        self._streamed: StreamedImages | None = None
        self._pixels: Images | None = None
        if isinstance(images, StreamedImages):
            self._streamed = images
        else:
            laid_out = images.transpose(0, 2, 3, 1) if channels_last else images
            self._pixels = np.ascontiguousarray(laid_out).reshape(self.count, *self._shape)
        self._chosen = np.empty((0, *self._shape), np.uint8)
        self._padded = padded_buffer(self.augmentation, self._chosen.shape)

    def batch(self, indices: npt.NDArray[np.int64], rng: np.random.Generator, *, part: slice = slice(None)) -> Images:
        """The images `indices`, augmented as `augment_images(images[indices], augmentation, rng=rng)` does it.

        Args:
            indices: (N,), which images.
            rng: drawn from for all of `indices`, so that processes that share a batch draw alike.
            part: only these of `indices` are made.

        Returns:
            uint8 (len(indices[part]), C, H, W), a new array.

        Raises:
            IndexError: an index that is no image.
            DataError: a streamed image that does not decode.
        """
        draws = draw(self.augmentation, len(indices), size=self.size, rng=rng).of(part)
        order = plain_first(draws)
        rows = np.asarray(indices)[part][order]
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.count:
            raise IndexError(f"got indices {rows.min()} to {rows.max()}, expected 0 to {self.count - 1}")
        crops = None if self.augmentation.min_area is None else draws.crops[order]
        pixels = self._read(rows, crops)
        if shuffles(self.augmentation) and len(self._padded) < len(rows):
            self._padded = padded_buffer(self.augmentation, pixels.shape)
        pixels = change_pixels(pixels, self.augmentation, draws, order, self._padded)
        if self.channels_last:
            return pixels[:, 0].transpose(0, 3, 1, 2)
        return pixels[..., 0]

    @property
    def pixels(self) -> Images | None:
        """All images, (count, P, H, W, K), see `change_pixels`; None where a batch is read or resized anew."""
        return None if self.augmentation.min_area is not None else self._pixels

    def batches(
        self,
        chosen: Iterable[tuple[npt.NDArray[np.int64], slice]],
        rng: np.random.Generator,
    ) -> Iterator[Images]:
        """`batch` for each of `chosen`, indices and part; of streamed images the next ones are made meanwhile.

        `rng` belongs to this iterator until it ends.
        """
        made = (self.batch(indices, rng, part=part) for indices, part in chosen)
        return made if self._streamed is None else prefetched(made)

    def _read(self, rows: npt.NDArray[np.int64], crops: npt.NDArray[np.float64] | None) -> Images:
        """(len(rows), P, H, W, K)."""
        if self._streamed is not None:
            pixels = self._streamed.source.read(self._streamed.rows[rows], crops=crops)
            if self.channels_last:
                return pixels[:, np.newaxis]
            return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))[..., np.newaxis]
        assert self._pixels is not None
        if crops is not None:
            pixels = self._pixels[rows]
            if self.channels_last:
                return resized_crops(pixels[:, 0], crops)[:, np.newaxis]
            return resized_crops(pixels[..., 0].transpose(0, 2, 3, 1), crops).transpose(0, 3, 1, 2)[..., np.newaxis]
        if not shuffles(self.augmentation):
            return self._pixels[rows]
        if len(self._chosen) < len(rows):
            self._chosen = np.empty((len(rows), *self._shape), np.uint8)
        # "clip" lets numpy write there directly; the indices are checked
        return np.take(self._pixels, rows, axis=0, out=self._chosen[: len(rows)], mode="clip")


def _check_unmasked(asked: Augmentation) -> None:
    """Refuse what is done to images with masks only.

    Raises:
        UsageError: something that this augmentation asks.
    """
    for name, default in {"crop_size": None, "flip_vertical": False, "rotate": False, "elastic": 0.0}.items():
        if getattr(asked, name) != default:
            raise UsageError(f"augmentation.{name} belongs to images with masks, these have a label each: leave it out")


class TrainingSamples:
    """The samples of a training split, images with labels or with masks, from which batches are made.

    Args:
        split: the split.
        augmentation: what is done to every batch; None for nothing.
        channels_last: see `TrainingImages`.

    Raises:
        UsageError: an augmentation that these samples do not take.
    """

    def __init__(self, split: Split, augmentation: Augmentation | None, *, channels_last: bool) -> None:
        asked = augmentation or Augmentation()
        self.labels = split.labels
        self.repeats = asked.repeats
        self.count = len(split) * asked.repeats
        self._masked: MaskedImages | None = None
        self.images: TrainingImages | None = None
        """None of images with masks."""
        if split.labels.ndim > 1:
            images = split.images[:] if isinstance(split.images, StreamedImages) else split.images
            self._masked = MaskedImages(images, split.labels, asked, channels_last=channels_last)
        else:
            _check_unmasked(asked)
            self.images = TrainingImages(split.images, asked, channels_last=channels_last)

    def order(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Which sample stands where in an epoch: each of them `repeats` times, in random order."""
        return rng.permutation(self.count) % len(self.labels)

    def batches(
        self, chosen: Iterable[tuple[npt.NDArray[np.int64], slice]], rng: np.random.Generator
    ) -> Iterator[tuple[Images, npt.NDArray]]:
        """Images and labels of each of `chosen`, indices and part. `rng` belongs to this iterator until it ends."""
        if self._masked is not None:
            yield from self._masked.batches(chosen, rng)
            return
        assert self.images is not None
        chosen = list(chosen)
        for (indices, part), images in zip(chosen, self.images.batches(chosen, rng), strict=True):
            yield images, self.labels[indices[part]]
