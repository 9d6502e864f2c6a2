"""Folders of images in class sub-folders as data sets; large ones are decoded for each batch."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from onebit.common.pictures import opened, upright_size
from onebit.data.decoding import StreamedImages
from onebit.data.fetch import find_folder, own_path
from onebit.data.listing import Listing, list_folder
from onebit.data.splits import DatasetEntry, LoadedFiles, Progress, Source, Split
from onebit.errors import DataError, UsageError

STREAMED_ABOVE = 1 << 30
"""Decoded images of more bytes are not kept in memory."""


def read_folder(
    name: str,
    *,
    directory: Source = None,
    progress: Progress | None = None,
    input_size: int | None = None,
    workers: int | None = None,
    skip_broken: bool = False,
) -> LoadedFiles:
    """Read the images in a folder as RGB, resized by `decode_image`; for the arguments see `load_dataset`.

    More than `STREAMED_ABOVE` bytes of decoded images are streamed; a broken one is then an error only when it is read.
    """
    root = own_path(name, directory).resolve() if name == "folder" else find_folder(name, directory, ("train", "val"))
    listing = list_folder(root)
    size = (input_size, input_size) if input_size else _common_size(listing, skip_broken=skip_broken)
    streamed = len(listing.files) * 3 * size[0] * size[1] > STREAMED_ABOVE
    done, total = 0, sum(file.size for file in listing.files)
    splits: list[Split] = []
    broken: list[str] = []
    for files in (listing.train, listing.validation, listing.test):
        on_disk = StreamedImages([os.path.join(root, file.name) for file in files], size, workers=workers)
        images: Any = on_disk if streamed else np.zeros(on_disk.shape, np.uint8)
        good = np.ones(len(files), np.bool_)
        for i, decoded in enumerate(on_disk.decoded() if skip_broken or not streamed else ()):
            if not isinstance(decoded, DataError):
                if not streamed:
                    images[i] = decoded.transpose(2, 0, 1)
            elif skip_broken:
                good[i] = False
                broken.append("/".join(Path(files[i].name).parts[-2:]))
            else:
                raise decoded
            done += files[i].size
            if progress is not None:
                progress(f"decoding images of {root.name}", done, total)
        split = Split(images, np.array([file.label for file in files], np.int64))
        splits.append(split if good.all() else split[good])
    train, validation, test = splits
    missing = {*range(len(listing.classes))} - {*train.labels.tolist()}
    if missing or not len(test):
        what = f"class {listing.classes[min(missing)]!r}" if missing else "the test set"
        raise DataError(f"{root}: no image of {what}")
    some = ", ".join(broken[:3]) + (", …" if len(broken) > 3 else "")
    left_out = f"images left out because they do not decode: {len(broken)} ({some})" if broken else ""
    note = "; ".join(filter(None, (listing.note, left_out)))
    own = validation if len(validation) else None
    return LoadedFiles(train, test, str(root), (), note, listing.classes, own, listing.digest)


def _common_size(listing: Listing, *, skip_broken: bool) -> tuple[int, int]:
    """The (height, width) that all images have."""
    sizes: dict[tuple[int, int], str] = {}
    for file in listing.files:
        path = os.path.join(listing.root, file.name)
        try:
            with opened(path) as image:
                sizes.setdefault(upright_size(image), path)
        except DataError:
            if not skip_broken:
                raise
        if len(sizes) > 1:
            found = " and ".join(f"{height}×{width} ({name})" for (width, height), name in sizes.items())
            raise UsageError(f"images of several sizes: {found}; resize them with --input-size N")
    width, height = next(iter(sizes), (1, 1))
    return height, width


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
