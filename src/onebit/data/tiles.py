"""Cut images into tiles of the input size of a net, and join the masks that it predicts for them.

A net with valid padding predicts a smaller mask than its input, so its tiles overlap, and the image is mirrored at its
border (the overlap-tile strategy of Ronneberger et al. 2015, arXiv:1505.04597, section 2 and figure 2). For a net whose
masks have the size of its input, an eighth of the side of each tile is dropped next to other tiles, because zero
padding replaces the real pixels there.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onebit.data.mask_scores import VOID, Masks
from onebit.data.resizing import Images
from onebit.data.splits import Split
from onebit.errors import DataError


@dataclass(frozen=True)
class Tiling:
    """How to cut images of one size into tiles for a net, and to join its predictions.

    Args:
        image: (H, W) of an image.
        seen: (H, W) of the input of the net.
        made: (H, W) of its prediction, for the center of the input.
    """

    image: tuple[int, int]
    seen: tuple[int, int]
    made: tuple[int, int]

    def spans(self, axis: int) -> list[tuple[int, int, int]]:
        """(first predicted, first used, end of used) pixel of each tile; the used parts of neighbors adjoin."""
        size, made = self.image[axis], self.made[axis]
        cut = self.seen[axis] // 8 if made == self.seen[axis] and size > made else 0
        starts = [0 if size > made else -((made - size) // 2)]
        while starts[-1] + made < size:
            starts.append(min(starts[-1] + made - 2 * cut, size - made))
        used = [0, *(start + cut for start in starts[1:]), size]
        return list(zip(starts, used, used[1:], strict=False))

    def _windows(self) -> list[tuple[Any, Any]]:
        """The used pixels of each tile, as an index of images and as an index of tiles."""
        return [
            (
                np.s_[..., row:row_end, column:column_end],
                np.s_[..., row - top : row_end - top, column - left : column_end - left],
            )
            for (top, row, row_end), (left, column, column_end) in itertools.product(self.spans(0), self.spans(1))
        ]

    def cut(self, images: Images) -> Images:
        """(N, C, H, W) -> (N·T, C, h, w), the T tiles of an image one after the other, row by row."""
        indices = []
        for axis in (0, 1):
            border = (self.seen[axis] - self.made[axis]) // 2
            offsets = np.arange(self.seen[axis]) - border
            indices.append([mirrored(start + offsets, self.image[axis]) for start, _, _ in self.spans(axis)])
        tiles = [images[:, :, rows][:, :, :, columns] for rows in indices[0] for columns in indices[1]]
        return np.stack(tiles, axis=1).reshape(-1, images.shape[1], *self.seen)

    def cut_masks(self, masks: Masks) -> Masks:
        """(N, H, W) -> (N·T, h', w'): each pixel of a mask is in one tile; all other pixels of the tiles are `VOID`."""
        windows = self._windows()
        tiles = np.full((len(masks), len(windows), *self.made), VOID, masks.dtype)
        for i, (image, tile) in enumerate(windows):
            tiles[:, i][tile] = masks[image]
        return tiles.reshape(-1, *self.made)

    def join(self, tiles: npt.NDArray) -> npt.NDArray:
        """(N·T, K, h', w') -> (N, K, H, W): join the predictions for the tiles of `cut`."""
        windows = self._windows()
        grouped = tiles.reshape(-1, len(windows), *tiles.shape[1:])
        joined = np.empty((len(grouped), tiles.shape[1], *self.image), tiles.dtype)
        for i, (image, tile) in enumerate(windows):
            joined[image] = grouped[:, i][tile]
        return joined


def mirrored(indices: Any, size: int) -> Any:
    """Reflect indices of `size` pixels, an array or a tensor, at both ends: −1 becomes 1, and `size` `size` − 2."""
    last = size - 1
    return last - abs(last - abs(indices) % max(2 * last, 1))


def fitted(split: Split, taken: Sequence[int], made: Sequence[int]) -> Split:
    """Cut a split of images and masks into tiles for a net, with each pixel in one mask; itself if the sizes fit.

    Args:
        split: the split.
        taken: (C, H, W), the input shape of the net.
        made: (K, H', W'), its output shape.

    Raises:
        DataError: images of another size than that of the net, with masks of another size than the images.
    """
    image, mask = split.images.shape[2:], split.labels.shape[1:]
    seen, predicted = (taken[1], taken[2]), (made[1], made[2])
    if image == seen and mask == predicted:  # with valid padding the masks of tiles are smaller than the tiles
        return split
    if mask != image:
        raise DataError(f"masks: got {mask} for images of {image}, expected {image}")
    tiling = Tiling(image, seen, predicted)
    return Split(tiling.cut(split.images), tiling.cut_masks(split.labels))
