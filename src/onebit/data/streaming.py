"""Images that are too large for memory, with the indexing of an array, and reading ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]

_T = TypeVar("_T")


class PixelSource(Protocol):
    """A source of `count` streamed images of the shape (H, W, C)."""

    shape: tuple[int, int, int]
    count: int

    def read(self, rows: npt.NDArray[np.int64], *, crops: npt.NDArray[np.float64] | None = None) -> Images:
        """Read images, (len(rows), H, W, C); with `crops` a random part of each, see `resizing.crop_box`."""


class StreamedImages:
    """Images that do not fit in memory and are read when they are indexed.

    It has the shape, dtype and length of a uint8 array (N, C, H, W). Indexing with a slice, a mask or an array of
    indices reads those images into an ndarray with NHWC memory; `subset` selects images without reading them.

    Args:
        source: reads the images.
        rows: (N,), the images of the source to use; all of them by default.

    Example:
        >>> streamed = load_dataset("imagenet", directory=folder).test.images  # doctest: +SKIP
        >>> streamed[:2].shape  # doctest: +SKIP
        (2, 3, 224, 224)
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, source: PixelSource, rows: npt.ArrayLike | None = None) -> None:
        self.source = source
        self.rows = np.arange(source.count) if rows is None else np.asarray(rows, np.int64)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        height, width, channels = self.source.shape
        return len(self.rows), channels, height, width

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Images:
        rows = self.rows[index]
        pixels = self.source.read(np.atleast_1d(rows)).transpose(0, 3, 1, 2)
        return pixels if rows.ndim else pixels[0]

    def subset(self, index: Any) -> StreamedImages:
        """The images at a slice, mask or array of indices, without reading them."""
        return StreamedImages(self.source, self.rows[index])

    def __repr__(self) -> str:
        return f"StreamedImages({len(self)} images of {'×'.join(map(str, self.shape[1:]))})"


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


def read_batches(images: Images | StreamedImages, indices: Sequence[Any]) -> Iterator[Images]:
    """`images[index]` for each slice or array in `indices`; streamed images are read ahead."""
    batches = (images[index] for index in indices)
    return prefetched(batches) if isinstance(images, StreamedImages) else batches
