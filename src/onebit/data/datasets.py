"""The table of data sets, and the two ways to use it: load one, or only fetch and check its files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from onebit.data.mnist import MNIST
from onebit.data.mnist_sample import MNIST_SAMPLE
from onebit.data.splits import Dataset, DatasetEntry, Progress, hold_out
from onebit.data.toy import TOY
from onebit.tables import resolve

DATASETS: dict[str, DatasetEntry] = {
    "mnist": MNIST,
    "mnist-sample": MNIST_SAMPLE,
    "toy": TOY,
}


class FetchedFiles(NamedTuple):
    """Where the checked files of a data set are."""

    directory: str
    files: tuple[str, ...]


def load_dataset(
    name: str | DatasetEntry,
    *,
    validation: int | None = None,
    split_seed: int = 0,
    directory: str | Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Load a data set as uint8 arrays, downloading it when it is nowhere on this machine.

    Args:
        name: a name of `DATASETS`, or an entry like those.
        validation: training images to hold out; None takes the data set's own number (`mnist` 10,000), 0 holds out
            none: `data.train` then has all and `data.validation` is an empty `Split`.
        split_seed: which ones are held out, see `hold_out`. The test split never depends on it.
        directory: a folder to look in before `ONEBIT_DATA`, the cache and the mirrors.
        progress: told about downloads.

    Raises:
        UnknownNameError: no such data set.
        DataError: files are missing and unreachable, or damaged.
        UsageError: `validation` leaves nothing to train on.

    Example:
        >>> data = load_dataset("toy")
        >>> data.train, data.validation, data.test
        (Split(1792 images of 1×8×8), Split(256 images of 1×8×8), Split(512 images of 1×8×8))
    """
    entry: DatasetEntry = resolve(DATASETS, name, kind="data set")
    loaded = entry.read(directory=directory, progress=progress)
    count = entry.validation if validation is None else validation
    train, held_out = hold_out(loaded.train, count, seed=split_seed)
    return Dataset(entry.name, train, held_out, loaded.test, entry.classes, loaded.directory, entry.note)


def fetch_dataset(
    name: str | DatasetEntry, *, directory: str | Path | None = None, progress: Progress | None = None
) -> FetchedFiles:
    """Find or download the files of a data set and check every byte of them.

    Args:
        name: a name of `DATASETS`, or an entry like those.
        directory: a folder to look in first.
        progress: told about downloads.

    Returns:
        The folder and the files in it; ("", ()) for data that is generated.

    Raises:
        UnknownNameError: no such data set.
        DataError: files are missing and unreachable, or damaged.
    """
    entry: DatasetEntry = resolve(DATASETS, name, kind="data set")
    loaded = entry.read(directory=directory, progress=progress)
    return FetchedFiles(loaded.directory, loaded.files)
