"""Random crop and mirror: every output is a window of the padded image, by the stated law, from the rng alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebit.data import Augmentation, augment_images
from onebit.errors import UsageError


def one_by_one(images: np.ndarray, padding: int, flip: bool, rng: np.random.Generator) -> np.ndarray:
    """The documented meaning, an image at a time, with the documented order of draws."""
    count, _, height, width = images.shape
    top, left = np.zeros(count, int), np.zeros(count, int)
    if padding:
        top, left = rng.integers(0, 2 * padding + 1, (2, count))
    coins = np.asarray(rng.random(count) < 0.5 if flip else np.zeros(count, bool))
    result = np.zeros_like(images)
    for n, c, y, x in np.ndindex(images.shape):
        column = width - 1 - x if coins[n] else x
        from_y, from_x = y + top[n] - padding, column + left[n] - padding
        if 0 <= from_y < height and 0 <= from_x < width:
            result[n, c, y, x] = images[n, c, from_y, from_x]
    return result


@given(
    shape=st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_equals_the_loop_over_single_images(
    shape: tuple[int, int, int, int], padding: int, flip: bool, seed: int
) -> None:
    images = np.random.default_rng(seed + 1).integers(1, 256, shape).astype(np.uint8)
    before = images.copy()
    got = augment_images(images, Augmentation(padding, flip), rng=np.random.default_rng(seed))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, one_by_one(images, padding, flip, np.random.default_rng(seed)))
    np.testing.assert_array_equal(images, before)


def test_all_windows_and_both_sides_come_up_equally_often() -> None:
    marked = np.zeros((9000, 1, 5, 5), np.uint8)
    marked[:, 0, 2, 2], marked[:, 0, 2, 3] = 1, 2  # a point, and its right neighbour to tell the mirrored ones
    got = augment_images(marked, Augmentation(1, True), rng=np.random.default_rng(0))[:, 0]
    image, row, column = np.nonzero(got == 1)
    assert len(image) == 9000  # one pixel of padding cannot push the point out
    mirrored = got[image, row, column - 1] == 2
    counts = np.zeros((2, 3, 3))
    np.add.at(counts, (mirrored.astype(int), row - 1, column - 1), 1)
    # chi-square with 17 degrees of freedom: 40.8 is passed by 1 fair draw in 1,000
    assert (((counts - 500) ** 2) / 500).sum() < 40.8


def test_padding_is_zero() -> None:
    white = np.full((64, 3, 4, 4), 255, np.uint8)
    got = augment_images(white, Augmentation(crop_padding=2), rng=np.random.default_rng(0))
    assert set(np.unique(got)) == {0, 255}


def test_the_rng_decides_and_moves_on() -> None:
    images = np.random.default_rng(0).integers(0, 256, (32, 1, 8, 8)).astype(np.uint8)
    rng = np.random.default_rng(1)
    first, second = (augment_images(images, Augmentation(2, True), rng=rng) for _ in range(2))
    again = augment_images(images, Augmentation(2, True), rng=np.random.default_rng(1))
    np.testing.assert_array_equal(first, again)
    assert (first != second).any()


def test_nothing_asked_gives_the_images_and_draws_nothing() -> None:
    images = np.zeros((4, 1, 8, 8), np.uint8)
    rng = np.random.default_rng(0)
    state = rng.bit_generator.state
    assert augment_images(images, Augmentation(), rng=rng) is images
    assert rng.bit_generator.state == state


def test_negative_padding_is_refused() -> None:
    with pytest.raises(UsageError, match="crop_padding=-1: expected 0 or more pixels"):
        Augmentation(crop_padding=-1)
