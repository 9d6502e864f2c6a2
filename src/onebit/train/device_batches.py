"""Training batches as tensors on the device of the net: made there, or made by numpy and copied; small ones first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from onebit.common.augmentation import Augmentation
from onebit.data import TrainingImages, TrainingSamples, prefetched
from onebit.data.batches import draw

Chosen = Sequence[tuple[npt.NDArray[np.int64], slice]]
"""For each batch, the indices of its samples for all processes, and the part that this process makes."""

SHARE_OF_FREE_MEMORY = 0.25
"""Share of the free memory of a device that images may use; the rest is for the net."""
GROWTH = 4
"""Images grow in steps of this number of pixels."""


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device."""
    if device.type == "cuda" and not tensor.is_cuda:  # a copy from pinned memory runs beside the computation
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class DeviceBatches:
    """The batches of `samples` on a device.

    A GPU keeps all images and labels in its memory if they fit, and changes the images itself, so that no optimizer
    step waits for a copy. Otherwise a thread prepares the next batches. On a CPU numpy makes them, which is faster
    there. Every way makes the same pixels from the same rng.

    Args:
        samples: of the training split.
        device: of the net.
        hold: whether to keep all images on the device; None means on a GPU if they fit.
    """

    def __init__(self, samples: TrainingSamples, device: torch.device, *, hold: bool | None = None) -> None:
        self._samples, self._device, self._pixels = samples, device, None
        pixels = None if samples.images is None else samples.images.pixels
        if pixels is not None and (_fits(pixels.nbytes, device) if hold is None else hold):
            self._pixels, self._labels = (torch.from_numpy(each).to(device) for each in (pixels, samples.labels))

    def batches(self, chosen: Chosen, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (N, C, H, W), uint8, and labels of each batch. Leave `rng` to the iterator until that ends."""
        images = self._samples.images
        if self._pixels is None or images is None:
            made = self._samples.batches(chosen, rng)
            for pixels, labels in made if self._device.type == "cpu" else prefetched(made):
                yield sent(torch.from_numpy(pixels), self._device), sent(torch.from_numpy(labels), self._device)
            return
        tables = []
        for indices, part in chosen:
            draws = draw(images.augmentation, len(indices), size=images.size, rng=rng, part=part)
            tables.append(np.column_stack([indices[part], *draws[1:]]))
        # the draws of all batches at once: a copy for each batch would take longer than the work
        on_device = torch.from_numpy(np.concatenate(tables)).to(self._device)
        for table in on_device.split([len(table) for table in tables]):
            yield self._changed(self._pixels, images, table), self._labels[table[:, 0]]

    def _changed(self, held: Tensor, images: TrainingImages, table: Tensor) -> Tensor:
        """The images of a batch, (N, C, H, W); `table` (N, 6) has the rows and the fields of `Draws` except `crops`."""
        augmentation, (height, width) = images.augmentation, images.size
        rows, top, left, mirrored, cut_row, cut_column = table.unsqueeze(2).unbind(1)
        y = torch.arange(height, device=self._device)
        x = torch.arange(width, device=self._device)
        # the position of each pixel in the image before padding; the window is mirrored after cropping
        from_y = y + top - augmentation.crop_padding
        from_x = torch.where(mirrored.bool(), width - 1 - x, x) + left - augmentation.crop_padding
        kept_y, kept_x = (from_y >= 0) & (from_y < height), (from_x >= 0) & (from_x < width)
        from_y, from_x = _reflected(from_y, height), _reflected(from_x, width)
        pixels = held[rows.unsqueeze(2), :, from_y.unsqueeze(2), from_x.unsqueeze(1)]  # (N, H, W, P, K)
        kept = kept_y.unsqueeze(2) & kept_x.unsqueeze(1) if augmentation.padding_mode == "zero" else None
        if augmentation.cutout:
            cut = _covered(y, cut_row, augmentation).unsqueeze(2) & _covered(x, cut_column, augmentation).unsqueeze(1)
            kept = ~cut if kept is None else kept & ~cut
        if kept is not None:
            pixels = pixels * kept[..., None, None]
        changed = pixels.flatten(3).permute(0, 3, 1, 2)
        return changed if images.channels_last else changed.contiguous()


def _reflected(position: Tensor, size: int) -> Tensor:
    """Positions outside 0 to size - 1, mirrored at the edge pixels; with zero padding any position inside is fine."""
    folded = size - 1 - (size - 1 - position.abs()).abs()
    return folded.clamp(0, size - 1)


def _covered(position: Tensor, center: Tensor, augmentation: Augmentation) -> Tensor:
    """(N, size): whether the square around each of the N centers, (N, 1), covers each position."""
    first = center - augmentation.cutout // 2
    return (position >= first) & (position < first + augmentation.cutout)


def _fits(size: int, device: torch.device) -> bool:
    """Whether images of this size in bytes fit into the memory of the device, which must be a GPU."""
    return device.type == "cuda" and size <= SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]


# -------------------------------------------------------------------------------------------------------------- growing
def side_at(augmentation: Augmentation, *, side: int, epoch: int, epochs: float) -> int:
    """The shorter side of the images of an epoch, counted from 1.

    It grows linearly over the share `growing` of the epochs, in steps of four pixels from `first_size` to `side`. The
    last epoch always has full size, as BatchNorm needs the statistics of such images.
    """
    first, share = augmentation.first_size, (epoch - 1) / (augmentation.growing * epochs)
    if first is None or share >= 1 or epoch >= epochs:
        return side
    return first + int(share * (side - first)) // GROWTH * GROWTH


def images_of_epoch(images: Tensor, augmentation: Augmentation, *, epoch: int, epochs: float) -> Tensor:
    """Images (N, C, H, W) whose shorter side is that of the epoch, see `side_at`; dtype and layout are kept.

    Bilinear and antialiased; images of this size are returned as they are.
    """
    height, width = images.shape[2:]
    shorter = min(height, width)
    side = side_at(augmentation, side=shorter, epoch=epoch, epochs=epochs)
    if side == shorter:
        return images
    size = (round(height * side / shorter), round(width * side / shorter))
    if images.dtype == torch.uint8 and images.device.type != "cpu":  # where torch resizes real numbers only
        return F.interpolate(images.float(), size, mode="bilinear", antialias=True).round_().to(torch.uint8)
    return F.interpolate(images, size, mode="bilinear", antialias=True)
