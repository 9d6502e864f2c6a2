"""Random changes to images together with their masks; images cut into tiles, and masks joined from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from onebit.data import VOID, Augmentation, Split, Tiling, TrainingSamples, fitted
from onebit.data.mask_augment import MaskedImages, _gaussian
from onebit.data.tiles import mirrored
from onebit.errors import DataError, UsageError
from support.image_folders import blobs

MASKS = np.array([blobs(i, 40) for i in range(6)], np.uint8)
IMAGES = np.repeat(MASKS[:, np.newaxis] * np.uint8(250), 3, axis=1)
IMAGES[:, 1] = np.random.default_rng(0).integers(0, 256, MASKS.shape)
ALL = {"flip": True, "flip_vertical": True, "rotate": True}
INDICES = np.array([4, 0, 5, 1, 1])


def batch(seed: int = 0, *, part: slice = slice(None), channels_last: bool = True, **options: Any) -> Any:
    samples = MaskedImages(IMAGES, MASKS, Augmentation(**options), channels_last=channels_last)
    return samples.batch(INDICES, np.random.default_rng(seed), part=part)


@pytest.mark.parametrize(
    ("options", "channels_last"),
    [(ALL, True), ({"crop_size": 16, **ALL}, False), ({"crop_size": 44, "crop_padding": 6, **ALL}, True)],
)
def test_a_mask_moves_with_its_image(options: dict[str, Any], channels_last: bool) -> None:
    reflect = {"padding_mode": "reflect"} if "crop_padding" in options else {}
    images, masks = batch(channels_last=channels_last, **options, **reflect)
    side = options.get("crop_size", 40)
    assert images.shape == (5, 3, side, side)
    assert images.transpose(0, 2, 3, 1).flags.c_contiguous == channels_last
    assert np.array_equal(images[:, 0], masks * 250)
    assert not np.array_equal(images[3], images[4])  # the same image twice, each with its own draws


def test_every_rotation_and_flip_is_drawn() -> None:
    samples = MaskedImages(IMAGES, MASKS, Augmentation(**ALL), channels_last=True)
    seen = samples.batch(np.full(200, 2), np.random.default_rng(0))[0][:, 1]
    whole = IMAGES[2, 1]
    for turned in range(4):
        for flipped in (whole, whole[:, ::-1]):
            assert any(np.array_equal(np.rot90(flipped, turned), image) for image in seen)
    upright = MaskedImages(IMAGES, MASKS, Augmentation(flip=True), channels_last=True)
    seen = upright.batch(np.full(50, 2), np.random.default_rng(0))[0][:, 1]
    assert {np.array_equal(image, whole) or np.array_equal(image, whole[:, ::-1]) for image in seen} == {True}


def test_a_window_beyond_the_border_shows_the_mirrored_image() -> None:
    images, masks = batch(crop_size=60, crop_padding=10, padding_mode="reflect")
    assert np.array_equal(masks[0], np.pad(MASKS[4], 10, mode="reflect"))
    assert np.array_equal(images[0, 1], np.pad(IMAGES[4, 1], 10, mode="reflect"))


def test_an_elastic_deformation_changes_image_and_mask_alike() -> None:
    images, masks = batch(elastic=3.0, elastic_smoothness=6.0)
    assert set(np.unique(masks)) == {0, 1}
    assert not np.array_equal(masks, MASKS[INDICES])
    # bilinear against nearest: they differ where the image has values between, at the edges of the discs
    sharp = (images[:, 0] == 0) | (images[:, 0] == 250)
    assert sharp.mean() > 0.7
    assert np.array_equal(images[:, 0][sharp] > 0, masks[sharp] > 0)
    still, moved = MASKS[INDICES].mean(), masks.mean()
    assert abs(still - moved) < 0.1


def test_the_displacement_is_as_large_and_as_smooth_as_requested() -> None:
    samples = MaskedImages(IMAGES, MASKS, Augmentation(elastic=2.5, elastic_smoothness=8.0), channels_last=True)
    moved = samples.displacement(600, np.random.default_rng(0), slice(None))
    assert moved.std(axis=(0, 1)) == pytest.approx(2.5, rel=0.15)
    assert np.abs(np.diff(moved, axis=2)).mean() < 0.3
    assert np.square(_gaussian(40, 8.0)).sum(axis=1) == pytest.approx(1, rel=1e-5)


def test_the_same_seed_gives_the_same_batch_and_parts() -> None:
    options = {"crop_size": 24, "elastic": 2.0, **ALL}
    images, masks = batch(3, **options)
    again = batch(3, **options)
    assert np.array_equal(images, again[0])
    assert np.array_equal(masks, again[1])
    part = batch(3, part=slice(2, 5), **options)
    assert np.array_equal(images[2:5], part[0])
    assert np.array_equal(masks[2:5], part[1])
    assert not np.array_equal(images, batch(4, **options)[0])
    for unchanged, expected in zip(batch(), (IMAGES, MASKS), strict=True):
        assert np.array_equal(unchanged, expected[INDICES])


def test_an_epoch_uses_each_image_repeats_times() -> None:
    samples = TrainingSamples(Split(IMAGES, MASKS), Augmentation(repeats=3), channels_last=False)
    order = samples.order(np.random.default_rng(0))
    assert np.bincount(order).tolist() == [3] * 6
    labelled = TrainingSamples(Split(IMAGES, np.arange(6)), None, channels_last=False)
    rng = np.random.default_rng(0)
    assert np.array_equal(labelled.order(np.random.default_rng(0)), rng.permutation(6))
    [(images, labels)] = labelled.batches([(np.array([3, 1, 0]), slice(1, 3))], rng)
    assert np.array_equal(images, IMAGES[[1, 0]])
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize("options", [{"cutout": 4}, {"min_area": 0.5}, {"crop_padding": 4}, {"crop_size": 41}], ids=str)
def test_options_that_do_not_work_with_masks_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        TrainingSamples(Split(IMAGES, MASKS), Augmentation(**options), channels_last=False)


@pytest.mark.parametrize("options", [{"crop_size": 8}, {"flip_vertical": True}, {"rotate": True}, {"elastic": 1.0}])
def test_options_for_masks_are_refused_with_labels(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        TrainingSamples(Split(IMAGES, np.arange(6)), Augmentation(**options), channels_last=False)


# ---------------------------------------------------------------------------------------------------------------- tiles
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
