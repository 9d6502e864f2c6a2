"""Splits, the seeded validation split, and data sets made from arrays and from a file of them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from onebit.data import Dataset, Split, load_dataset, make_toy, permute_pixels
from onebit.data.resizing import resize_images
from onebit.data.splits import hold_out
from onebit.errors import DataError, UnknownNameError, UsageError


def numbered(count: int) -> Split:
    """Images that carry their own number, so that a split can be read back."""
    images = np.arange(count, dtype="<u4").view(np.uint8).reshape(count, 1, 2, 2)
    return Split(images, np.arange(count, dtype=np.int64) % 10)


def numbers(split: Split) -> np.ndarray:
    return np.ascontiguousarray(split.images).reshape(len(split), 4).view("<u4").ravel()


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))), st.integers(0, 2**32))
def test_hold_out_is_a_seeded_partition_in_order(sizes: tuple[int, int], seed: int) -> None:
    total, count = sizes
    train, validation = hold_out(numbered(total), count, seed=seed)
    chosen = np.random.default_rng(seed).permutation(total)[:count]
    np.testing.assert_array_equal(numbers(validation), np.sort(chosen))
    np.testing.assert_array_equal(numbers(train), np.setdiff1d(np.arange(total), chosen))
    np.testing.assert_array_equal(train.labels, numbers(train) % 10)
    np.testing.assert_array_equal(validation.labels, numbers(validation) % 10)


@pytest.mark.parametrize("count", [-1, 30])
def test_hold_out_must_leave_training_images(count: int) -> None:
    with pytest.raises(UsageError, match="validation"):
        hold_out(numbered(30), count, seed=0)
    everything, none = hold_out(numbered(30), 0, seed=0)
    assert (len(everything), none.images.shape) == (30, (0, 1, 2, 2))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 1, 4, 4), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 16), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 1, 4, 4), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 1, 4, 4), np.uint8), np.zeros((2, 1), np.int64)),
        (np.zeros((2, 1, 4, 4), np.uint8), np.zeros(2)),
    ],
)
def test_split_refuses_other_arrays(images: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(DataError):
        Split(images, labels)
    with pytest.raises(DataError):
        Dataset.from_arrays((images, labels), (images, labels))


def test_from_arrays_converts_and_splits() -> None:
    images = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)
    labels = np.array([0, 1, 2, 0, 1, 2], np.uint8)
    data = Dataset.from_arrays((images, labels), (images[:3], [2, 1, 0]), validation=2, split_seed=3, name="mine")
    assert data.name == "mine"
    assert data.classes == ("0", "1", "2")
    assert data.input_shape == (1, 4, 4)
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 2, 3)
    assert data.train.labels.dtype == data.test.labels.dtype == np.int64
    expected, _ = hold_out(Split(images[:, None], labels.astype(np.int64)), 2, seed=3)
    np.testing.assert_array_equal(data.train.images, expected.images)
    np.testing.assert_array_equal(data.test.images[:, 0], images[:3])


def test_from_arrays_refuses_other_labels_sizes_and_layouts() -> None:
    images, labels = np.zeros((3, 8, 9, 3), np.uint8), np.array([0, 1, 2])
    with pytest.raises(DataError, match="transpose"):
        Dataset.from_arrays((images, labels), (images, labels))
    images = images.transpose(0, 3, 1, 2)
    assert Dataset.from_arrays((images, labels), (images, labels)).input_shape == (3, 8, 9)
    with pytest.raises(DataError, match="train"):
        Dataset.from_arrays((images, labels), (images, labels), classes=["cat", "dog"])
    for other in ((images, labels - 1), (np.zeros((3, 3, 5, 5), np.uint8), labels)):
        with pytest.raises(DataError, match="test"):
            Dataset.from_arrays((images, labels), other)


@pytest.mark.parametrize("shape", [(7, 3, 6, 5), (3, 2, 300, 400)])
def test_channel_statistics_are_exact_and_need_little_memory(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for values in (images, np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)):
        split = Split(values, np.zeros(shape[0], np.int64))
        mean, deviation = split.channel_statistics()
        exact = images.astype(np.float64)
        assert mean == pytest.approx(exact.mean(axis=(0, 2, 3)), rel=1e-13)
        assert deviation == pytest.approx(exact.std(axis=(0, 2, 3)), rel=1e-12)
    large = Split(np.zeros((6_000, 3, 32, 32), np.uint8), np.zeros(6_000, np.int64))
    tracemalloc.start()
    assert large.channel_statistics() == ([0, 0, 0], [0, 0, 0])
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_the_digest_depends_on_images_labels_and_classes() -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 8, 8), dtype=np.uint8), np.arange(20) % 2

    def digest(images: np.ndarray = images, labels: np.ndarray = labels, **options: Any) -> str:
        return Dataset.from_arrays((images, labels), (images[:4], labels[:4]), **options).digest

    assert digest() == digest(images.copy(), labels.astype(np.int32), name="other", note="seen")
    others = [
        digest(images[::-1]),
        digest(labels=1 - labels),
        digest(classes=("a", "b")),
        digest(validation=2),
        digest(validation=2, split_seed=1),
    ]
    assert len({digest(), *others}) == 6


@pytest.mark.parametrize("channels", [1, 3])
def test_images_have_the_strides_of_their_shape(channels: int) -> None:
    """From NHWC memory, and of a part: a plain torch net can flatten its outputs with `view`."""
    nhwc = np.random.default_rng(0).integers(0, 256, (20, 8, 6, channels), dtype=np.uint8)
    pair = nhwc.transpose(0, 3, 1, 2), np.arange(20) % 2
    data = Dataset.from_arrays(pair, pair, validation=5)
    small = data.changed(lambda split: Split(resize_images(split.images, 5), split.labels))
    for split in (data.train, data.validation, data.test, data.train[::2], small.train, permute_pixels(data, 1).test):
        assert split.images.strides == np.empty(split.images.shape, np.uint8).strides
        images = torch.from_numpy(split.images[:3]).float()
        assert nn.Conv2d(channels, 2, 3)(images).view(3, -1).shape[0] == 3


def test_images_that_repeat_one_value_take_little_memory() -> None:
    """Such images take the place of a data set while a recipe is checked."""
    images = np.broadcast_to(np.uint8(7), (10_000, 3, 32, 32))
    split = Split(images, np.zeros(10_000, np.int64))
    assert split[:10].images.strides == (0, 0, 0, 0)
    assert np.shares_memory(split.images, images)


# ----------------------------------------------------------------------------------------------------- a file of arrays
def arrays(**changes: Any) -> dict[str, Any]:
    """The arrays of a file; None leaves a key out."""
    train, test = make_toy(40, 20)
    held = {"train_images": train.images, "train_labels": train.labels}
    held |= {"test_images": test.images, "test_labels": test.labels, **changes}
    return {key: value for key, value in held.items() if value is not None}


def write(path: Path, **changes: Any) -> Path:
    np.savez(path, **arrays(**changes))
    return path


def test_the_arrays_of_a_file_become_a_data_set(tmp_path: Path) -> None:
    held = arrays()
    path = write(tmp_path / "own.npz")
    found = load_dataset("arrays", directory=path, validation=10, split_seed=3)
    pairs = [(held[f"{part}_images"], held[f"{part}_labels"]) for part in ("train", "test")]
    expected = Dataset.from_arrays(*pairs, validation=10, split_seed=3)
    for part in ("train", "validation", "test"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert found.classes == expected.classes == ("0", "1", "2", "3")
    assert found.digest == expected.digest
    assert (found.name, found.directory) == ("arrays", str(path.resolve()))
    assert load_dataset("mine", directory=path).name == "mine"
    with pytest.raises(UnknownNameError):
        load_dataset("mine", directory=tmp_path)


def test_own_validation_images_and_names(tmp_path: Path) -> None:
    own = make_toy(7, 3)[0]
    names = np.array(["cat", "dog", "boat", "car"])
    held = {"validation_images": own.images, "validation_labels": own.labels.astype(np.uint8), "classes": names}
    path = write(tmp_path / "own.npz", **held)
    for validation in (None, 7):  # a run stores the number
        data = load_dataset("arrays", directory=path, validation=validation, input_size=4)
        np.testing.assert_array_equal(data.validation.labels, own.labels)
        assert [part.images.shape[1:] for part in (data.train, data.validation, data.test)] == 3 * [(1, 4, 4)]
        assert data.classes == ("cat", "dog", "boat", "car")
    assert len(load_dataset("arrays", directory=path, validation=0).validation) == 0
    changed = write(tmp_path / "changed.npz", **{**held, "validation_images": 255 - own.images})
    assert data.files_digest != load_dataset("arrays", directory=changed, input_size=4).files_digest
    other = load_dataset("mine", directory=path, validation=5)
    assert (len(other.train), len(other.validation)) == (35, 5)


@pytest.mark.parametrize(
    "changes",
    [
        {"test_labels": None},
        {"validation_images": np.zeros((2, 1, 8, 8), np.uint8)},
        {"x": np.zeros(3)},
        {"train_images": np.zeros((40, 1, 8, 8))},
        {"test_labels": np.zeros(20)},
        {"test_labels": np.zeros(19, int)},
        {"test_labels": np.full(20, 4)},
        {"train_labels": np.array([None] * 40)},
        {"classes": ["a", "b", "c", "a"]},
        {"test_images": np.zeros((0, 1, 8, 8), np.uint8), "test_labels": np.zeros(0, int)},
        {"train_labels": np.full(40, 2**40)},
    ],
    ids=str,
)
def test_other_arrays_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = write(tmp_path / "own.npz", **changes)
    with pytest.raises(DataError):
        load_dataset("arrays", directory=path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("one.npz", "none.npz"):
        with pytest.raises(DataError, match=name):
            load_dataset("arrays", directory=tmp_path / name)
    with pytest.raises(DataError, match="--data"):
        load_dataset("arrays")
