"""Decode image files, all at once or when they are indexed, in threads: Pillow releases Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from onebit.common.pictures import fitted, opened
from onebit.data.resizing import Images, Reals, crop_box
from onebit.errors import DataError

_T = TypeVar("_T")
_CHUNK = 1000  # files that are queued for the threads


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
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class StreamedImages:
    """Image files that are decoded when they are indexed, because they do not fit in memory.

    It has the shape, dtype and length of a uint8 array (N, 3, H, W). Indexing reads images into an ndarray with NHWC
    memory; `subset` selects images without reading them.

    Args:
        paths: (N,), the files.
        size: (H, W), see `decode_image`.
        workers: number of threads that decode; 0 for this one alone, None for one per CPU.

    Example:
        >>> streamed = load_dataset("imagenet", directory=folder).test.images  # doctest: +SKIP
        >>> streamed[:2].shape  # doctest: +SKIP
        (2, 3, 224, 224)
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self, paths: Sequence[str] | npt.NDArray[np.object_], size: tuple[int, int], *, workers: int | None = None
    ) -> None:
        self.paths, self.size, self.workers = np.asarray(paths, object), size, workers

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), 3, *self.size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Images:
        images = self.subset(index).read().transpose(0, 3, 1, 2)
        return images if np.ndim(self.paths[index]) else images[0]

    def subset(self, index: Any) -> StreamedImages:
        """The images at an index, a slice, mask or array of indices, without reading them."""
        return StreamedImages(np.atleast_1d(self.paths[index]), self.size, workers=self.workers)

    def read(self, crops: Reals | None = None) -> Images:
        """All images, (N, H, W, 3); with `crops` a random part of each, see `resizing.crop_box`."""
        pixels = np.empty((len(self), *self.size, 3), np.uint8)
        for out, decoded in zip(pixels, self.decoded(crops), strict=True):
            if isinstance(decoded, DataError):
                raise decoded
            out[...] = decoded
        return pixels

    def decoded(self, crops: Reals | None = None) -> Iterator[Images | DataError]:
        """Each image of `read`, in order; the error of a file that does not decode."""
        jobs = self.paths, [None] * len(self) if crops is None else crops
        if self.workers == 0:
            yield from map(self._decode, *jobs)
            return
        workers = default_workers() if self.workers is None else self.workers
        with ThreadPoolExecutor(workers, "onebit decoding") as threads:
            for start in range(0, len(self), _CHUNK):
                yield from threads.map(self._decode, *(each[start : start + _CHUNK] for each in jobs))

    def _decode(self, path: str, crop: Reals | None) -> Images | DataError:
        try:
            return decode_image(path, self.size, crop=crop)
        except DataError as error:
            return error


def prefetched(items: Iterable[_T], *, ahead: int = 2) -> Iterator[_T]:
    """Iterate over `items` in a background thread, up to `ahead` items in advance."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "onebit prefetch") as thread:
        waiting = deque(thread.submit(next, iterator, end) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, iterator, end))
                yield item  # type: ignore[misc]
        finally:
            for future in waiting:
                future.cancel()
