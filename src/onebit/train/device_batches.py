"""Training batches as tensors on the device of the net: made there, or made by numpy and copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from onebit.data import TrainingImages, TrainingSamples, prefetched
from onebit.data.augment import Augmentation, draw

Chosen = Sequence[tuple[npt.NDArray[np.int64], slice]]
"""For each batch the indices of its samples over all processes, and which of them this process makes."""
SHARE_OF_FREE_MEMORY = 0.25
"""Share of the free GPU memory that the images may take; the rest is for the net."""


class DeviceBatches:
    """The batches of `samples`, on a device.

    A GPU holds all images and labels if they fit, and augments them there: a step then waits for no copy. Otherwise a
    thread prepares the next batches. On a CPU numpy makes them, which is faster there. All three ways make the same
    pixels from the same rng.

    Args:
        hold: whether the device holds all images; None decides by whether they fit on a GPU.
    """

    def __init__(self, samples: TrainingSamples, device: torch.device, *, hold: bool | None = None) -> None:
        self._samples, self._device = samples, device
        images = samples.images
        self._held: HeldImages | None = None
        pixels = None if images is None else images.pixels
        if hold is None:
            hold = pixels is not None and _fits(pixels.nbytes, device)
        if images is not None and pixels is not None and hold:
            self._held = HeldImages(images, device)
            self._labels = torch.from_numpy(samples.labels).to(device)

    def batches(self, chosen: Chosen, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """uint8 images (N, C, H, W) and labels of each of `chosen`; nothing else may use `rng` until the end."""
        if self._held is not None:
            for rows, images in self._held.batches(chosen, rng):
                yield images, self._labels[rows]
            return
        batches = self._samples.batches(chosen, rng)
        for pixels, labels in batches if self._device.type == "cpu" else prefetched(batches):
            yield self._copied(pixels), self._copied(labels)

    def _copied(self, array: npt.NDArray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":  # from pinned memory a copy does not wait for the work before it
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)


class HeldImages:
    """All images of a training set on a device, where batches are chosen, cropped, mirrored and cut."""

    def __init__(self, images: TrainingImages, device: torch.device) -> None:
        assert images.pixels is not None
        self._images, self._device = images, device
        self._pixels = torch.from_numpy(images.pixels).to(device)

    def batches(self, chosen: Chosen, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows (N,) and images (N, C, H, W) of each of `chosen`, as `TrainingImages.batch` makes them.

        The random draws of all batches are copied at once: a copy per batch would take longer than the work itself.
        """
        augmentation, size = self._images.augmentation, self._images.size
        drawn = []
        for indices, part in chosen:
            draws = draw(augmentation, len(indices), size=size, rng=rng).of(part)
            drawn.append(np.column_stack([indices[part], *draws[1:]]))
        table = torch.from_numpy(np.concatenate(drawn)).to(self._device)
        for part in table.split([len(rows) for rows in drawn]):
            yield part[:, 0], self._augmented(part)

    def _augmented(self, table: Tensor) -> Tensor:
        """(N, C, H, W) of a batch; `table`, (N, 6): rows, then top, left, mirrored, cut_row, cut_column of `Draws`."""
        augmentation, (height, width) = self._images.augmentation, self._images.size
        rows, top, left, mirrored, cut_row, cut_column = table.unsqueeze(2).unbind(1)
        y = torch.arange(height, device=self._device)
        x = torch.arange(width, device=self._device)
        # the place of each pixel in the image without padding; the window is mirrored after it is cut out
        from_y = y + top - augmentation.crop_padding
        from_x = torch.where(mirrored.bool(), width - 1 - x, x) + left - augmentation.crop_padding
        kept_y, kept_x = (from_y >= 0) & (from_y < height), (from_x >= 0) & (from_x < width)
        from_y, from_x = _reflected(from_y, height), _reflected(from_x, width)
        pixels = self._pixels[rows.unsqueeze(2), :, from_y.unsqueeze(2), from_x.unsqueeze(1)]  # (N, H, W, P, K)
        kept = _inside(kept_y, kept_x) if augmentation.padding_mode == "zero" else None
        if augmentation.cutout:
            cut = _inside(_covered(y, cut_row, augmentation), _covered(x, cut_column, augmentation))
            kept = ~cut if kept is None else kept & ~cut
        if kept is not None:
            pixels = pixels * kept[..., None, None]
        images = pixels.flatten(3).permute(0, 3, 1, 2)
        return images if self._images.channels_last else images.contiguous()


def _reflected(position: Tensor, size: int) -> Tensor:
    """Positions outside 0 to size - 1, mirrored at the edge pixels; zero padding only needs them inside."""
    folded = size - 1 - (size - 1 - position.abs()).abs()
    return folded.clamp(0, size - 1)


def _covered(position: Tensor, center: Tensor, augmentation: Augmentation) -> Tensor:
    """(N, size): the positions that the cutout square around each of the N centers, (N, 1), covers."""
    first = center - augmentation.cutout // 2
    return (position >= first) & (position < first + augmentation.cutout)


def _inside(rows: Tensor, columns: Tensor) -> Tensor:
    """(N, H, W) of (N, H) and (N, W)."""
    return rows.unsqueeze(2) & columns.unsqueeze(1)


def _fits(size: int, device: torch.device) -> bool:
    """Whether the device is a GPU with room for `size` bytes of images."""
    return device.type == "cuda" and size <= SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]
