"""Folders of images and masks as data sets: `image/NAME.png` and `label/NAME.png`, a class for each pixel."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onebit.common.files import read_regular
from onebit.common.pictures import SUFFIXES, opened, picture, upright
from onebit.data.fetch import data_roots
from onebit.data.images import Images
from onebit.data.masks import VOID, Masks
from onebit.data.splits import DatasetEntry, LoadedFiles, Progress, Split, hold_out
from onebit.errors import DataError

TEST_SHARE = 0.2
"""Of the images: a folder has no test images of its own."""
SPLIT_SEED = 0
IMAGE_FOLDER, MASK_FOLDER, CLASS_FILE = "image", "label", "classes.txt"


def read_masked_folder(
    name: str,
    *,
    directory: str | Path | None = None,
    progress: Progress | None = None,
    classes: Sequence[str] | None = None,
) -> LoadedFiles:
    """The images and masks of a folder; a fifth of them, drawn with a fixed seed, are the test images.

    Images stay as they are, grey or RGB, and have one size. Masks are grey or palette images. With a file
    `classes.txt`, a name a line, a mask holds the numbers 0, 1, … of the lines, and 255 where a pixel belongs to none;
    without it there are two classes, 0 and 255. Images and masks are turned by the EXIF orientation of their own file.

    Args:
        name: "segmentation", or the name of a folder that is also looked for in `ONEBIT_DATA`.
        directory: the folder, or one that it lies in.
        progress: changes nothing, as nothing is fetched.
        classes: names of the classes where the folder has no `classes.txt`.

    Raises:
        DataError: no such folder, an image without a mask, one that does not decode, several sizes, a mask of another
            size than its image, or one with other values than the classes.
    """
    root = _find_root(name, directory)
    images, masks = (_files(root / part) for part in (IMAGE_FOLDER, MASK_FOLDER))
    if len(images) < 2:
        raise DataError(f"{root / IMAGE_FOLDER}: got {len(images)} images, expected two or more")
    for stem in sorted(images.keys() ^ masks.keys(), key=_by_number):
        lone, other = (images[stem], root / MASK_FOLDER) if stem in images else (masks[stem], root / IMAGE_FOLDER)
        raise DataError(f"{lone}: has no partner in {other}, where a file named {stem}.png is expected")
    names, values = mask_classes(root, classes)
    stems = sorted(images, key=_by_number)
    pixels = _read_images([images[stem] for stem in stems])
    truth = np.stack([read_mask(masks[stem], pixels.shape[2:], values) for stem in stems])
    count = max(1, round(TEST_SHARE * len(stems)))
    train, test = hold_out(Split(pixels, truth), count, seed=SPLIT_SEED)
    note = f"{len(test)} of its {len(stems)} images, drawn with seed {SPLIT_SEED}, are the test images"
    files = tuple(str(path) for stem in stems for path in (images[stem], masks[stem]))
    sizes = [(os.path.relpath(path, root), os.stat(path).st_size) for path in files]
    identity = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
    return LoadedFiles(train, test, str(root), files, note=note, classes=names, identity=identity)


def _find_root(name: str, directory: str | Path | None) -> Path:
    """The folder that holds `image` and `label`."""
    if name == "segmentation" and directory is None:
        raise DataError("data set 'segmentation' is a folder of your own images and masks: name it with --data DIR")
    roots = [Path(str(directory))] if name == "segmentation" else list(data_roots(directory))
    places = [place for root in roots for place in (root.expanduser(), root.expanduser() / name)]
    for place in places:
        if (place / IMAGE_FOLDER).is_dir() and (place / MASK_FOLDER).is_dir():
            return place.resolve()
    raise DataError(
        f"data set {name!r} not found: needs {IMAGE_FOLDER}/*.png and {MASK_FOLDER}/*.png; "
        f"looked in {', '.join(map(str, places))}; name the folder that holds them with --data DIR or ONEBIT_DATA"
    )


def _files(folder: Path) -> dict[str, Path]:
    """Name without suffix -> image file."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    found = {path.stem: path for path in files}
    if len(found) < len(files):
        twice = next(path for path in sorted(files) if found[path.stem] != path)
        raise DataError(f"{twice}: stands there as {found[twice.stem].name}, too; expected one file a name")
    return found


def _by_number(stem: str) -> tuple[int, str]:
    """Slices are numbered: 2 comes before 10."""
    return (int(stem), stem) if stem.isdecimal() else (-1, stem)


def mask_classes(root: Path, names: Sequence[str] | None) -> tuple[tuple[str, ...], dict[int, int]]:
    """The names of the classes, and the class number of each value of a mask."""
    path = root / CLASS_FILE
    if not path.is_file():
        return tuple(names or ("0", "255")), {0: 0, 255: 1}
    try:
        lines = [line.strip() for line in read_regular(path, largest=1_000_000).decode().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if not 2 <= len(set(lines)) == len(lines) < VOID:
        raise DataError(f"{path}: got {len(lines)} names, expected 2 to {VOID - 1}, a line each and no two alike")
    return tuple(lines), {value: value for value in (*range(len(lines)), VOID)}


def _read_images(paths: Sequence[Path]) -> Images:
    """(N, C, H, W): grey if all of them are, else RGB."""
    pictures, colours = [], False
    for path in paths:
        with opened(str(path)) as image:
            colours = colours or image.mode not in ("1", "L", "LA", "I;16", "I;16B", "I;16L")
            pictures.append(picture(image, "RGB" if image.mode not in ("1", "L") else "L"))
        if pictures[-1].size != pictures[0].size:
            (width, height), (first_width, first_height) = pictures[-1].size, pictures[0].size
            raise DataError(
                f"{path}: is {width}×{height} pixels, {paths[0].name} is {first_width}×{first_height}; "
                "expected one size: cut or resize them"
            )
    mode = "RGB" if colours else "L"
    arrays = np.stack([np.asarray(made.convert(mode), np.uint8) for made in pictures])
    return np.ascontiguousarray(arrays.transpose(0, 3, 1, 2)) if colours else arrays[:, np.newaxis]


def read_mask(path: Path, size: tuple[int, ...], values: dict[int, int]) -> Masks:
    """A mask file as class numbers, (H, W).

    Args:
        size: (H, W) of its image.
        values: class number by value, see `mask_classes`.

    Raises:
        DataError: it does not decode, has another size, or holds other values; the message names it.
    """
    with opened(str(path)) as image:
        mode = image.mode
        mask = np.array(upright(image))  # as its image is turned, each by its own tag
    if mode == "1":  # one bit a pixel: the first class and the second
        mask = mask * np.uint8(next(value for value, number in values.items() if number == 1))
    if mode not in ("1", "L", "P"):
        raise DataError(f"{path}: the mask has pixels {mode!r}, expected one number of 8 bits a pixel, the class")
    if mask.shape != size:
        (height, width), (image_height, image_width) = mask.shape, size
        raise DataError(
            f"{path}: the mask is {width}×{height} pixels, its image is {image_width}×{image_height}; expected one size"
        )
    counts, numbers = np.bincount(mask.ravel(), minlength=256), np.full(256, -1)
    numbers[list(values)] = list(values.values())
    strange = np.flatnonzero((counts > 0) & (numbers < 0))
    if len(strange):
        some = ", ".join(map(str, strange[:5])) + (", …" if len(strange) > 5 else "")
        found = sorted(values)
        expected = "0 and 255" if len(found) == 2 else f"0 to {found[-2]}, or {VOID} for none"
        raise DataError(
            f"{path}: the mask holds the values {some} ({int(counts[strange].sum()):,} pixels), expected "
            f"{expected}; other classes are named in {CLASS_FILE} beside {MASK_FOLDER}/, a line each"
        )
    return numbers[mask].astype(np.uint8)


MEMBRANE = DatasetEntry(
    name="membrane",
    title="cell membranes in electron microscopy (ISBI 2012), a class for each pixel",
    read=functools.partial(read_masked_folder, "membrane", classes=("membrane", "cell")),
    classes=("membrane", "cell"),
    input_shape=(1, 512, 512),
    counts=(24, 6),
    validation=4,
    licence="Cardona et al., ISBI 2012 EM segmentation challenge",
    masks=True,
)

SEGMENTATION = DatasetEntry(
    name="segmentation",
    title="your own images and masks: --data DIR with image/*.png and label/*.png",
    read=functools.partial(read_masked_folder, "segmentation"),
    classes=None,
    input_shape=None,
    counts=None,
    validation=None,
    licence="yours",
    masks=True,
)
