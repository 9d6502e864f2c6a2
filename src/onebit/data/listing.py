"""List the images in a folder: `train/CLASS/*` and `val/CLASS/*` as in ImageNet, or only `CLASS/*`."""

from __future__ import annotations

import hashlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from onebit.common.pictures import is_image_name, visible_files
from onebit.errors import DataError

VALIDATION = ("val", "valid", "validation")
"""Names that the folder of validation images may have."""
SPLITS = {*VALIDATION, "train", "training", "test", "testing"}
"""Names of splits; two of them in one folder are not classes."""
TEST_SHARE = 0.2
"""The share of each class that becomes test images in a folder without them."""


class ImageFile(NamedTuple):
    """An image file: its path below the root, its label, and its size in bytes."""

    name: str
    label: int
    size: int


@dataclass(frozen=True)
class Listing:
    """The image files in a folder, each split sorted by class and name."""

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
        """A digest of the relative path, the class and the size of all files: the same for a copy of the folder."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(os.fsencode(f"{file.name}\0{self.classes[file.label]}\0{file.size}\n"))
        return digest.hexdigest()


def list_folder(root: Path) -> Listing:
    """Find the images in a folder. Hidden files, other files, and files without a class are ignored.

    `train/CLASS/*` are training images and `test/CLASS/*` test images. `val`, `valid` or `validation` holds validation
    images, or test images if there is no `test`. Without any of these, and in a folder of `CLASS/*`, a share of each
    class, drawn by the paths of the files, is the test split.
    """
    train_folder = root / "train" if _sub_folders(root / "train") else root
    classes = _sub_folders(train_folder)
    splits = SPLITS & {name.lower() for name in classes}
    if train_folder == root and (len(splits) > 1 or any({*_sub_folders(root / name)} & {*classes} for name in splits)):
        raise DataError(f"{root}: {' and '.join(classes)} would be classes, expected train/CLASS/IMAGE")
    others: list[str] = []
    train = _list_images(root, train_folder, classes, others)
    if not train:
        found = "no images in class folders" if root.is_dir() else "no such folder"
        raise DataError(f"{root}: {found}, expected train/CLASS/IMAGE or CLASS/IMAGE")
    parts: dict[str, tuple[ImageFile, ...]] = {}
    if train_folder != root:
        for name in (*VALIDATION, "test"):
            if names := _sub_folders(root / name):  # ImageNet's own test images have no classes
                if unknown := {*names} - {*classes}:
                    raise DataError(f"{root / name}: got {min(unknown)!r}, a class that {train_folder} does not have")
                parts[name] = _list_images(root, root / name, classes, others)
    test = parts.pop("test", ())
    validation, note = next(iter(parts.values()), ()), ""
    if not test and validation:
        test, validation, note = validation, (), f"tested on the images of {next(iter(parts))}/"
    elif not test:
        share = f"about {100 * TEST_SHARE:.0f} % of the images of each class"
        note = f"no test folder: {share}, drawn by their paths, are the test images"
        drawn = _drawn(train)
        test = tuple(file for file in train if file in drawn)
        train = tuple(file for file in train if file not in drawn)
    left_out = f"files left out, no images: {len(others)} (such as {others[0]})" if others else ""
    return Listing(root, classes, train, validation, test, "; ".join(filter(None, (note, left_out))))


def _drawn(files: tuple[ImageFile, ...]) -> set[ImageFile]:
    """Test images: those whose path below the root has a digest in the lowest `TEST_SHARE` of all digests.

    Adding images never moves a training image into the test set, except the only image of a class.
    """
    drawn: set[ImageFile] = set()

    def number(file: ImageFile) -> float:
        name = file.name.replace(os.sep, "/")
        return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64

    for _, group in itertools.groupby(files, key=lambda file: file.label):
        numbered = sorted((number(file), file) for file in group)
        count = sum(drawn_at < TEST_SHARE for drawn_at, _ in numbered)
        drawn.update(file for _, file in numbered[: min(max(1, count), len(numbered) - 1)])
    return drawn


def _sub_folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(item.name for item in os.scandir(folder) if item.is_dir() and not item.name.startswith(".")))


def _list_images(root: Path, folder: Path, classes: tuple[str, ...], others: list[str]) -> tuple[ImageFile, ...]:
    """The images in the class folders of `folder`, at any depth; the names of other files there go to `others`."""
    images: list[ImageFile] = []
    for name in _sub_folders(folder):
        for path in visible_files(folder / name):
            if is_image_name(path):
                # a broken link fails to decode later
                size = os.path.getsize(path) if os.path.exists(path) else 0
                images.append(ImageFile(os.path.relpath(path, root), classes.index(name), size))
            else:
                others.append(os.path.basename(path))
    return tuple(images)
