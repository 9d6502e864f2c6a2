"""Random crops, flips and cutout equal their definition, one image at a time; resized arrays equal those of Pillow."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from onebit.data import Augmentation, DatasetEntry, LoadedFiles, TrainingImages, load_dataset, make_toy
from onebit.data.decoding import decode_image
from onebit.data.resizing import crop_box, resize_images, resized_crops
from onebit.data.training_images import MAX_LOG_RATIO


def one_by_one(images: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """The documented meaning, one image at a time, with the documented order of draws."""
    count, _, height, width = images.shape
    padding, side = augmentation.crop_padding, augmentation.cutout
    crops, (top, left), coins = np.zeros((count, 4)), np.zeros((2, count), int), np.zeros(count, bool)
    if augmentation.min_area:
        low, high = [augmentation.min_area, -MAX_LOG_RATIO, 0, 0], [1, MAX_LOG_RATIO, 1, 1]
        crops = np.stack([[rng.uniform(a, b) for a, b in zip(low, high, strict=True)] for _ in range(count)] or [low])
    if padding:
        top, left = rng.integers(0, 2 * padding + 1, (2, count))
    if augmentation.flip:
        coins = rng.random(count) < 0.5
    rows, columns = (rng.integers(0, size, count) if side else np.zeros(count, int) for size in (height, width))
    result = np.zeros_like(images)
    mode = {"zero": "constant", "reflect": "reflect"}[augmentation.padding_mode]
    for n, image in enumerate(images):
        if augmentation.min_area:
            image = resized_crops(image[None], crops[n : n + 1])[0]
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode)  # type: ignore[call-overload]
        window = padded[:, top[n] : top[n] + height, left[n] : left[n] + width]
        result[n] = window[..., ::-1] if coins[n] else window
        for y, x in np.ndindex(height, width):
            if side and 0 <= y - rows[n] + side // 2 < side and 0 <= x - columns[n] + side // 2 < side:
                result[n, :, y, x] = 0
    return result


AUGMENTATIONS = st.builds(
    Augmentation,
    crop_padding=st.integers(0, 3),
    flip=st.booleans(),
    padding_mode=st.sampled_from(["zero", "reflect"]),
    cutout=st.integers(0, 5),
) | st.builds(Augmentation, flip=st.booleans(), cutout=st.integers(0, 3), min_area=st.floats(0.05, 1))
SHAPES = st.tuples(st.integers(0, 5), st.sampled_from([1, 3]), st.integers(1, 6), st.integers(1, 6))


@settings(deadline=None)
@given(
    shape=SHAPES,
    augmentation=AUGMENTATIONS,
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    channels_last=st.booleans(),
    nhwc=st.booleans(),
    part=st.builds(slice, st.integers(-3, 3), st.integers(0, 9) | st.none()),
)
def test_batches_equal_a_loop_over_single_images(
    shape: tuple[int, int, int, int],
    augmentation: Augmentation,
    seed: int,
    sizes: list[int],
    channels_last: bool,
    nhwc: bool,
    part: slice,
) -> None:
    augmentation = replace(augmentation, cutout=min(augmentation.cutout, min(shape[2:]) - 1))
    choice = np.random.default_rng(seed + 1)
    images = choice.integers(1, 256, shape).astype(np.uint8)
    before = images.copy()
    if nhwc:
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    training = TrainingImages(images, augmentation, channels_last=channels_last)
    rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
    made = []
    for size in sizes:  # working memory is used again by larger and smaller batches
        indices = choice.integers(0, shape[0], size if shape[0] else 0)
        got = training.batch(indices, rng, part=part)
        whole = one_by_one(images[indices], augmentation, same)
        assert got.dtype == np.uint8
        assert (got.transpose(0, 2, 3, 1) if channels_last else got).flags.c_contiguous
        made.append((got, whole[part]))
    for got, expected in made:  # no batch lies in the memory of another
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(images, before)


# ---------------------------------------------------------------------------------------------------------------- sizes
def by_pillow(image: np.ndarray, size: int) -> np.ndarray:
    """The largest centered square, resized."""
    height, width = image.shape[:2]
    left, top = (width - min(height, width)) / 2, (height - min(height, width)) / 2
    box = (left, top, width - left, height - top)
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box))


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)),
    size=st.integers(1, 30),
    seed=st.integers(0, 2**32),
)
def test_each_channel_is_resized_as_by_pillow(shape: tuple[int, int, int, int], size: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    got = resize_images(images, size)
    assert got.shape == (*shape[:2], size, size)
    assert got.dtype == np.uint8
    for image, resized in zip(images.reshape(-1, *shape[2:]), got.reshape(-1, size, size), strict=True):
        np.testing.assert_array_equal(resized, by_pillow(image, size))


def test_resized_arrays_are_what_predict_makes_of_a_photo(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 23), dtype=np.uint8)
    Image.fromarray(images[1].transpose(1, 2, 0)).save(tmp_path / "photo.png")
    np.testing.assert_array_equal(
        resize_images(images, 6)[1].transpose(1, 2, 0), decode_image(str(tmp_path / "photo.png"), (6, 6))
    )


def test_a_data_set_in_another_size() -> None:
    train, test = make_toy(20, 8)
    small = DatasetEntry("small", "", lambda **_: LoadedFiles(train, test, "", (), classes=tuple("abcd")), validation=4)
    larger = load_dataset(small, input_size=11)
    assert larger.input_shape == (1, 11, 11)
    assert np.array_equal(larger.validation.labels, load_dataset(small).validation.labels)
    np.testing.assert_array_equal(larger.test.images[3, 0], by_pillow(test.images[3, 0], 11))
    assert np.array_equal(load_dataset(small, input_size=8).test.images, test.images)


@given(
    width=st.integers(1, 500),
    height=st.integers(1, 500),
    share=st.floats(0.01, 1),
    log_ratio=st.floats(-0.29, 0.29),
    top=st.floats(0, 1),
    left=st.floats(0, 1),
)
def test_a_crop_is_inside_the_image_and_has_the_drawn_shape(
    width: int, height: int, share: float, log_ratio: float, top: float, left: float
) -> None:
    x0, y0, x1, y1 = crop_box(width, height, np.array([share, log_ratio, top, left]))
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    if x1 - x0 < width * (1 - 1e-9) and y1 - y0 < height * (1 - 1e-9):
        assert (x1 - x0) * (y1 - y0) == pytest.approx(share * width * height)
        assert math.log((x1 - x0) / (y1 - y0)) == pytest.approx(log_ratio, abs=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_crops_of_arrays(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, channels, 20, 24), dtype=np.uint8)
    whole = np.tile([1.0, math.log(24 / 20), 0, 0], (5, 1))
    np.testing.assert_array_equal(resized_crops(images, whole), images)
    quarter = np.tile([0.25, math.log(24 / 20), 1, 0], (5, 1))  # the lower left quarter
    got = resized_crops(images, quarter)
    cut = Image.fromarray(images[2, 0]).resize((24, 20), Image.Resampling.BILINEAR, (0, 10, 12, 20))
    np.testing.assert_array_equal(got[2, 0], np.asarray(cut))
