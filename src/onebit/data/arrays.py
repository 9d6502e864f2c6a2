"""Your own arrays in a numpy file, FILE.npz, as a data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onebit.common.files import open_regular
from onebit.data.fetch import own_path
from onebit.data.splits import (
    DatasetEntry,
    LoadedFiles,
    Progress,
    Split,
    arrays_digest,
    as_split,
    numbered_classes,
    refuse_empty,
)
from onebit.errors import DataError

NEEDED = ("train_images", "train_labels", "test_images", "test_labels")
VALIDATION = ("validation_images", "validation_labels")
CLASSES = "classes"
KEYS = (*NEEDED, *VALIDATION, CLASSES)


def is_array_file(path: str | Path | None) -> bool:
    """Whether the path given with `--data` has the name of a file of arrays."""
    return path is not None and Path(path).suffix == ".npz"


def read_arrays(*, directory: str | Path | None = None, progress: Progress | None = None) -> LoadedFiles:
    """Read the arrays in the file `directory`, which `numpy.savez` wrote; nothing in it is unpickled.

    The file holds `train_images`, `train_labels`, `test_images` and `test_labels`, as `Dataset.from_arrays` takes them,
    and optionally `validation_images`, `validation_labels`, and `classes`, the names of the labels.
    """
    path = own_path("arrays", directory)
    if not is_array_file(path) or not path.is_file():
        raise DataError(f"{path}: no such file of arrays; expected FILE.npz, as numpy.savez writes it")
    arrays = _read(path)
    missing = [key for key in NEEDED if key not in arrays]
    missing += [key for key in VALIDATION if key not in arrays and arrays.keys() & set(VALIDATION)]
    unknown = [key for key in arrays if key not in KEYS]
    if missing or unknown:
        wrong = f"has no {missing[0]}" if missing else f"got {unknown[0]!r}"
        raise DataError(
            f"{path}: {wrong}; expected {', '.join(NEEDED)}, and optionally {', '.join(VALIDATION)} and {CLASSES}"
        )
    train, test = _split(path, arrays, "train"), _split(path, arrays, "test")
    refuse_empty(train, str(path))
    if not len(test):
        raise DataError(f"{path}: there are no test images")
    validation = _split(path, arrays, "validation") if VALIDATION[0] in arrays else None
    name, classes = str(path.resolve()), _classes(path, arrays, train)
    parts = (train, test) if validation is None else (train, test, validation)
    digest = arrays_digest(*(part.images for part in parts))
    return LoadedFiles(train, test, name, (name,), "", classes, validation, digest)


def _read(path: Path) -> Mapping[str, Any]:
    """Read every array in the file."""
    try:
        # opened here: numpy would leave a damaged file open
        with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except Exception as error:  # numpy raises almost anything for a damaged file
        what = "holds Python objects" if "allow_pickle" in str(error) else f"cannot be read ({error})"
        raise DataError(f"{path}: {what}; expected arrays of numbers, as numpy.savez writes them") from None


def _split(path: Path, arrays: Mapping[str, Any], part: str) -> Split:
    try:
        return as_split(arrays[f"{part}_images"], arrays[f"{part}_labels"])
    except DataError as error:
        raise DataError(f"{path}: {part}_{error}") from None


def _classes(path: Path, arrays: Mapping[str, Any], train: Split) -> tuple[str, ...]:
    names = arrays.get(CLASSES)
    if names is None:
        return numbered_classes(train.labels)
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(f"{path}: {CLASSES}: got {names.dtype} {names.shape}, expected a list of names")
    return tuple(names.tolist())


ARRAYS = DatasetEntry(
    name="arrays",
    title="a file of your own arrays (--data FILE.npz), as numpy.savez writes it",
    read=read_arrays,
)
