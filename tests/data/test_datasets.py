"""The table of data sets: the contract of every entry, loading, fetching, and the generated one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onebit.data import DATASETS, DatasetEntry, fetch_dataset, load_dataset, make_toy
from onebit.data.cifar import read_cifar
from onebit.errors import DataError, UnknownNameError, UsageError
from support.image_folders import imagenet_folder, masked_folder
from support.tiny_cifar import TinyCifar, tiny_cifar10, tiny_cifar100
from support.tiny_mnist import REAL, needs_real

HERE = [pytest.param(name, marks=needs_real.get(name, ())) for name in DATASETS]
TINY: dict[str, Callable[[], TinyCifar]] = {"cifar10": tiny_cifar10, "cifar100": tiny_cifar100}


def at_hand(name: str, folder: Path) -> tuple[DatasetEntry, Path | None]:
    """The data set and its folder; a small one, made in `folder`, in place of a large one."""
    entry = DATASETS[name]
    if name in TINY:
        tiny = TINY[name]()
        counts = [len(labels) for labels in tiny.labels]
        read = functools.partial(read_cifar, tiny.files)
        tiny.write(folder)
        return replace(entry, read=read, counts=(sum(counts[:-1]), counts[-1]), validation=10), folder
    if name == "arrays":
        train, test = make_toy(40, 20)
        parts = {"train_images": train.images, "train_labels": train.labels}
        np.savez(folder / "own.npz", **parts, test_images=test.images, test_labels=test.labels)
        known = {"classes": tuple("0123"), "input_shape": (1, 8, 8), "counts": (40, 20), "validation": 4}
        return replace(entry, **known), folder / "own.npz"
    if name in ("membrane", "segmentation"):
        masked_folder(folder / name, 30)
        known = {"input_shape": (1, 32, 32), "counts": (24, 6), "validation": 4}
        return replace(entry, classes=entry.classes or ("0", "255"), **known), folder
    if entry.folder:
        return entry, imagenet_folder(folder, train=10, val=2)
    return entry, REAL.get(name)


def options(entry: DatasetEntry) -> dict[str, int]:
    return {"input_size": 8, "workers": 0} if entry.folder else {}


@pytest.mark.parametrize("name", HERE)
def test_contract_of_every_data_set(name: str, tmp_path: Path) -> None:
    entry, directory = at_hand(name, tmp_path)
    assert entry.name == name
    assert entry.title
    assert entry.licence
    data = load_dataset(entry, directory=directory, **options(entry))
    assert data.name == name
    assert data.note.startswith(entry.note)
    if entry.folder:
        assert data.classes == ("n01", "n02", "n03")
        assert (data.input_shape, len(data.validation), len(data.train), len(data.test)) == ((3, 8, 8), 3, 27, 6)
    else:
        assert (data.classes, data.input_shape) == (entry.classes, entry.input_shape)
        assert (len(data.train) + len(data.validation), len(data.test)) == entry.counts
        assert len(data.validation) == entry.validation
    labels = np.concatenate([data.train.labels, data.validation.labels])
    assert np.unique(labels).tolist() == np.unique(data.test.labels).tolist() == list(range(len(data.classes)))
    for split in (data.train, data.validation, data.test):
        assert split.images.strides == np.empty(split.images.shape, np.uint8).strides
        assert split.images.flags.writeable  # torch warns about arrays that are not
        assert split.images.min() < 20
        assert split.images.max() > 235

    first, other = (
        load_dataset(entry, split_seed=seed, validation=20, directory=directory, **options(entry)) for seed in (5, 6)
    )
    np.testing.assert_array_equal(first.test.images, other.test.images)
    assert (first.validation.images != other.validation.images).any()

    fetched = fetch_dataset(entry, directory=directory, **options(entry))
    assert all(Path(file).is_file() for file in fetched.files)
    assert entry.folder or all(Path(fetched.directory) in (Path(file), *Path(file).parents) for file in fetched.files)
    assert bool(fetched.files) == (name != "toy" and not entry.folder)


def test_wrong_names_and_sizes_are_refused() -> None:
    for function in (load_dataset, fetch_dataset):
        with pytest.raises(UnknownNameError, match="mnist"):
            function("mnits")
    with pytest.raises(UsageError, match="validation"):
        load_dataset("mnist-sample", validation=10_000)
    with pytest.raises(DataError, match="no/such/folder"):
        load_dataset("mnist", directory="no/such/folder")


# ------------------------------------------------------------------------------------------------------- generated data
def test_noise_seed_and_sizes() -> None:
    (train, test), (clean, _), (other, _) = (make_toy(300, 10, classes=3, **x) for x in ({}, {"noise": 0}, {"seed": 1}))
    assert (train.images.shape, len(test)) == ((300, 1, 8, 8), 10)
    assert np.bincount(train.labels).tolist() == [100] * 3
    assert 0.2 < ((train.images < 128) != (clean.images < 128)).mean() < 0.3
    assert set(np.unique(clean.images)) == {64, 192}
    assert (train.images != other.images).any()


def test_the_data_set_toy_never_changes() -> None:
    data = load_dataset("toy", validation=0)
    expected, _ = make_toy()
    np.testing.assert_array_equal(data.train.images, expected.images)
    # integers from a seeded PCG64: the same on every machine and with every numpy so far
    assert data.train.images[0, 0, 0].tolist() == [102, 102, 255, 13, 137, 85, 150, 77]
