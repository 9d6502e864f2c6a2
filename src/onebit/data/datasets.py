"""The table of data sets, and the two ways to use it: load one, or only fetch and check its files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from onebit.common.arguments import check_kind
from onebit.common.tables import resolve
from onebit.data.arrays import ARRAYS, is_array_file
from onebit.data.cifar import CIFAR10, CIFAR100
from onebit.data.folder import FOLDER, IMAGENET
from onebit.data.mnist import MNIST
from onebit.data.mnist_sample import MNIST_SAMPLE
from onebit.data.resizing import check_input_size, resize_images, resize_masks
from onebit.data.segmentation import MEMBRANE, SEGMENTATION
from onebit.data.splits import MOST_VALIDATION, Dataset, DatasetEntry, LoadedFiles, Progress, Split, hold_out
from onebit.data.toy import TOY
from onebit.errors import UsageError

DATASETS: dict[str, DatasetEntry] = {
    "arrays": ARRAYS,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "folder": FOLDER,
    "imagenet": IMAGENET,
    "membrane": MEMBRANE,
    "mnist": MNIST,
    "mnist-sample": MNIST_SAMPLE,
    "segmentation": SEGMENTATION,
    "toy": TOY,
}


class FetchedFiles(NamedTuple):
    """Where the checked files of a data set are, and what must be said beside every number on them."""

    directory: str
    files: tuple[str, ...]
    note: str = ""


def load_dataset(
    name: str | DatasetEntry,
    *,
    validation: int | None = None,
    split_seed: int = 0,
    directory: str | Path | None = None,
    progress: Progress | None = None,
    input_size: int | None = None,
    workers: int | None = None,
    skip_broken: bool = False,
) -> Dataset:
    """Load a data set as uint8 arrays, downloading it when it is nowhere on this machine.

    Args:
        name: a name of `DATASETS`, or an entry like those; of a file of arrays any other name, too.
        validation: training images to hold out; None takes the data set's own number (`mnist` 10,000) or its own
            validation images, as does the number of those; 0 holds out none: `data.train` then has all and
            `data.validation` is an empty `Split`.
        split_seed: which ones are held out, see `hold_out`. The test split never depends on it.
        directory: the folder to look in, instead of `ONEBIT_DATA`, the cache and the mirrors; of the data set "folder"
            the folder itself, of "arrays" the file.
        progress: told about downloads, and about images that are decoded.
        input_size: side in pixels that every image is resized to; None leaves them as they are. A folder of images of
            several sizes needs it; of `imagenet` it is 224.
        workers: processes that decode image files; 0 for this one, None for one a CPU.
        skip_broken: leave out image files that do not decode, and say so in the note.

    Raises:
        UnknownNameError: no such data set.
        DataError: files are missing and unreachable, or damaged.
        UsageError: `validation` leaves nothing to train on, an `input_size` that no image can have, or a `directory`
            for a data set that is part of onebit.

    Example:
        >>> data = load_dataset("toy")
        >>> data.train, data.validation, data.test
        (Split(1792 images of 1×8×8), Split(256 images of 1×8×8), Split(512 images of 1×8×8))
    """
    entry = _entry(name, directory)
    loaded = _read(entry, directory, progress, input_size, workers, skip_broken)
    if loaded.validation is not None and validation in (None, len(loaded.validation)):
        train, held_out = loaded.train, loaded.validation
    else:
        count = entry.validation if validation is None else validation
        if count is None:
            count = min(len(loaded.train) // 10, MOST_VALIDATION)
        train, held_out = hold_out(loaded.train, count, seed=split_seed)
    note = "; ".join(filter(None, (entry.note, loaded.note)))
    return Dataset(
        entry.name,
        train,
        held_out,
        loaded.test,
        entry.classes or loaded.classes,
        loaded.directory,
        note,
        loaded.identity,
    )


def fetch_dataset(
    name: str | DatasetEntry,
    *,
    directory: str | Path | None = None,
    progress: Progress | None = None,
    input_size: int | None = None,
    workers: int | None = None,
    skip_broken: bool = False,
) -> FetchedFiles:
    """Find or download the files of a data set and check every byte of them; decode those of a folder into the cache.

    Args:
        name: a name of `DATASETS`, or an entry like those.
        directory, progress, input_size, workers, skip_broken: as in `load_dataset`.

    Returns:
        The folder, and the files in it (of a folder of images the file in the cache); ("", ()) for data that is
        generated.

    Raises:
        UnknownNameError: no such data set.
        DataError: files are missing and unreachable, or damaged.
    """
    entry = _entry(name, directory)
    loaded = _read(entry, directory, progress, input_size, workers, skip_broken)
    return FetchedFiles(loaded.directory, loaded.files, loaded.note)


def _entry(name: str | DatasetEntry, directory: str | Path | None) -> DatasetEntry:
    """The entry of a name; own arrays may have any name that the table does not have."""
    check_kind("name", name, (str, DatasetEntry), "the name of a data set")
    check_kind("directory", directory, (str, os.PathLike, type(None)), "the path of a folder")
    if isinstance(name, str) and name not in DATASETS and is_array_file(directory):
        return replace(ARRAYS, name=name)
    entry: DatasetEntry = resolve(DATASETS, name, kind="data set")
    if directory is not None and not entry.stored:
        raise UsageError(f"data set {entry.name!r} is part of onebit, not in a folder: leave out --data {directory}")
    return entry


def _read(
    entry: DatasetEntry,
    directory: str | Path | None,
    progress: Progress | None,
    input_size: int | None,
    workers: int | None,
    skip_broken: bool,
) -> LoadedFiles:
    """What the reader of the data set returns, in the size that is asked for."""
    check_input_size(input_size)
    if entry.folder:
        return entry.read(
            directory=directory,
            progress=progress,
            input_size=input_size or entry.input_size,
            workers=workers,
            skip_broken=skip_broken,
        )
    loaded = entry.read(directory=directory, progress=progress)
    if input_size is None:
        return loaded
    train, test = (_resized(part, input_size) for part in (loaded.train, loaded.test))
    validation = None if loaded.validation is None else _resized(loaded.validation, input_size)
    return loaded._replace(train=train, validation=validation, test=test)


def _resized(split: Split, size: int) -> Split:
    """All images and their masks resized to `size`×`size`."""
    masked = split.labels.ndim > 1
    return Split(resize_images(split.images, size), resize_masks(split.labels, size) if masked else split.labels)
