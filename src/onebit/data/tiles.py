"""Images in tiles of the size that a net takes, and masks put together again from what it makes of them.

A net with valid padding predicts less than it sees: its tiles overlap, and beyond the border of the image they see the
image mirrored (the overlap-tile strategy of Ronneberger et al. 2015, arXiv:1505.04597, section 2 and figure 2). A net
that predicts all it sees takes an image of its own size whole; of tiles it keeps what is an eighth of their side or
more away from a cut, because its zero padding is not what lies there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onebit.data.mask_scores import VOID, Masks
from onebit.data.splits import Split
from onebit.data.streaming import Images
from onebit.packed import PackedNet, infer


@dataclass(frozen=True)
class Tiling:
    """How images of one size are cut for a net, and what of each prediction belongs where.

    Args:
        image: (H, W) of an image.
        seen: (H, W) of what the net takes; made: (H, W) of what it predicts, the centre of it.
    """

    image: tuple[int, int]
    seen: tuple[int, int]
    made: tuple[int, int]

    def spans(self, axis: int) -> list[tuple[int, int, int]]:
        """(first pixel predicted, first kept, end of kept) of each tile, in pixels of the image; those kept adjoin."""
        size, made = self.image[axis], self.made[axis]
        whole = size <= made
        cut = self.seen[axis] // 8 if made == self.seen[axis] and not whole else 0
        starts = [0 if not whole else -((made - size) // 2)]
        while starts[-1] + made < size:
            starts.append(min(starts[-1] + made - 2 * cut, size - made))
        keeps = [0, *(start + cut for start in starts[1:]), size]
        return list(zip(starts, keeps, keeps[1:], strict=False))

    def cut(self, images: Images) -> Images:
        """(N, C, H, W) -> (N·T, C, h, w), the T tiles of an image one after the other, row by row."""
        places = []
        for axis in (0, 1):
            border = (self.seen[axis] - self.made[axis]) // 2
            reach = np.arange(self.seen[axis]) - border
            places.append([mirrored(start + reach, self.image[axis]) for start, _, _ in self.spans(axis)])
        tiles = [images[:, :, rows][:, :, :, columns] for rows in places[0] for columns in places[1]]
        return np.stack(tiles, axis=1).reshape(-1, images.shape[1], *self.seen)

    def cut_masks(self, masks: Masks) -> Masks:
        """(N, H, W) -> (N·T, h', w'): each pixel of a mask stands in one tile, the rest of the tiles is `VOID`."""
        tiles = []
        for top, row, row_end in self.spans(0):
            for left, column, column_end in self.spans(1):
                tile = np.full((len(masks), *self.made), VOID, masks.dtype)
                tile[:, row - top : row_end - top, column - left : column_end - left] = masks[
                    :, row:row_end, column:column_end
                ]
                tiles.append(tile)
        return np.stack(tiles, axis=1).reshape(-1, *self.made)

    def join(self, tiles: npt.NDArray) -> npt.NDArray:
        """(N·T, K, h', w') -> (N, K, H, W): the inverse of `cut`, of what a net made of the tiles."""
        rows, columns = self.spans(0), self.spans(1)
        grouped = tiles.reshape(-1, len(rows), len(columns), *tiles.shape[1:])
        joined = np.empty((len(grouped), tiles.shape[1], *self.image), tiles.dtype)
        for i, (top, row, row_end) in enumerate(rows):
            for j, (left, column, column_end) in enumerate(columns):
                kept = grouped[:, i, j, :, row - top : row_end - top, column - left : column_end - left]
                joined[:, :, row:row_end, column:column_end] = kept
        return joined


def mirrored(places: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Places on a line of `size` pixels that goes on mirrored at its ends: −1 is 1, `size` is `size` − 2."""
    period = max(2 * size - 2, 1)
    places = np.abs(places) % period
    return np.minimum(places, period - places) if size > 1 else np.zeros_like(places)


def fitted(split: Split, taken: Sequence[int], made: Sequence[int]) -> Split:
    """A split of images and masks in tiles that a net takes, each pixel to be counted once; itself where it fits.

    Args:
        taken: (C, H, W) that the net takes; made: (K, H', W') that it makes.
    """
    image, (height, width) = split.images.shape[2:], taken[1:]
    if image == (height, width) == tuple(made[1:]):
        return split
    tiling = Tiling(image, (height, width), (made[1], made[2]))
    return Split(tiling.cut(split.images), tiling.cut_masks(split.labels))


def fitted_to(net: PackedNet, split: Split) -> Split:
    """`fitted` for a packed net; a split without masks itself."""
    return split if split.labels.ndim == 1 else fitted(split, net.input.shape, infer(net)[net.output].shape)
