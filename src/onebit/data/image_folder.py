"""Folders of images in class sub-folders as data sets; images that do not fit in memory are decoded for each batch."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from onebit.data.decoding import StreamedImages, decode_each, image_size
from onebit.data.fetch import find_folder, own_path
from onebit.data.listing import Listing, list_folder
from onebit.data.resizing import Images
from onebit.data.splits import DatasetEntry, LoadedFiles, Progress, Split
from onebit.errors import DataError, UsageError

STREAMED_ABOVE = 1 << 30
"""Bytes of decoded images; more are not kept in memory."""
_CHUNK = 1000  # files that wait for a thread at a time


def read_folder(
    name: str,
    *,
    directory: str | Path | None = None,
    progress: Progress | None = None,
    input_size: int | None = None,
    workers: int | None = None,
    skip_broken: bool = False,
    streamed_above: int = STREAMED_ABOVE,
) -> LoadedFiles:
    """Read the images in a folder as RGB, resized by `decode_image`.

    Of more than `streamed_above` bytes of decoded images, a broken one is an error only when it is needed. For the
    other arguments see `load_dataset`.
    """
    if name == "folder":
        root = own_path(name, directory).resolve()
    else:
        root = find_folder(name, directory, ("train", "val"), needs="train/CLASS/*.JPEG and val/CLASS/*.JPEG")
    listing = list_folder(root)
    paths = [file.path for file in listing.files]
    size = (input_size, input_size) if input_size else _common_size(paths, skip_broken=skip_broken)
    images: Images | StreamedImages = StreamedImages(paths, size, workers=workers)
    broken: list[int] = []
    if kept := len(paths) * 3 * size[0] * size[1] <= streamed_above:
        images = np.zeros((len(paths), 3, *size), np.uint8)
    if kept or skip_broken:
        done, total = 0, sum(file.size for file in listing.files)
        for i, decoded in enumerate(_decoded(paths, size, workers)):
            if not isinstance(decoded, DataError):
                if isinstance(images, np.ndarray):
                    images[i] = decoded.transpose(2, 0, 1)
            elif skip_broken:
                broken.append(i)
            else:
                raise _broken(decoded)
            done += listing.files[i].size
            if progress is not None:
                progress(f"decoding images of {root.name}", done, total)
    return _load(listing, images, broken)


def _decoded(paths: Sequence[str], size: tuple[int, int], workers: int | None) -> Iterator[Images | DataError]:
    for start in range(0, len(paths), _CHUNK):
        yield from decode_each(paths[start : start + _CHUNK], size, workers=workers)


def _load(listing: Listing, images: Images | StreamedImages, broken: Sequence[int]) -> LoadedFiles:
    """Split the images into train, validation and test, without the broken ones."""
    labels = np.array([file.label for file in listing.files], np.int64)
    good = np.ones(len(labels), np.bool_)
    good[broken] = False
    ends = np.cumsum([len(listing.train), len(listing.validation), len(listing.test)])
    whole = Split(images, labels)
    splits = []
    for start, end in zip((0, *ends), ends, strict=False):
        part = whole[int(start) : int(end)]
        splits.append(part if good[start:end].all() else part[good[start:end]])
    train, validation, test = splits
    missing = np.flatnonzero(np.bincount(train.labels, minlength=len(listing.classes)) == 0)
    if len(missing) or not len(test):
        what = f"class {listing.classes[missing[0]]!r}" if len(missing) else "the test set"
        raise DataError(f"{listing.root}: no image of {what}")
    notes = [listing.note] if listing.note else []
    if broken:
        paths = [Path(listing.files[i].path) for i in broken]
        some = ", ".join(f"{path.parent.name}/{path.name}" for path in paths[:3]) + (", …" if len(paths) > 3 else "")
        notes.append(f"images left out because they do not decode: {len(paths)} ({some})")
    own, note = validation if len(validation) else None, "; ".join(notes)
    return LoadedFiles(train, test, str(listing.root), (), note, listing.classes, own, listing.digest)


def _common_size(paths: Sequence[str], *, skip_broken: bool) -> tuple[int, int]:
    """The (height, width) of all images."""
    sizes: dict[tuple[int, int], str] = {}
    for path in paths:
        try:
            sizes.setdefault(image_size(path), path)
        except DataError as error:
            if not skip_broken:
                raise _broken(error) from None
        if len(sizes) > 1:
            found = " and ".join(f"{height}×{width} ({name})" for (height, width), name in sizes.items())
            raise UsageError(f"images of several sizes: {found}; to resize them all, add --input-size N")
    if not sizes:
        raise DataError(f"{paths[0]}: does not decode, and neither does any other image")
    return next(iter(sizes))


def _broken(error: DataError) -> DataError:
    return DataError(f"{error}; leave out such images with --skip-broken")


FOLDER = DatasetEntry(
    name="folder",
    title="a folder of your own images (--data DIR) in class sub-folders: train/CLASS/, val/CLASS/, or only CLASS/",
    read=functools.partial(read_folder, "folder"),
    folder=True,
)
IMAGENET = DatasetEntry(
    name="imagenet",
    title="ImageNet (ILSVRC 2012) or a folder laid out like it: train/CLASS/*.JPEG, val/CLASS/*.JPEG",
    read=functools.partial(read_folder, "imagenet"),
    input_shape=(3, 224, 224),
    licence="image-net.org, research and education only",
    folder=True,
    input_size=224,
)
