"""Batches made on a device are those that numpy makes, pixel for pixel."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
from hypothesis import given, settings, strategies as st

from onebit.data import Augmentation, Split, TrainingSamples
from onebit.train.feeds import DeviceBatches

CPU = torch.device("cpu")


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 6)),
    augmentation=st.builds(
        Augmentation,
        crop_padding=st.integers(0, 3),
        flip=st.booleans(),
        padding_mode=st.sampled_from(["zero", "reflect"]),
        cutout=st.integers(0, 5),
        repeats=st.integers(1, 2),
    ),
    seed=st.integers(0, 2**32),
    channels_last=st.booleans(),
    part=st.builds(slice, st.integers(0, 2), st.integers(3, 9) | st.none()),
)
def test_held_images_make_the_same_batches(
    shape: tuple[int, int, int, int], augmentation: Augmentation, seed: int, channels_last: bool, part: slice
) -> None:
    augmentation = replace(augmentation, cutout=min(augmentation.cutout, min(shape[2:]) - 1))
    choice = np.random.default_rng(seed + 1)
    split = Split(choice.integers(1, 256, shape).astype(np.uint8), np.arange(shape[0]))
    samples = TrainingSamples(split, augmentation, channels_last=channels_last)
    chosen = [(choice.integers(0, shape[0], size), part) for size in (4, 1, 7)]
    rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
    with patch("onebit.train.feeds._fits", return_value=True):
        made = list(DeviceBatches(samples, CPU).batches(chosen, rng))
    expected = list(samples.batches(chosen, same))
    assert len(made) == len(expected) == 3
    for (images, labels), (pixels, numbers) in zip(made, expected, strict=True):
        np.testing.assert_array_equal(images, pixels)
        np.testing.assert_array_equal(labels, numbers)
        assert images.dtype == torch.uint8
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert images.is_contiguous(memory_format=layout)
    assert rng.random() == same.random()


def test_images_not_kept_on_the_device_are_copied() -> None:
    """The device has no memory; it takes the place of a GPU."""
    split = Split(np.zeros((6, 3, 8, 8), np.uint8), np.arange(6))
    samples = TrainingSamples(split, Augmentation(min_area=0.5), channels_last=True)
    chosen = [(np.arange(4), slice(0, 4)), (np.arange(6), slice(1, 3))]
    made = list(DeviceBatches(samples, torch.device("meta")).batches(chosen, np.random.default_rng(0)))
    assert [tuple(images.shape) for images, _ in made] == [(4, 3, 8, 8), (2, 3, 8, 8)]
    assert all(images.is_meta and labels.is_meta for images, labels in made)
