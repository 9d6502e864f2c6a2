"""Folders of images in class sub-folders as data sets.

Worker processes decode and resize the images once; the cache keeps them as one uint8 array. The images in a folder that
is too large for that are decoded for each batch.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onebit.common.files import atomic_path, remove_leftovers, write_atomic
from onebit.data.decoding import Decoders, image_size
from onebit.data.fetch import cache_dir, find_folder
from onebit.data.listing import ImageFile, Listing, list_folder
from onebit.data.resizing import resized_crops
from onebit.data.splits import DatasetEntry, Labels, LoadedFiles, Progress, Split
from onebit.data.streaming import Images, StreamedImages
from onebit.errors import DataError, UsageError

MAPPED_ABOVE = 1 << 30
"""Bytes of decoded images; more are read from the cached file for each batch."""
STREAMED_ABOVE = 1 << 34
"""Bytes of decoded images; more are not cached but decoded for each batch."""
_VERSION = 3  # of the output of `decode_image`; another version ignores all older caches
_CHUNK = 1 << 26  # bytes decoded between two writes


class MappedPixels:
    """A source of streamed images: an array (N, H, W, C) in a numpy file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._pixels: Images = np.asarray(np.load(path, mmap_mode="r"))
        self.count, self.shape = len(self._pixels), self._pixels.shape[1:]

    def __reduce__(self) -> tuple[type[MappedPixels], tuple[str]]:
        return MappedPixels, (self.path,)

    def read(self, rows: npt.NDArray[np.int64], *, crops: npt.NDArray[np.float64] | None = None) -> Images:
        pixels = self._pixels[rows]
        return pixels if crops is None else resized_crops(pixels, crops)


class DecodedFiles:
    """A source of streamed images: files that are decoded when they are needed."""

    def __init__(self, paths: Sequence[str], decoders: Decoders) -> None:
        self.paths, self.decoders = paths, decoders
        self.count, self.shape = len(paths), (*decoders.size, 3)

    def read(self, rows: npt.NDArray[np.int64], *, crops: npt.NDArray[np.float64] | None = None) -> Images:
        return self.decoders.decode([self.paths[row] for row in rows], crops=crops)


class _Checked(NamedTuple):
    """The result of decoding a folder: the size of the decoded images, and the error for each broken file by index."""

    size: tuple[int, int]
    broken: dict[int, str]


def read_folder(
    name: str,
    *,
    directory: str | Path | None = None,
    progress: Progress | None = None,
    input_size: int | None = None,
    workers: int | None = None,
    skip_broken: bool = False,
    mapped_above: int = MAPPED_ABOVE,
    streamed_above: int = STREAMED_ABOVE,
) -> LoadedFiles:
    """Read the images in a folder as RGB, resized by `decode_image`.

    Args:
        name: "folder", or "imagenet", which is also searched for in `ONEBIT_DATA`.
        input_size: side to resize the images to; None keeps their size, which must be the same for all.
        workers: number of processes that decode; 0 decodes in this one; None means one for each CPU.
        skip_broken: leave out images that do not decode, and list them in the note.
        mapped_above: bytes of decoded images; more are not kept in memory.
        streamed_above: bytes of decoded images; more are not cached either, and a broken image is an error only when it
            is needed.

    Returns:
        Images, or `StreamedImages`.
    """
    if workers is not None and workers < 0:
        raise UsageError(f"workers must be 0 or more, got {workers}")
    root = _find_root(name, directory)
    try:
        listing = list_folder(root)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror or error}") from error
    files = listing.files
    cached = _cache_path(listing, input_size)
    checked = _read_checked(cached)
    square = (input_size, input_size) if input_size else None
    size = checked.size if checked is not None else square or _common_size(files, skip_broken=skip_broken)
    needed = len(files) * size[0] * size[1] * 3
    streamed = needed > streamed_above
    decoders = Decoders(size, workers=workers)
    if checked is None and streamed and not skip_broken:
        checked = _Checked(size, {})
    elif checked is None or not (streamed or cached.exists()):
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"cannot write in the cache {cached.parent}: {error}; name another: ONEBIT_CACHE"
            ) from error
        with nullcontext() if streamed else atomic_path(cached) as temporary:
            checked = _decode_all(listing, decoders, temporary, skip_broken=skip_broken, progress=progress)
            content = {"size": checked.size, "broken": list(checked.broken.items())}
            write_atomic(cached.with_suffix(".json"), json.dumps(content).encode())
        _remove_old(cached)
    if checked.broken and not skip_broken:
        raise _broken(next(iter(checked.broken.values())))
    images: Images | StreamedImages
    if streamed:
        images = StreamedImages(DecodedFiles([file.path for file in files], decoders))
    elif needed > mapped_above:
        images = StreamedImages(MappedPixels(str(cached)))
    else:
        images = np.load(cached).transpose(0, 3, 1, 2)
    return _load(listing, images, checked, "" if streamed else str(cached))


def _load(listing: Listing, images: Images | StreamedImages, checked: _Checked, cached: str) -> LoadedFiles:
    """Split the images into train, validation and test, without the broken ones."""
    labels: Labels = np.array([file.label for file in listing.files], np.int64)
    good = np.ones(len(labels), np.bool_)
    good[list(checked.broken)] = False
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
        raise DataError(f"{listing.root}: no image of {what} decodes")
    notes = [listing.note] if listing.note else []
    if checked.broken:
        paths = [Path(listing.files[i].path) for i in checked.broken]
        some = ", ".join(f"{path.parent.name}/{path.name}" for path in paths[:3]) + (", …" if len(paths) > 3 else "")
        notes.append(f"images left out because they do not decode: {len(paths)} ({some})")
    own, note = validation if len(validation) else None, "; ".join(notes)
    files = (cached,) if cached else ()
    return LoadedFiles(train, test, str(listing.root), files, note, listing.classes, own, listing.digest)


def _find_root(name: str, directory: str | Path | None) -> Path:
    """The folder: `directory` itself, or that of "imagenet" among the folders of data sets."""
    if directory is not None and not Path(directory).expanduser().is_dir():
        raise DataError(f"{directory} is not a folder; expected one with images in class sub-folders")
    if name == "folder":
        if directory is None:
            raise DataError("data set 'folder' is a folder of your own images: name it with --data DIR")
        return Path(directory).expanduser().resolve()
    return find_folder(name, directory, ("train", "val"), needs="train/CLASS/*.JPEG and val/CLASS/*.JPEG")


def _common_size(files: Sequence[ImageFile], *, skip_broken: bool) -> tuple[int, int]:
    """The (height, width) of all images."""
    first: tuple[str, tuple[int, int]] | None = None
    for file in files:
        try:
            size = image_size(file.path)
        except DataError as error:
            if skip_broken:
                continue
            raise _broken(str(error)) from None
        first = first or (file.path, size)
        if size != first[1]:
            raise UsageError(
                f"images of several sizes: {first[0]} has {first[1][0]}×{first[1][1]} pixels, {file.path} "
                f"{size[0]}×{size[1]}; expected one size; to resize them all, add --input-size N"
            )
    if first is None:
        raise DataError(f"{files[0].path}: does not decode, and neither does any other image")
    return first[1]


def _decode_all(
    listing: Listing, decoders: Decoders, target: Path | None, *, skip_broken: bool, progress: Progress | None
) -> _Checked:
    """Decode every file once, into the numpy file `target`, (N, H, W, 3), or just to find the broken files."""
    files, size, broken = listing.files, decoders.size, {}
    chunk = max(1, _CHUNK // (size[0] * size[1] * 3))
    done, total = 0, sum(file.size for file in files)
    with closing(decoders), open(target or os.devnull, "wb") as out:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *size, 3)}
        np.lib.format.write_array_header_1_0(out, header)
        for start in range(0, len(files), chunk):
            part = files[start : start + chunk]
            pixels = np.zeros((len(part), *size, 3), np.uint8)
            errors = decoders.decode_into(pixels, [file.path for file in part])
            for i, (file, error) in enumerate(zip(part, errors, strict=True), start):
                if error is not None:
                    if not skip_broken:
                        raise _broken(str(error))
                    broken[i] = str(error)
                done += file.size
                if progress is not None:
                    progress(f"decoding images of {listing.root.name}", done, total)
            out.write(pixels.data)
    return _Checked(size, broken)


def _broken(error: str) -> DataError:
    return DataError(f"{error}; leave out such images with --skip-broken")


def _cache_path(listing: Listing, input_size: int | None) -> Path:
    """The cache file: its name has a hash of the folder and image size, and one of the current state of the files."""
    where = hashlib.sha256(json.dumps([str(listing.root), input_size, _VERSION]).encode()).hexdigest()
    files = hashlib.sha256(json.dumps([listing.classes, listing.files]).encode()).hexdigest()
    return cache_dir() / "folders" / f"{listing.root.name[:40]}-{where[:12]}-{files[:16]}.npy"


def _remove_old(cached: Path) -> None:
    """Remove the cache of an earlier state of the folder, and unfinished files of a killed process."""
    remove_leftovers(cached.parent)
    same = cached.stem.rpartition("-")[0]
    for path in cached.parent.glob(f"{glob.escape(same)}-*"):
        if path.stem != cached.stem:
            with suppress(OSError):  # another process may be using it
                path.unlink()


def _read_checked(cached: Path) -> _Checked | None:
    """The result of an earlier run; None if there is none, or if the file is damaged."""
    try:
        content = json.loads(cached.with_suffix(".json").read_bytes())
        height, width = content["size"]
        return _Checked((height, width), {int(index): str(error) for index, error in content["broken"]})
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
