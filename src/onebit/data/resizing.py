"""Resizing of images and random crops, with Pillow's antialiased bilinear filter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


def resize_images(images: Images, size: int) -> Images:
    """Resize the largest centered square of all images (N, C, H, W) to `size`×`size` pixels, as `predict` does."""
    height, width = images.shape[2:]
    if (height, width) == (size, size):
        return images
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return _resized(images, [(left, top, left + side, top + side)] * len(images), (size, size))


def resized_crops(images: Images, crops: Reals) -> Images:
    """Crop a random part (see `crop_box`) of each image (N, C, H, W) and resize it to the size of the image."""
    height, width = images.shape[2:]
    return _resized(images, [crop_box(width, height, draw) for draw in crops], (height, width))


def _resized(images: Images, boxes: Sequence[tuple[float, float, float, float]], size: tuple[int, int]) -> Images:
    """Resize a part (left, top, right, bottom) of each image to `size`."""
    from PIL import Image

    resized = np.empty((*images.shape[:2], *size), np.uint8)
    for image, box, out in zip(images, boxes, resized, strict=True):
        # three channels are one picture, which is faster
        planes, views = (
            (image.transpose(1, 2, 0)[None], out.transpose(1, 2, 0)[None]) if len(image) == 3 else (image, out)
        )
        for plane, view in zip(planes, views, strict=True):
            view[...] = Image.fromarray(np.ascontiguousarray(plane)).resize(size[::-1], Image.Resampling.BILINEAR, box)
    return resized


def crop_box(width: int, height: int, draw: Reals) -> tuple[float, float, float, float]:
    """The part of an image that a random resized crop takes.

    Args:
        width, height: of the image.
        draw: share of the area, log(width / height) of the crop, and its position: top and left in [0, 1].

    Returns:
        left, top, right, bottom in pixels; a crop that would be longer than the image is shortened.

    Source: Szegedy et al. 2015 (arXiv:1409.4842), section 6.
    """
    share, log_ratio, top, left = draw
    crop_width = min(math.sqrt(share * width * height * math.exp(log_ratio)), width)
    crop_height = min(math.sqrt(share * width * height / math.exp(log_ratio)), height)
    x, y = left * (width - crop_width), top * (height - crop_height)
    return x, y, min(x + crop_width, width), min(y + crop_height, height)
