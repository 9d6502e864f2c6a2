"""Random crops, flips and cutout: the batches equal those of the definition, one image at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings, strategies as st

from onebit.data import Augmentation, TrainingImages
from onebit.data.resizing import resized_crops
from onebit.data.training_images import LARGEST_LOG_RATIO


def one_by_one(images: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """The documented meaning, one image at a time, with the documented order of draws."""
    count, _, height, width = images.shape
    padding, side = augmentation.crop_padding, augmentation.cutout
    crops, (top, left), coins = np.zeros((count, 4)), np.zeros((2, count), int), np.zeros(count, bool)
    if augmentation.min_area:
        low, high = [augmentation.min_area, -LARGEST_LOG_RATIO, 0, 0], [1, LARGEST_LOG_RATIO, 1, 1]
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
