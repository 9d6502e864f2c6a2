"""Folders of images and masks as data sets: `image/NAME.png` and `label/NAME.png`, with a class for each pixel."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from onebit.common.files import read_regular
from onebit.common.pictures import is_image_name, opened, picture
from onebit.data.fetch import find_folder, own_path
from onebit.data.mask_scores import VOID, Masks
from onebit.data.resizing import Images
from onebit.data.splits import Dataset, DatasetEntry, LoadedFiles, Progress, Source, Split, hold_out
from onebit.errors import DataError, UsageError

TEST_SHARE = 0.2
"""The share of the images that become test images."""
UNNAMED = ("0", "255")
"""The classes of masks without `classes.txt`, named by their values."""
IMAGE_FOLDER, MASK_FOLDER, CLASS_FILE = "image", "label", "classes.txt"


def read_masked_folder(
    name: str,
    *,
    directory: Source = None,
    progress: Progress | None = None,
    classes: Sequence[str] | None = None,
) -> LoadedFiles:
    """Read the images and masks in a folder; a fifth of them, drawn with a fixed seed, are the test images.

    All images have one size and are gray or RGB. Masks are gray or palette images. If there is a file `classes.txt`
    with one name on each line, mask values are line numbers 0, 1, …, or 255 for a pixel without a class; otherwise
    there are two classes, 0 and 255, or with the names `classes`. The EXIF orientation of each file is applied.
    """
    if name == "segmentation":
        directory = own_path(name, directory)
    root = find_folder(name, directory, (IMAGE_FOLDER, MASK_FOLDER))
    images, masks = (_files(root / part) for part in (IMAGE_FOLDER, MASK_FOLDER))
    for stem in sorted(images.keys() ^ masks.keys(), key=_by_number):
        raise DataError(f"{root}: {stem} is not in both {IMAGE_FOLDER} and {MASK_FOLDER}")
    names, values = mask_classes(root, classes)
    stems = sorted(images, key=_by_number)
    pixels = _read_images([images[stem] for stem in stems])
    truth = np.stack([read_mask(masks[stem], pixels.shape[2:], values) for stem in stems])
    count = max(1, round(TEST_SHARE * len(stems)))
    train, test = hold_out(Split(pixels, truth), count, seed=0)
    note = f"{len(test)} of its {len(stems)} images, drawn with seed 0, are the test images"
    files = tuple(str(path) for stem in stems for path in (images[stem], masks[stem]))
    sizes = [(os.path.relpath(path, root), os.stat(path).st_size) for path in files]
    identity = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
    return LoadedFiles(train, test, str(root), files, note=note, classes=names, identity=identity)


def _files(folder: Path) -> dict[str, Path]:
    """Name without suffix -> image file."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_image_name(path.name) and not path.name.startswith("."):
            if path.stem in files:
                raise DataError(f"{path}: got a second file named {path.stem}, expected one")
            files[path.stem] = path
    return files


def _by_number(stem: str) -> tuple[int, str]:
    """Sorts numbered slices by number: 2 before 10."""
    return (int(stem), stem) if stem.isdecimal() else (-1, stem)


def mask_classes(root: Path, names: Sequence[str] | None) -> tuple[tuple[str, ...], dict[int, int]]:
    """The names of the classes, and the class number for each value in a mask."""
    path = root / CLASS_FILE
    if not path.is_file():
        return tuple(names or UNNAMED), {0: 0, 255: 1}
    text = read_regular(path, largest=1_000_000).decode("utf-8-sig", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not 2 <= len(set(lines)) == len(lines) < VOID:
        raise DataError(f"{path}: got {len(lines)} names, expected 2 to {VOID - 1} different names, one on each line")
    return tuple(lines), {value: value for value in (*range(len(lines)), VOID)}


def with_classes(data: Dataset, classes: Sequence[str] | None, *, source: str) -> Dataset:
    """The data for a net `source` with these classes (None for unknown ones); UsageError if they differ.

    The two classes of masks without names get the names of the net, and the data a note.
    """
    if classes is None or tuple(classes) == tuple(data.classes):
        return data
    if data.test.labels.ndim == 1 or data.classes != UNNAMED or len(classes) != len(UNNAMED):
        there, here = ", ".join(classes), ", ".join(data.classes)
        raise UsageError(f"{source}: was trained on the classes {there}; {data.name} {data.directory} has {here}")
    values = ", ".join(f"{value} is {name}" for value, name in zip(UNNAMED, classes, strict=True))
    return replace(data.noted(f"without classes.txt, the masks mean: {values}"), classes=tuple(classes))


def _read_images(paths: Sequence[Path]) -> Images:
    """(N, C, H, W): gray if all images are, otherwise RGB."""
    pictures, color = [], False
    for path in paths:
        with opened(str(path)) as image:
            color = color or image.mode not in ("1", "L", "LA", "I;16", "I;16B", "I;16L")
            pictures.append(picture(image, "RGB" if image.mode not in ("1", "L") else "L"))
    arrays = np.stack([np.asarray(image.convert("RGB" if color else "L"), np.uint8) for image in pictures])
    return np.ascontiguousarray(arrays.transpose(0, 3, 1, 2)) if color else arrays[:, np.newaxis]


def read_mask(path: Path, size: tuple[int, ...], values: dict[int, int]) -> Masks:
    """Read a mask file as class numbers, (H, W), which is the size of its image; for `values` see `mask_classes`."""
    from PIL import ImageOps

    with opened(str(path)) as image:
        mode, mask = image.mode, np.array(ImageOps.exif_transpose(image))
    if mode == "1":  # one bit for each pixel: the first class and the second
        mask = mask * np.uint8(next(value for value, number in values.items() if number == 1))
    if mode not in ("1", "L", "P") or mask.shape != size:
        raise DataError(f"{path}: the mask has {mode!r} pixels {mask.shape}, expected 8-bit numbers {tuple(size)}")
    numbers = np.full(256, -1)
    numbers[list(values)] = list(values.values())
    found = numbers[mask]
    if found.min() < 0:
        raise DataError(f"{path}: the mask has the value {mask[found < 0][0]}; {CLASS_FILE} names all values")
    return found.astype(np.uint8)


MEMBRANE = DatasetEntry(
    name="membrane",
    title="cell membranes in electron microscopy (ISBI 2012), with masks",
    read=functools.partial(read_masked_folder, "membrane", classes=("membrane", "cell")),
    classes=("membrane", "cell"),
    input_shape=(1, 512, 512),
    counts=(24, 6),
    validation=4,
    licence=(
        "Cardona et al. 2010 (doi:10.1371/journal.pbio.1000502), to be cited with TrakEM2; to make or test "
        "non-commercial segmentation software"
    ),
    masks=True,
)

SEGMENTATION = DatasetEntry(
    name="segmentation",
    title="your own images and masks: --data DIR with image/*.png and label/*.png",
    read=functools.partial(read_masked_folder, "segmentation"),
    masks=True,
)
