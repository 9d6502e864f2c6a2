"""Image files to pixels, in threads: Pillow decodes and resizes outside of Python's global lock."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np
import numpy.typing as npt

from onebit.common.pictures import fitted, opened, upright_size
from onebit.data.resizing import Images, crop_box
from onebit.errors import DataError


def image_size(path: str) -> tuple[int, int]:
    """(height, width) of an image file as a viewer shows it, from its header; DataError if Pillow cannot read it."""
    with opened(path) as image:
        width, height = upright_size(image)
        return height, width


def decode_image(path: str, size: tuple[int, int], *, crop: npt.ArrayLike | None = None) -> Images:
    """Decode an image file to RGB pixels: its largest centered part with the aspect ratio of `size`, resized to `size`.

    Transparent pixels are blended with black; gray, palette and CMYK images become RGB; 16 bits become 8; the EXIF
    orientation is applied.

    Args:
        size: height and width.
        crop: the part to take instead of the center, see `resizing.crop_box`.

    Returns:
        (H, W, 3) uint8.
    """
    box = None if crop is None else lambda width, height: crop_box(width, height, np.asarray(crop, np.float64))
    with opened(path) as image:
        return np.array(fitted(image, size, "RGB", box=box))


def default_workers() -> int:
    """One for each CPU that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decode_each(
    paths: Sequence[str],
    size: tuple[int, int],
    *,
    crops: npt.NDArray[np.float64] | None = None,
    workers: int | None = None,
) -> Iterator[Images | DataError]:
    """`decode_image` of each file, in order; the error of a file that does not decode.

    Args:
        crops: (len(paths), 4), the part to take of each image.
        workers: number of threads; 0 decodes in this one; None means one for each CPU.
    """

    def decoded(path: str, crop: npt.ArrayLike | None) -> Images | DataError:
        try:
            return decode_image(path, size, crop=crop)
        except DataError as error:
            return error

    jobs = paths, repeat(None) if crops is None else crops
    if workers == 0:
        yield from map(decoded, *jobs)
        return
    with ThreadPoolExecutor(default_workers() if workers is None else workers, "onebit decoding") as threads:
        yield from threads.map(decoded, *jobs)
