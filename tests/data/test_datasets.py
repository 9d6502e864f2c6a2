"""The table of data sets: the contract of every entry, loading and fetching."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_mnist import REAL_MNIST, TinyMnist, needs_real_mnist

from onebit.data import DATASETS, DatasetEntry, FetchedFiles, fetch_dataset, load_dataset
from onebit.data.mnist import read_mnist
from onebit.errors import DataError, UnknownNameError, UsageError

HERE = [pytest.param(name, marks=needs_real_mnist if name == "mnist" else ()) for name in DATASETS]


def directory_of(name: str) -> Path | None:
    return REAL_MNIST if name == "mnist" else None


@pytest.mark.parametrize("name", HERE)
def test_contract_of_every_data_set(name: str) -> None:
    entry = DATASETS[name]
    assert entry.name == name
    assert entry.title
    assert entry.licence
    data = load_dataset(name, directory=directory_of(name))
    assert (data.name, data.classes, data.note) == (name, entry.classes, entry.note)
    assert data.input_shape == entry.input_shape
    assert (len(data.train) + len(data.validation), len(data.test)) == entry.counts
    assert len(data.validation) == entry.validation
    for split in (data.train, data.validation, data.test):
        assert split.images.flags.writeable  # torch warns about arrays that are not
        assert np.unique(split.labels).tolist() == list(range(len(entry.classes)))
        assert split.images.min() == 0
        assert split.images.max() == 255


@pytest.mark.parametrize("name", HERE)
def test_the_split_depends_on_its_seed_alone(name: str) -> None:
    first, again, other = (
        load_dataset(name, split_seed=seed, validation=100, directory=directory_of(name)) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first.validation.images, again.validation.images)
    np.testing.assert_array_equal(first.train.labels, again.train.labels)
    np.testing.assert_array_equal(first.test.images, other.test.images)
    assert (first.validation.images != other.validation.images).any()


@pytest.mark.parametrize("name", HERE)
def test_fetch_names_files_that_exist(name: str) -> None:
    fetched = fetch_dataset(name, directory=directory_of(name))
    assert all(Path(file).is_file() and Path(file).parent == Path(fetched.directory) for file in fetched.files)
    assert bool(fetched.files) == (name != "toy")


def test_without_validation_everything_is_trained_on() -> None:
    data = load_dataset("toy", validation=0)
    assert (len(data.train), len(data.validation)) == (2048, 0)


def test_an_entry_is_taken_as_it_is(tiny: TinyMnist, tmp_path: Path) -> None:
    def read(*, directory: Path | None, progress: object) -> object:
        return read_mnist(directory=directory, files=tiny.files, mirrors=())

    entry = DatasetEntry("tiny", "tiny", read, tuple("0123456789"), (1, 28, 28), (40, 20), 8, "none", "a note")  # type: ignore[arg-type]
    folder = tiny.write(tmp_path / "own")
    data = load_dataset(entry, directory=folder)
    assert (data.name, data.directory, data.note) == ("tiny", str(folder), "a note")
    assert (len(data.train), len(data.validation), len(data.test)) == (32, 8, 20)
    names = [str(folder / f"{file.name}.gz") for file in tiny.files]
    assert fetch_dataset(entry, directory=folder) == FetchedFiles(str(folder), tuple(names))


def test_wrong_names_and_sizes_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown data set 'mnits'; did you mean 'mnist'"):
        load_dataset("mnits")
    with pytest.raises(UnknownNameError, match="unknown data set 'mnits'; did you mean 'mnist'"):
        fetch_dataset("mnits")
    with pytest.raises(UsageError, match="validation=10000: expected 0 to 7999 of the 8000 training images"):
        load_dataset("mnist-sample", validation=10_000)
    with pytest.raises(DataError, match="is not a folder"):
        load_dataset("mnist", directory="no/such/folder")


def test_importing_and_loading_need_neither_torch_nor_pooch() -> None:
    code = (
        "import sys, onebit.data; onebit.data.load_dataset('mnist-sample'); "
        "print(sorted({'torch', 'pooch', 'requests'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
