"""Which images a folder holds: `train/CLASS/*` and `val/CLASS/*` as in ImageNet, or only `CLASS/*`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onebit.common.pictures import SUFFIXES
from onebit.errors import DataError

VALIDATION = ("val", "valid", "validation")
"""Names that the folder of validation images may have."""
TEST_SHARE = 0.2
"""Of the images of each class, where a folder has no test images of its own."""

_Found = tuple[str, int, int]  # path, bytes, when written


class ImageFile(NamedTuple):
    """A file of a folder: its path, its label, its bytes, and when it was written (ns)."""

    path: str
    label: int
    size: int
    written: int


@dataclass(frozen=True)
class Listing:
    """The image files of a folder, `train` and so on in the order of their classes and names."""

    root: Path
    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    validation: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]
    note: str = ""

    @property
    def files(self) -> tuple[ImageFile, ...]:
        return self.train + self.validation + self.test

    @property
    def digest(self) -> str:
        """Of the names below `root`, the classes and the sizes of all files: the same for a copy of the folder."""
        found, start = hashlib.sha256(), len(str(self.root)) + 1
        for file in self.files:
            found.update(os.fsencode(f"{file.path[start:]}\0{self.classes[file.label]}\0{file.size}\n"))
        return found.hexdigest()


def list_folder(root: Path) -> Listing:
    """Find the images of a folder; hidden files, and files that are no images by their name, are passed over.

    `train/CLASS/*` is trained on. `test/CLASS/*` is the test set, `val`, `valid` or `validation` the validation set;
    without the former, the latter is the test set. Without either, and of a folder of `CLASS/*`, a part of each class
    is the test set, always the same one.

    Raises:
        DataError: no images, a class without any, fewer than two classes, a class that is not trained on, or several
            folders of validation images.
    """
    train_folder = root / "train"
    parted = train_folder.is_dir() and bool(_sub_folders(train_folder))
    train = _list_classes(train_folder if parted else root)
    classes = tuple(train)
    if len(classes) < 2:
        raise DataError(f"{root}: got the single class {classes[0]!r}, expected sub-folders of two or more classes")
    parts: dict[str, tuple[ImageFile, ...]] = {}
    if parted:
        held = [name for name in VALIDATION if (root / name).is_dir() and _sub_folders(root / name)]
        if len(held) > 1:
            raise DataError(f"{root}: got {' and '.join(f'{name}/' for name in held)}, expected one of them")
        for name in (*VALIDATION, "test"):
            if (root / name).is_dir() and _sub_folders(root / name):  # ImageNet's own test images have no classes
                found = _list_classes(root / name)
                strange = [other for other in found if other not in train]
                if strange:
                    raise DataError(f"{root / name / strange[0]}: is a class that {train_folder} does not have")
                parts[name] = _labelled(found, classes)
    test = parts.pop("test", ())
    validation, note = next(iter(parts.values()), ()), ""
    if not test and validation:
        test, validation, note = validation, (), f"tested on the images of {next(iter(parts))}/"
    elif not test:
        share = f"{100 * TEST_SHARE:.0f} % of the images of each class"
        note = f"no test folder: {share}, drawn with seed 0, are the test images"
        rng = np.random.default_rng(0)
        drawn = {name: rng.permutation(len(files))[: _test_count(len(files))] for name, files in train.items()}
        test = _labelled({name: [files[i] for i in sorted(drawn[name])] for name, files in train.items()}, classes)
        taken = {file.path for file in test}
        train = {name: [file for file in files if file[0] not in taken] for name, files in train.items()}
        if not test:
            raise DataError(f"{root}: got one image a class, expected more, or a folder test/ beside train/")
    return Listing(root, classes, _labelled(train, classes), validation, test, note)


def _test_count(count: int) -> int:
    return 0 if count == 1 else max(1, round(TEST_SHARE * count))


def _sub_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _list_classes(folder: Path) -> dict[str, list[_Found]]:
    """Class -> its image files, at any depth."""
    names = _sub_folders(folder)
    if not names:
        raise DataError(f"{folder}: no images in class sub-folders; expected train/CLASS/IMAGE or CLASS/IMAGE")
    classes: dict[str, list[_Found]] = {}
    for name in names:
        files: list[_Found] = []
        for place, inner, entries in os.walk(folder / name):
            inner[:] = sorted(entry for entry in inner if not entry.startswith("."))
            for entry in sorted(entries):
                if entry.lower().endswith(SUFFIXES) and not entry.startswith("."):
                    path = os.path.join(place, entry)
                    try:
                        status = os.stat(path)
                        files.append((path, status.st_size, status.st_mtime_ns))
                    except OSError:  # a link to nothing: decoding will name it
                        files.append((path, 0, 0))
        if not files:
            raise DataError(f"{folder / name}: the class folder is empty; expected images ({' '.join(SUFFIXES)})")
        classes[name] = files
    return classes


def _labelled(found: dict[str, list[_Found]], classes: Sequence[str]) -> tuple[ImageFile, ...]:
    labels = {name: label for label, name in enumerate(classes)}
    return tuple(
        ImageFile(path, labels[name], size, written) for name, files in found.items() for path, size, written in files
    )
