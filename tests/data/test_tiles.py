"""Images cut into tiles, and masks joined from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from onebit.data import VOID, Split, Tiling, fitted
from onebit.data.tiles import mirrored
from onebit.errors import DataError


def test_indices_are_mirrored_at_both_ends() -> None:
    assert mirrored(np.arange(-4, 9), 4).tolist() == [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert mirrored(np.arange(-2, 3), 1).tolist() == [0] * 5
    padded = np.pad(np.arange(4), 3, mode="reflect")
    assert np.array_equal(padded, mirrored(np.arange(-3, 7), 4))


sides = st.integers(1, 40)


@settings(max_examples=30)
@given(st.tuples(sides, sides), st.tuples(st.integers(8, 24), st.integers(8, 24)), st.sampled_from([0, 2, 6]))
def test_joined_tiles_give_the_image_and_masks_have_each_pixel_once(
    image: tuple[int, int], made: tuple[int, int], lost: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (2, 3, *image), dtype=np.uint8)
    tiling = Tiling(image, (made[0] + lost, made[1] + lost), made)
    tiles = tiling.cut(pixels)
    border = lost // 2
    inner = tiles[:, :, border : border + made[0], border : border + made[1]]
    assert np.array_equal(tiling.join(inner), pixels)
    masks = tiling.cut_masks(pixels[:, 0])
    assert len(masks) == len(tiles)
    known = masks != VOID
    assert known.sum() == pixels[:, 0].size
    assert np.array_equal(masks[known], inner[:, 0][known])


def test_a_net_with_zero_padding_drops_the_borders_between_tiles() -> None:
    assert Tiling((64, 64), (64, 64), (64, 64)).spans(0) == [(0, 0, 64)]
    assert Tiling((100, 64), (64, 64), (64, 64)).spans(0) == [(0, 0, 44), (36, 44, 100)]
    assert Tiling((700, 700), (572, 572), (388, 388)).spans(1) == [(0, 0, 312), (312, 312, 700)]


def test_a_split_of_the_size_of_the_net_is_unchanged() -> None:
    split = Split(np.zeros((2, 1, 8, 8), np.uint8), np.zeros((2, 8, 8), np.uint8))
    assert fitted(split, (1, 8, 8), (2, 8, 8)) is split
    tiles = fitted(split, (1, 12, 12), (2, 4, 4))
    assert tiles.images.shape == (8, 1, 12, 12)
    assert tiles.labels.shape == (8, 4, 4)
    assert fitted(tiles, (1, 12, 12), (2, 4, 4)) is tiles


def test_masks_of_neither_the_images_nor_the_net_are_refused() -> None:
    split = Split(np.zeros((2, 1, 8, 8), np.uint8), np.zeros((2, 6, 6), np.uint8))
    with pytest.raises(DataError, match="masks"):
        fitted(split, (1, 12, 12), (2, 4, 4))
