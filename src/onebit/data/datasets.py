"""The table of data sets. Load one, or only download and check its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onebit.common.tables import resolve
from onebit.data.arrays import ARRAYS
from onebit.data.cifar import CIFAR10, CIFAR100
from onebit.data.image_folder import FOLDER, IMAGENET
from onebit.data.mask_folder import MEMBRANE, SEGMENTATION
from onebit.data.mnist import FASHION_MNIST, MNIST, MNIST_SAMPLE
from onebit.data.resizing import resize_images
from onebit.data.splits import Dataset, DatasetEntry, LoadedFiles, Progress, Split, hold_out
from onebit.data.toy import TOY
from onebit.errors import UsageError

DATASETS: dict[str, DatasetEntry] = {
    "arrays": ARRAYS,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "fashion-mnist": FASHION_MNIST,
    "folder": FOLDER,
    "imagenet": IMAGENET,
    "membrane": MEMBRANE,
    "mnist": MNIST,
    "mnist-sample": MNIST_SAMPLE,
    "segmentation": SEGMENTATION,
    "toy": TOY,
}


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
    """Load a data set as uint8 arrays. It is downloaded if it is not on this machine.

    Args:
        name: a name in `DATASETS`, or a `DatasetEntry`; any other name for a file of arrays.
        validation: number of training images to hold out; 0 for none. None, or the number of the data set's own
            validation images, uses these; without them None is the default of the data set (`mnist` 10,000).
        split_seed: the seed that chooses them, see `hold_out`. The test split does not depend on it.
        directory: the only folder to look in, instead of `ONEBIT_DATA`, the cache and the mirrors; for the data set
            "folder" the folder itself, for "arrays" the file.
        progress: called during downloads and while images are decoded.
        input_size: side in pixels to resize the largest centered square of every image to; None keeps their size,
            except for `imagenet` (224). Needed for a folder with images of several sizes.
        workers: number of threads that decode image files; 0 for this one alone, None for one per CPU.
        skip_broken: leave out image files that do not decode, and list them in the note.

    Raises:
        UnknownNameError: no such data set.
        DataError: files are damaged, or missing and cannot be downloaded.
        UsageError: `validation` leaves nothing to train on, `input_size` for masks, or `directory` for a data set that
            is part of onebit.

    Example:
        >>> data = load_dataset("toy")
        >>> data.train, data.validation, data.test
        (Split(1792 images of 1×8×8), Split(256 images of 1×8×8), Split(512 images of 1×8×8))
    """
    entry = _entry(name, directory)
    loaded = fetch_dataset(
        entry, directory=directory, progress=progress, input_size=input_size, workers=workers, skip_broken=skip_broken
    )
    if loaded.validation is not None and validation in (None, len(loaded.validation)):
        train, held_out = loaded.train, loaded.validation
    else:
        count = entry.validation if validation is None else validation
        if count is None:
            count = min(len(loaded.train) // 10, 10_000)
        train, held_out = hold_out(loaded.train, count, seed=split_seed)
    note = "; ".join(filter(None, (entry.note, loaded.note)))
    classes = entry.classes or loaded.classes
    data = Dataset(
        entry.name, train, held_out, loaded.test, classes, loaded.directory, note, loaded.identity, loaded.digest
    )
    if input_size is None or entry.folder:
        return data
    if data.train.labels.ndim > 1:
        raise UsageError("input_size: images with masks are not resized")
    return data.changed(lambda split: Split(resize_images(split.images, input_size), split.labels))


def fetch_dataset(
    name: str | DatasetEntry,
    *,
    directory: str | Path | None = None,
    progress: Progress | None = None,
    input_size: int | None = None,
    workers: int | None = None,
    skip_broken: bool = False,
) -> LoadedFiles:
    """Find or download the files of a data set, read and check them; the images of a folder are resized.

    The files of MNIST and Fashion-MNIST are compared with their checksums, those of CIFAR checked for sizes and labels.

    Args:
        name: a name in `DATASETS`, or a `DatasetEntry`.
        directory, progress, input_size, workers, skip_broken: as in `load_dataset`.

    Raises:
        UnknownNameError: no such data set.
        DataError: files are damaged, or missing and cannot be downloaded.
    """
    entry = _entry(name, directory)
    if not entry.stored:
        return entry.read()
    if not entry.folder:
        return entry.read(directory=directory, progress=progress)
    options = {"input_size": input_size or entry.input_size, "workers": workers}
    return entry.read(directory=directory, progress=progress, skip_broken=skip_broken, **options)


def _entry(name: str | DatasetEntry, directory: str | Path | None) -> DatasetEntry:
    """The entry for a name; a file of arrays may have any name that is not in the table."""
    if isinstance(name, str) and name not in DATASETS and Path(directory or "").suffix == ".npz":
        return replace(ARRAYS, name=name)
    entry: DatasetEntry = resolve(DATASETS, name, kind="data set")
    if directory is not None and not entry.stored:
        raise UsageError(f"data set {entry.name!r} is part of onebit: leave out --data {directory}")
    return entry
