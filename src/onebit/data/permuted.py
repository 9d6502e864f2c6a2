"""A data set with permuted pixels, as in permuted MNIST."""

from __future__ import annotations

from functools import partial

import numpy as np

from onebit.data.splits import Dataset, Split
from onebit.errors import UsageError


def pixel_order(seed: int, pixels: int) -> np.ndarray:
    """The pixel of an image (pixels,) that each pixel of a permuted one shows."""
    return np.random.default_rng(seed).permutation(pixels)


def permute_pixels(data: Dataset, seed: int) -> Dataset:
    """Permute the pixels of all images by `order = pixel_order(seed, H·W)`.

    Pixel i of a new image is pixel `order[i]` of the old one, in every channel and split. For a fully connected net,
    each order is a task of the same difficulty, and learning one does not help with another (Goodfellow et al. 2013,
    arXiv:1312.6211).

    Raises:
        UsageError: the images have masks.

    Example:
        >>> permute_pixels(load_dataset("mnist"), 1).train  # doctest: +SKIP
        Split(50000 images of 1×28×28)
    """
    if data.train.labels.ndim > 1:
        raise UsageError(f"permutation: {data.name} has masks, which belong to the pixels where they are")
    order = pixel_order(seed, data.input_shape[1] * data.input_shape[2])
    return data.prepared_by(partial(_permuted, order=order), f"pixels permuted with seed {seed}")


def _permuted(split: Split, *, order: np.ndarray) -> Split:
    images = split.images
    return Split(images.reshape(*images.shape[:2], len(order))[:, :, order].reshape(images.shape), split.labels)
