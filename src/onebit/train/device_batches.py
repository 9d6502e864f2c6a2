"""Training batches as tensors where the net is trained: made there, or made by numpy and sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from onebit.data import TrainingImages, TrainingSamples, prefetched
from onebit.data.augment import Augmentation, draw

Chosen = Sequence[tuple[npt.NDArray[np.int64], slice]]
"""Of each batch the indices of its samples, over all processes, and which of them are made here."""

SHARE_OF_FREE_MEMORY = 0.25
"""Of a device that images may take; the rest is for the net."""


class DeviceBatches:
    """The batches of `samples`, on a device.

    A GPU holds all images and labels where they fit, and changes them there: a step then waits for no copy. Otherwise
    batches are made in a thread while those before them are used. On a CPU they are numpy's own, which are faster
    there. All ways make the same pixels from the same rng.

    Args:
        samples: of the training split.
        device: of the net.
        hold: whether all images lie on the device; None where they fit on a GPU.
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
        """Images (N, C, H, W), uint8, and labels of each of `chosen`. `rng` belongs to this iterator until it ends."""
        if self._held is not None:
            for rows, images in self._held.batches(chosen, rng):
                yield images, self._labels[rows]
            return
        made = self._samples.batches(chosen, rng)
        if self._device.type != "cpu":
            made = prefetched(made)
        for pixels, labels in made:
            yield self._sent(pixels), self._sent(labels)

    def _sent(self, array: npt.NDArray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":  # from pinned memory a copy does not wait for the work before it
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)


class HeldImages:
    """All images of a training set on a device, where batches are chosen, cropped, mirrored and cut.

    Args:
        images: held in memory.
        device: where to.
    """

    def __init__(self, images: TrainingImages, device: torch.device) -> None:
        assert images.pixels is not None
        self._images, self._device = images, device
        self._pixels = torch.from_numpy(images.pixels).to(device)

    def batches(self, chosen: Chosen, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows (N,) and images (N, C, H, W) of each of `chosen`, as `TrainingImages.batch` makes them.

        What chance says about all batches is sent in one piece: a transfer for each would cost more than the work.
        """
        augmentation, size = self._images.augmentation, self._images.size
        drawn = []
        for indices, part in chosen:
            draws = draw(augmentation, len(indices), size=size, rng=rng).of(part)
            drawn.append(np.column_stack([indices[part], *draws[1:]]))
        table = torch.from_numpy(np.concatenate(drawn)).to(self._device)
        for of_batch in table.split([len(rows) for rows in drawn]):
            yield of_batch[:, 0], self._changed(of_batch)

    def _changed(self, table: Tensor) -> Tensor:
        """(N, C, H, W) of a batch; `table`, (N, 6): rows, then top, left, mirrored, cut_row, cut_column of `Draws`."""
        augmentation, (height, width) = self._images.augmentation, self._images.size
        rows, top, left, mirrored, cut_row, cut_column = table.unsqueeze(2).unbind(1)
        y = torch.arange(height, device=self._device)
        x = torch.arange(width, device=self._device)
        # where each pixel lies in the image before that was padded; the window is mirrored after it is cut out
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
    """Positions outside 0 to size - 1, mirrored at the edge pixels; of zero padding any will do that is inside."""
    folded = size - 1 - (size - 1 - position.abs()).abs()
    return folded.clamp(0, size - 1)


def _covered(position: Tensor, centre: Tensor, augmentation: Augmentation) -> Tensor:
    """(N, size): which of the positions the square around each of the N centres, (N, 1), covers."""
    first = centre - augmentation.cutout // 2
    return (position >= first) & (position < first + augmentation.cutout)


def _inside(rows: Tensor, columns: Tensor) -> Tensor:
    """(N, H, W) of (N, H) and (N, W)."""
    return rows.unsqueeze(2) & columns.unsqueeze(1)


def _fits(size: int, device: torch.device) -> bool:
    """Whether a GPU has room for so many bytes of images."""
    return device.type == "cuda" and size <= SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]
