"""Images that are small in the first epochs and grow to their size: the same accuracy in less time."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.data import Augmentation
from onebit.errors import UsageError, first_line
from onebit.evaluation.misfits import OF_TORCH

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


def check_growing(augmentation: Augmentation, model: nn.Module, example: Tensor) -> None:
    """Refuse a first size for images of that size or smaller, and for a net that takes one size only.

    Args:
        example: two images, (2, C, H, W), of the full size.
    """
    first, side = augmentation.first_size, min(example.shape[2:])
    if first is None:
        return
    if first >= side:
        raise UsageError(
            f"augmentation.first_size={first}: expected less than the {side} pixels of the shorter side of the images"
        )
    images = shrunk(example, first)
    tried = copy.deepcopy(model).train()  # BatchNorm learns from the blank images
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            tried(images)
    except OF_TORCH as error:
        raise UsageError(
            f"augmentation.first_size={first}: the model takes no images of {' × '.join(map(str, images.shape[2:]))} "
            f"pixels in training ({first_line(error)}): leave it out, or use a net with a pool over the whole image, "
            "such as a ResNet"
        ) from None
