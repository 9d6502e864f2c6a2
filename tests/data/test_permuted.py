"""Permuted pixels: one order for all images, which depends on the seed."""

from __future__ import annotations

import numpy as np
import pytest

from onebit.data import Dataset, permute_pixels
from onebit.errors import UsageError


def colors() -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 5, 4), dtype=np.uint8)
    labels = np.arange(12) % 3
    return Dataset.from_arrays((images[:8], labels[:8]), (images[8:], labels[8:]), validation=2)


def test_every_image_has_its_pixels_in_the_same_new_order() -> None:
    data = colors()
    permuted = permute_pixels(data, 7)
    order = np.random.default_rng(7).permutation(20)
    for part in ("train", "validation", "test"):
        was, now = getattr(data, part), getattr(permuted, part)
        assert np.array_equal(now.labels, was.labels)
        for i in range(len(was)):
            for channel in range(3):
                assert np.array_equal(now.images[i, channel].ravel(), was.images[i, channel].ravel()[order])
    assert permuted.note == "pixels permuted with seed 7"


def test_masks_are_refused() -> None:
    masks = np.zeros((12, 5, 4), np.uint8)
    images = colors().train.images
    data = Dataset.from_arrays((images, masks[:6]), (images, masks[:6]), classes=("a", "b"))
    with pytest.raises(UsageError, match="masks"):
        permute_pixels(data, 1)
