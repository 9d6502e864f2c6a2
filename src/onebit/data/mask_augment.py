"""Random changes to images and their masks together, a whole batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onebit.data.augment import Augmentation
from onebit.data.mask_scores import Masks
from onebit.data.streaming import Images
from onebit.data.tiles import mirrored
from onebit.errors import UsageError


class MaskDraws(NamedTuple):
    """What chance says about the N samples of a batch.

    top, left: (N,) corner of the window, in pixels of the image; negative ones lie in its mirrored border.
    turns: (N,) quarter turns. flipped: (N, 2) bool, upside down and left to right.
    displacement: (N, 2, S, S') float32, by how many rows and columns each pixel of the window is taken from elsewhere;
    None where nothing is deformed.
    """

    top: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]
    turns: npt.NDArray[np.int64]
    flipped: npt.NDArray[np.bool_]
    displacement: npt.NDArray[np.float32] | None

    def of(self, part: slice) -> MaskDraws:
        """The draws of some of the samples."""
        return MaskDraws._make(None if array is None else array[part] for array in self)


class MaskedImages:
    """The images and masks of a training split, from which batches are made.

    A window of `crop_size` is cut out at a random place of the image, which is mirrored `crop_padding` pixels beyond
    its border; it is deformed, turned and flipped, and the mask with it. Values between pixels are bilinear in the
    image and the nearest in the mask.

    Args:
        images: (N, C, H, W) uint8.
        masks: (N, H, W) uint8.
        augmentation: what is done; None for nothing.
        channels_last: batches are (N, C, H, W) in NHWC memory; else in the order of their shape.

    Raises:
        UsageError: a window that is larger than image and border, quarter turns of images that are no squares, or a
            change that only whole images take.
    """

    def __init__(self, images: Images, masks: Masks, augmentation: Augmentation | None, *, channels_last: bool) -> None:
        self.augmentation = augmentation or Augmentation()
        self.channels_last = channels_last
        self._pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        self._masks = masks
        self.size = (images.shape[2], images.shape[3])
        crop = self.augmentation.crop_size
        self.window = self.size if crop is None else (crop, crop)
        _check(self.augmentation, self.size, self.window)
        self._kernels = [_gaussian(side, self.augmentation.elastic_smoothness) for side in self.window]

    def draw(self, count: int, rng: np.random.Generator) -> MaskDraws:
        """Draw for a batch, in this order: rows of the windows, columns, turns, coins, displacements."""
        asked, border = self.augmentation, self.augmentation.crop_padding
        corners = [
            rng.integers(-border, size + border - side + 1, count)
            for size, side in zip(self.size, self.window, strict=True)
        ]
        turns = rng.integers(0, 4, count) if asked.rotate else np.zeros(count, np.int64)
        flipped = rng.random((count, 2)) < 0.5
        flipped &= [asked.flip_vertical, asked.flip]
        moved = None
        if asked.elastic:
            down, across = self._kernels
            noise = rng.standard_normal((count, 2, down.shape[1], across.shape[1]), dtype=np.float32)
            # not by matmul: its threads, which torch's setting does not reach, would wait for those of the training
            lines = np.einsum("pi,ncij->ncpj", down, noise)
            moved = np.float32(asked.elastic) * np.einsum("ncpj,qj->ncpq", lines, across)
        return MaskDraws(corners[0], corners[1], turns, flipped, moved)

    def batch(
        self, indices: npt.NDArray[np.int64], rng: np.random.Generator, *, part: slice = slice(None)
    ) -> tuple[Images, Masks]:
        """The images and masks `indices`, changed.

        Args:
            indices: (N,), which samples.
            rng: drawn from for all of `indices`, so that processes that share a batch draw alike.
            part: only these of `indices` are made.

        Returns:
            uint8 (n, C, S, S') and (n, S, S'), new arrays.
        """
        draws = self.draw(len(indices), rng).of(part)
        which = np.asarray(indices)[part]
        rows = draws.top[:, None] + np.arange(self.window[0])
        columns = draws.left[:, None] + np.arange(self.window[1])
        if draws.displacement is None:
            rows, columns = mirrored(rows, self.size[0])[:, :, None], mirrored(columns, self.size[1])[:, None, :]
            place = which[:, None, None]
            pixels, masks = self._pixels[place, rows, columns], self._masks[place, rows, columns]
        else:
            y, x = (draws.displacement[:, axis] for axis in (0, 1))
            pixels, masks = self._deformed(which, rows[:, :, None] + y, columns[:, None, :] + x)
        for i, (turns, (over, across)) in enumerate(zip(draws.turns, draws.flipped, strict=True)):
            if turns or over or across:
                steps = slice(None, None, -1 if over else 1), slice(None, None, -1 if across else 1)
                for array in (pixels, masks):
                    array[i] = np.rot90(array[i], turns)[steps]
        if self.channels_last:
            return pixels.transpose(0, 3, 1, 2), masks
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), masks

    def _deformed(
        self, which: npt.NDArray[np.int64], rows: npt.NDArray[np.floating], columns: npt.NDArray[np.floating]
    ) -> tuple[Images, Masks]:
        """The samples at places between pixels, (n, S, S') each."""
        place, (height, width) = which[:, None, None], self.size
        nearest = (np.rint(axis).astype(np.int64) for axis in (rows, columns))
        y, x = (mirrored(axis, size) for axis, size in zip(nearest, self.size, strict=True))
        masks = self._masks[place, y, x]
        low_row, low_column = (np.floor(axis).astype(np.int64) for axis in (rows, columns))
        down, right = ((axis - low).astype(np.float32) for axis, low in ((rows, low_row), (columns, low_column)))
        down, right = down[..., None], right[..., None]
        top, bottom = mirrored(low_row, height), mirrored(low_row + 1, height)
        left, other = mirrored(low_column, width), mirrored(low_column + 1, width)
        upper = self._pixels[place, top, left] * (1 - right) + self._pixels[place, top, other] * right
        lower = self._pixels[place, bottom, left] * (1 - right) + self._pixels[place, bottom, other] * right
        return np.rint(upper * (1 - down) + lower * down).astype(np.uint8), masks

    def batches(
        self, chosen: Iterable[tuple[npt.NDArray[np.int64], slice]], rng: np.random.Generator
    ) -> Iterator[tuple[Images, Masks]]:
        """`batch` for each of `chosen`, indices and part. `rng` belongs to this iterator until it ends."""
        return (self.batch(indices, rng, part=part) for indices, part in chosen)


def _gaussian(side: int, smoothness: float) -> npt.NDArray[np.float32]:
    """(side, points): rows that make a smooth line of white noise at some points of it, of the same variance.

    G_ij ∝ exp(−(i − s·j)²/(2σ²)) with Σ_j G_ij² = 1, so that G·n·Gᵀ of standard normal n has variance 1 everywhere, at
    the border, too. The points lie s = σ/2 apart: closer ones change nothing that can be seen, and cost time.
    """
    points = np.arange(0, side + smoothness / 2, max(1.0, smoothness // 2))
    kernel = np.exp(-np.square((np.arange(side)[:, None] - points) / smoothness) / 2)
    return (kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32)


def _check(asked: Augmentation, size: tuple[int, int], window: tuple[int, int]) -> None:
    """Refuse what cannot be done to images of this size and their masks."""
    for name in ("cutout", "min_area"):
        if getattr(asked, name):
            raise UsageError(f"augmentation.{name}={getattr(asked, name)} does not go with masks: leave it out")
    border, (height, width) = asked.crop_padding, size
    if border and asked.padding_mode != "reflect":
        raise UsageError("crop_padding of images with masks is mirrored: set padding_mode reflect")
    if border >= min(size) or any(wide > side + 2 * border for wide, side in zip(window, size, strict=True)):
        raise UsageError(
            f"augmentation: a window of {window[0]}×{window[1]} and a border of {border} do not fit images of "
            f"{height}×{width} pixels: a smaller crop_size, or a crop_padding up to {min(size) - 1}"
        )
    if asked.rotate and window[0] != window[1]:
        raise UsageError(f"augmentation.rotate turns squares, got {window[0]}×{window[1]} pixels: set crop_size")
