"""A data set with the pixels of all images in another order: the tasks of permuted MNIST."""

from __future__ import annotations

import dataclasses

import numpy as np

from onebit.data.splits import Dataset, Split
from onebit.data.streaming import StreamedImages
from onebit.errors import UsageError


def permute_pixels(data: Dataset, seed: int) -> Dataset:
    """The data set with the pixels of each image in the order `numpy.random.default_rng(seed).permutation(H·W)`.

    Pixel i of the new images is pixel `order[i]` of the old ones, in all channels and all splits alike. To a fully
    connected net each order is a task of the same difficulty, and what it knows of one order says nothing of another
    (Goodfellow et al. 2013, arXiv:1312.6211).

    Raises:
        UsageError: the images do not lie in memory.

    Example:
        >>> permute_pixels(load_dataset("mnist"), 1).train  # doctest: +SKIP
        Split(50000 images of 1×28×28)
    """
    if isinstance(data.train.images, StreamedImages):
        raise UsageError(
            f"permutation={seed}: the images of {data.name} are too many for memory; permute a smaller set"
        )
    order = np.random.default_rng(seed).permutation(data.input_shape[1] * data.input_shape[2])

    def permuted(split: Split) -> Split:
        images = split.images
        return Split(images.reshape(*images.shape[:2], len(order))[:, :, order].reshape(images.shape), split.labels)

    note = "; ".join(filter(None, (data.note, f"pixels permuted with seed {seed}")))
    train, validation, test = map(permuted, (data.train, data.validation, data.test))
    return dataclasses.replace(data, train=train, validation=validation, test=test, note=note)
