"""Streamed images are indexed like an array, and can be used in place of one."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from tiny_folder import write

from onebit.data import Augmentation, Split, StreamedImages, TrainingImages, hold_out, prefetched, read_batches, splits

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
ARRAY = PIXELS.transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> StreamedImages:
    folder = tmp_path_factory.mktemp("images")
    return StreamedImages([str(write(folder / f"{i}.png", image)) for i, image in enumerate(PIXELS)], (6, 5), workers=2)


@pytest.mark.parametrize(
    "index",
    [
        slice(None),
        slice(3, 9),
        slice(20, 2, -3),
        slice(4, 4),
        [5, 1, 5, -1],
        np.arange(30) % 4 == 0,
        np.array([7]),
        11,
        -1,
    ],
    ids=str,
)
def test_indexing_equals_that_of_an_array(index: object, streamed: StreamedImages) -> None:
    got = streamed[index]
    np.testing.assert_array_equal(got, ARRAY[index])  # type: ignore[index]
    assert got.dtype == np.uint8
    if got.ndim == 4:
        subset = streamed.subset(index)
        assert (subset.shape, len(subset), subset.ndim, subset.dtype) == (got.shape, len(got), 4, np.uint8)
        np.testing.assert_array_equal(subset[:], got)


def test_wrong_indices_are_index_errors(streamed: StreamedImages) -> None:
    for index in (30, [1, 30], (1, 2)):
        with pytest.raises(IndexError):
            _ = streamed[index]


def test_a_split_of_streamed_images_reads_nothing_until_it_must(streamed: StreamedImages) -> None:
    labels = np.arange(30, dtype=np.int64) % 4
    split, whole = Split(streamed, labels), Split(ARRAY, labels)
    assert repr(split) == repr(whole)
    hold_out(Split(StreamedImages(["missing"] * 30, (6, 5)), labels), 7, seed=3)
    for a, b in zip(hold_out(split, 7, seed=3), hold_out(whole, 7, seed=3), strict=True):
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.images[:], b.images)
    assert split.channel_statistics() == whole.channel_statistics()


def test_statistics_of_streamed_images_come_from_a_sample(
    streamed: StreamedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "STATISTICS_IMAGES", 8)
    split = Split(streamed, np.zeros(30, np.int64))
    mean, deviation = split.channel_statistics()
    assert (mean, deviation) == split.channel_statistics()
    sample = np.sort(np.random.default_rng(0).choice(30, 8, replace=False))
    assert mean == pytest.approx(ARRAY[sample].mean(axis=(0, 2, 3)))
    assert deviation == pytest.approx(ARRAY[sample].std(axis=(0, 2, 3)))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "augmentation",
    [None, Augmentation(2, True), Augmentation(0, True, cutout=3), Augmentation(min_area=0.3, flip=True)],
    ids=str,
)
def test_training_batches_of_streamed_images_are_the_same(
    augmentation: Augmentation | None, channels_last: bool, streamed: StreamedImages
) -> None:
    order = np.random.default_rng(1).permutation(30)
    chosen = [order[:8], order[8:16], order[16:]]
    made = []
    for images in (ARRAY, streamed):
        training = TrainingImages(images, augmentation, channels_last=channels_last)
        rng = np.random.default_rng(2)
        made.append([training.batch(rows, rng) for rows in chosen])
        again = list(training.batches([(indices, slice(1, 5)) for indices in chosen], np.random.default_rng(2)))
        for one, other in zip(made[0], again, strict=True):
            np.testing.assert_array_equal(one[1:5], other)
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.strides == other.strides


def test_batches_to_evaluate(streamed: StreamedImages) -> None:
    indices = [slice(0, 12), slice(12, 24), np.arange(24, 30)]
    for images in (ARRAY, streamed):
        parts = list(read_batches(images, indices))
        assert [len(part) for part in parts] == [12, 12, 6]
        np.testing.assert_array_equal(np.concatenate(parts), ARRAY)


def test_prefetched_items_are_in_order_and_limited() -> None:
    made = []

    def items() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            yield i

    got = []
    for item in prefetched(items(), ahead=2):
        got.append(item)
        time.sleep(0.002)
        assert len(made) <= item + 3
    assert got == list(range(10))
    assert list(prefetched([])) == []


def test_prefetching_passes_errors_on_and_can_be_closed() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    found = prefetched(items())
    assert next(found) == 1
    with pytest.raises(ValueError, match="broken"):
        next(found)
    left = prefetched(iter(range(1000)))
    assert next(left) == 0
    left.close()  # type: ignore[attr-defined]
