"""Random changes to whole batches of images and their masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onebit.common.augmentation import Augmentation
from onebit.data.mask_scores import Masks
from onebit.data.resizing import Images, Integers
from onebit.data.tiles import mirrored
from onebit.errors import UsageError


class MaskedImages:
    """The images and masks of a training split, as a source of batches.

    A window of `crop_size` is cropped at a random position from the image, which is padded by reflection with
    `crop_padding` pixels. Window and mask are deformed, rotated and flipped alike, the image with bilinear
    interpolation, the mask with the nearest neighbor.

    Args:
        images: (N, C, H, W) uint8.
        masks: (N, H, W) uint8.
        augmentation: the changes.
        channels_last: whether batches (N, C, H, W) have NHWC memory; otherwise they are contiguous.
    """

    def __init__(self, images: Images, masks: Masks, augmentation: Augmentation, *, channels_last: bool) -> None:
        self.augmentation, self.channels_last = augmentation, channels_last
        self._pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        self._masks = masks
        self.size = (images.shape[2], images.shape[3])
        crop = augmentation.crop_size
        self.window = self.size if crop is None else (crop, crop)
        if augmentation.crop_padding and augmentation.padding_mode != "reflect":
            raise UsageError("augmentation.crop_padding of images with masks needs padding_mode reflect")
        if crop is not None and crop > min(self.size) + 2 * augmentation.crop_padding:
            raise UsageError(f"augmentation.crop_size={crop}: got images of {self.size[0]}×{self.size[1]} pixels")
        self._kernels = [_gaussian(side, augmentation.elastic_smoothness) for side in self.window]

    def displacement(self, count: int, rng: np.random.Generator, part: slice) -> npt.NDArray[np.float32]:
        """Draw an elastic deformation for a batch; returns that of a part, N samples.

        (N, 2, S, S'): the rows and columns to add to the position that each pixel of the window is read from.
        """
        down, across = self._kernels
        noise = rng.standard_normal((count, 2, down.shape[1], across.shape[1]), dtype=np.float32)[part]
        # not by matmul: torch.set_num_threads does not limit its threads, which would compete with the training
        rows = np.einsum("pi,ncij->ncpj", down, noise)
        return np.float32(self.augmentation.elastic) * np.einsum("ncpj,qj->ncpq", rows, across)

    def batch(self, indices: Integers, rng: np.random.Generator, *, part: slice = slice(None)) -> tuple[Images, Masks]:
        """The images (n, C, S, S') and masks (n, S, S') of a batch as new arrays, see `TrainingImages.batch`.

        Draws are made for all `indices`, in the order of the lines below.
        """
        count, augmentation = len(indices), self.augmentation
        border = augmentation.crop_padding
        top, left = (  # of the window, in pixels of the image; negative in its mirrored border
            rng.integers(-border, size + border - side + 1, count)[part]
            for size, side in zip(self.size, self.window, strict=True)
        )
        turns = rng.integers(0, 4, count) if augmentation.rotate else np.zeros(count, np.int64)
        flipped = rng.random((count, 2)) < 0.5
        flipped &= [augmentation.flip_vertical, augmentation.flip]
        displacement = self.displacement(count, rng, part) if augmentation.elastic else None
        chosen = np.asarray(indices)[part]
        rows = top[:, None] + np.arange(self.window[0])
        columns = left[:, None] + np.arange(self.window[1])
        if displacement is None:
            rows, columns = mirrored(rows, self.size[0])[:, :, None], mirrored(columns, self.size[1])[:, None, :]
            index = chosen[:, None, None], rows, columns
            pixels, masks = self._pixels[index], self._masks[index]
        else:
            y, x = (displacement[:, axis] for axis in (0, 1))
            pixels, masks = self._deformed(chosen, rows[:, :, None] + y, columns[:, None, :] + x)
        for i, (turn, (over, across)) in enumerate(zip(turns[part], flipped[part], strict=True)):
            if turn or over or across:
                flips = slice(None, None, -1 if over else 1), slice(None, None, -1 if across else 1)
                for array in (pixels, masks):
                    array[i] = np.rot90(array[i], turn)[flips]
        batch = pixels.transpose(0, 3, 1, 2)
        return batch if self.channels_last else np.ascontiguousarray(batch), masks

    def _deformed(
        self, chosen: Integers, rows: npt.NDArray[np.floating], columns: npt.NDArray[np.floating]
    ) -> tuple[Images, Masks]:
        """The samples at fractional positions, (n, S, S') each."""
        image, (height, width) = chosen[:, None, None], self.size
        nearest = (np.rint(axis).astype(np.int64) for axis in (rows, columns))
        y, x = (mirrored(axis, size) for axis, size in zip(nearest, self.size, strict=True))
        masks = self._masks[image, y, x]
        low_row, low_column = (np.floor(axis).astype(np.int64) for axis in (rows, columns))
        down, right = ((axis - low).astype(np.float32) for axis, low in ((rows, low_row), (columns, low_column)))
        down, right = down[..., None], right[..., None]
        top, bottom = mirrored(low_row, height), mirrored(low_row + 1, height)
        left, other = mirrored(low_column, width), mirrored(low_column + 1, width)
        upper = self._pixels[image, top, left] * (1 - right) + self._pixels[image, top, other] * right
        lower = self._pixels[image, bottom, left] * (1 - right) + self._pixels[image, bottom, other] * right
        return np.rint(upper * (1 - down) + lower * down).astype(np.uint8), masks


def _gaussian(side: int, smoothness: float) -> npt.NDArray[np.float32]:
    """(side, points): a matrix that smooths white noise at `points` positions to `side` values of the same variance.

    G_ij ∝ exp(−(i − s·j)²/(2σ²)) with Σ_j G_ij² = 1, so that G·n·Gᵀ for standard normal n has variance 1 everywhere,
    at the border, too. The spacing s = σ/2 is fine enough: a finer one takes longer, with no visible difference.
    """
    points = np.arange(0, side + smoothness / 2, max(1.0, smoothness // 2))
    kernel = np.exp(-np.square((np.arange(side)[:, None] - points) / smoothness) / 2)
    return (kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32)
