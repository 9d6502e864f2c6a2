"""Folders of images in class sub-folders as data sets.

Images are decoded and resized once by worker processes and kept in the cache as one array of uint8; those of a folder
that is too large for that are decoded whenever they are needed.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onebit.common.files import atomic_path, remove_leftovers, write_atomic
from onebit.data.decoding import Decoders, image_size
from onebit.data.fetch import cache_dir, data_roots
from onebit.data.images import Images, StreamedImages
from onebit.data.listing import ImageFile, Listing, list_folder
from onebit.data.resizing import resized_crops
from onebit.data.splits import DatasetEntry, Labels, LoadedFiles, Progress, Split
from onebit.errors import DataError, UsageError

MAPPED_ABOVE = 1 << 30
"""Bytes of decoded images; more are read from the cached file batch by batch."""
STREAMED_ABOVE = 1 << 34
"""Bytes of decoded images; more are not cached but decoded batch by batch."""
_VERSION = 1  # of what `decode_image` makes of a file; a change makes all caches useless
_CHUNK = 1 << 26  # bytes decoded between two writes


class MappedPixels:
    """A source of streamed images: an array (N, H, W, C) in a file of numpy's, read as it is needed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._pixels: Images = np.asarray(np.load(path, mmap_mode="r"))

    def __reduce__(self) -> tuple[type[MappedPixels], tuple[str]]:
        return MappedPixels, (self.path,)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._pixels.shape[1:]

    @property
    def count(self) -> int:
        return len(self._pixels)

    def read(self, rows: npt.NDArray[np.int64], *, crops: npt.NDArray[np.float64] | None = None) -> Images:
        pixels = self._pixels[rows]
        return pixels if crops is None else resized_crops(pixels, crops)


@dataclass(frozen=True)
class DecodedFiles:
    """A source of streamed images: files, decoded as they are needed."""

    paths: tuple[str, ...]
    decoders: Decoders

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.decoders.size, 3)

    @property
    def count(self) -> int:
        return len(self.paths)

    def read(self, rows: npt.NDArray[np.int64], *, crops: npt.NDArray[np.float64] | None = None) -> Images:
        return self.decoders.decode([self.paths[row] for row in rows], crops=crops)


@dataclass(frozen=True)
class _Checked:
    """What is known of the files of a folder: the size their images get, and which do not decode, and why."""

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
    """The images of a folder, RGB, each reduced to the same size by `decode_image`.

    Args:
        name: "folder", or "imagenet", which is also looked for in `ONEBIT_DATA`.
        directory: the folder.
        progress: told about files that are decoded.
        input_size: side of the images; None where all have one size, which they keep.
        workers: processes that decode; 0 for this one, None for one a CPU.
        skip_broken: leave out images that do not decode, and say so in the note.
        mapped_above: bytes of decoded images; more are not held in memory.
        streamed_above: bytes of decoded images; more are not even cached, and a broken one shows when it is needed.

    Returns:
        Images, or `StreamedImages`.

    Raises:
        DataError: no such folder, or not laid out so (see `list_folder`); an image that does not decode.
        UsageError: images of several sizes without `input_size`; a negative number of workers.
    """
    if workers is not None and workers < 0:
        raise UsageError(f"workers must be 0 or more, got {workers}")
    root = _find_root(name, directory)
    try:
        listing = list_folder(root)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror or error}") from error
    files = listing.files
    decode = functools.partial(_decode_all, listing, workers=workers, skip_broken=skip_broken, progress=progress)
    cached = _cache_path(listing, input_size)
    checked = _read_checked(cached)
    if checked is None:
        size = (input_size, input_size) if input_size else _common_size(files, skip_broken=skip_broken)
    else:
        size = checked.size
    needed = len(files) * size[0] * size[1] * 3
    streamed = needed > streamed_above
    if streamed and checked is None:
        checked = decode(size, None) if skip_broken else _Checked(size, {})
        if skip_broken:
            _write_checked(cached, checked)
    elif checked is None or not (streamed or cached.exists()):
        _make_folder(cached.parent)
        with atomic_path(cached) as temporary:
            checked = decode(size, temporary)
            _write_checked(cached, checked)
        _remove_old(cached)
    if checked.broken and not skip_broken:
        raise _broken(next(iter(checked.broken.values())))
    images: Images | StreamedImages
    if streamed:
        images = StreamedImages(DecodedFiles(tuple(file.path for file in files), Decoders(size, workers=workers)))
    elif needed > mapped_above:
        images = StreamedImages(MappedPixels(str(cached)))
    else:
        images = np.load(cached).transpose(0, 3, 1, 2)
    return _load(listing, images, checked, str(cached) if not streamed else "")


def _load(listing: Listing, images: Images | StreamedImages, checked: _Checked, cached: str) -> LoadedFiles:
    """Split the images of all files, without the broken ones."""
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
    return LoadedFiles(
        train,
        test,
        str(listing.root),
        (cached,) if cached else (),
        note="; ".join(notes),
        classes=listing.classes,
        validation=validation if len(validation) else None,
        identity=listing.digest,
    )


def _find_root(name: str, directory: str | Path | None) -> Path:
    """The folder: `directory` itself, or where "imagenet" lies in the folders of data sets."""
    if directory is not None and not Path(directory).expanduser().is_dir():
        raise DataError(f"{directory} is not a folder; expected one with images in class sub-folders")
    if name == "folder":
        if directory is None:
            raise DataError("data set 'folder' is a folder of your own images: name it with --data DIR")
        return Path(directory).expanduser().resolve()
    places = [place for root in data_roots(directory) for place in (root, root / name)]
    for place in places:
        if (place / "train").is_dir() and (place / "val").is_dir():
            return place.resolve()
    raise DataError(
        f"data set {name!r} not found: needs train/CLASS/*.JPEG and val/CLASS/*.JPEG; "
        f"looked in {', '.join(map(str, places))}; name the folder that holds them with --data DIR or ONEBIT_DATA"
    )


def _common_size(files: Sequence[ImageFile], *, skip_broken: bool) -> tuple[int, int]:
    """The (height, width) that all images have.

    Raises:
        UsageError: they have several. DataError: an image that cannot be read.
    """
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
                f"{size[0]}×{size[1]}; expected one size, or the side to resize them to: --input-size N"
            )
    if first is None:
        raise DataError(f"{files[0].path}: does not decode, nor does any other image")
    return first[1]


def _decode_all(
    listing: Listing,
    size: tuple[int, int],
    target: Path | None,
    *,
    workers: int | None,
    skip_broken: bool,
    progress: Progress | None,
) -> _Checked:
    """Decode every file once; into `target`, a file of numpy's (N, H, W, 3), or only to see that it decodes.

    Raises:
        DataError: an image that does not decode, unless it is to be skipped.
    """
    files, broken = listing.files, {}
    step = max(1, _CHUNK // (size[0] * size[1] * 3))
    done, total = 0, sum(file.size for file in files)
    with closing(Decoders(size, workers=workers)) as decoders, open(target or os.devnull, "wb") as out:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), *size, 3)}
        np.lib.format.write_array_header_1_0(out, header)
        for start in range(0, len(files), step):
            part = files[start : start + step]
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


def _broken(what: str) -> DataError:
    return DataError(f"{what}; leave out such images with --skip-broken")


def _cache_path(listing: Listing, input_size: int | None) -> Path:
    """Where the decoded images are kept: a name for the folder and the size, then one for its files as they are now."""
    where = hashlib.sha256(json.dumps([str(listing.root), input_size, _VERSION]).encode()).hexdigest()
    files = hashlib.sha256(json.dumps([listing.classes, listing.files]).encode()).hexdigest()
    return cache_dir() / "folders" / f"{listing.root.name[:40]}-{where[:12]}-{files[:16]}.npy"


def _remove_old(cached: Path) -> None:
    """Remove what was kept of the same folder as it was before, and what a killed process left half written."""
    remove_leftovers(cached.parent)
    same = cached.stem.rpartition("-")[0]
    for path in cached.parent.glob(f"{glob.escape(same)}-*"):
        if path.stem != cached.stem:
            with suppress(OSError):  # another process may use it
                path.unlink()


def _write_checked(cached: Path, checked: _Checked) -> None:
    _make_folder(cached.parent)
    content = {"size": checked.size, "broken": list(checked.broken.items())}
    write_atomic(cached.with_suffix(".json"), json.dumps(content).encode())


def _read_checked(cached: Path) -> _Checked | None:
    """What `_write_checked` wrote; None when it is not there, or not what it wrote."""
    try:
        found = json.loads(cached.with_suffix(".json").read_bytes())
        height, width = found["size"]
        return _Checked((height, width), {int(index): str(why) for index, why in found["broken"]})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write in the cache {folder}: {error}; name another: ONEBIT_CACHE") from error


FOLDER = DatasetEntry(
    name="folder",
    title="a folder of your own images (--data DIR) in class sub-folders: train/CLASS/, val/CLASS/, or only CLASS/",
    read=functools.partial(read_folder, "folder"),
    classes=None,
    input_shape=None,
    counts=None,
    validation=None,
    licence="yours",
    folder=True,
)
IMAGENET = DatasetEntry(
    name="imagenet",
    title="ImageNet (ILSVRC 2012) or a folder laid out like it: train/CLASS/*.JPEG, val/CLASS/*.JPEG",
    read=functools.partial(read_folder, "imagenet"),
    classes=None,
    input_shape=(3, 224, 224),
    counts=None,
    validation=None,
    licence="image-net.org, research and education only",
    folder=True,
    input_size=224,
)
