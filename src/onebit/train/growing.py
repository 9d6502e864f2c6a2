"""Images that are small in the first epochs and grow to their size: the same accuracy in less time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onebit.data import Augmentation

STEP = 4
"""Images grow in steps of this number of pixels."""


def side_at(augmentation: Augmentation, *, side: int, epoch: int, epochs: float) -> int:
    """The shorter side of the images of an epoch, counted from 1.

    It grows linearly over the share `growing` of the epochs, in steps of four pixels from `first_size` to `side`. The
    last epoch always has full size, as BatchNorm needs the statistics of such images.
    """
    first, share = augmentation.first_size, (epoch - 1) / (augmentation.growing * epochs)
    if first is None or share >= 1 or epoch >= epochs:
        return side
    return first + int(share * (side - first)) // STEP * STEP


def images_of_epoch(images: Tensor, augmentation: Augmentation, *, epoch: int, epochs: float) -> Tensor:
    """The images (N, C, H, W) in the size of an epoch; see `side_at`."""
    return shrunk(images, side_at(augmentation, side=min(images.shape[2:]), epoch=epoch, epochs=epochs))


def shrunk(images: Tensor, side: int) -> Tensor:
    """Images (N, C, H, W) whose shorter side has `side` pixels, bilinear and antialiased, dtype and layout kept.

    Images of this size are returned as they are.
    """
    height, width = images.shape[2:]
    shorter = min(height, width)
    if side == shorter:
        return images
    size = (round(height * side / shorter), round(width * side / shorter))
    if images.dtype == torch.uint8 and images.device.type != "cpu":  # where torch resizes real numbers only
        return F.interpolate(images.float(), size, mode="bilinear", antialias=True).round_().to(torch.uint8)
    return F.interpolate(images, size, mode="bilinear", antialias=True)
