"""Resizing of images and random crops, with Pillow's bilinear filter, which is antialiased."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from onebit.errors import UsageError

Images = npt.NDArray[np.uint8]


def resize_images(images: Images, size: int) -> Images:
    """Resize the largest centered square of all images (N, C, H, W) to `size`×`size` pixels, as a photo for `predict`.

    Each channel is resized by itself; images of that size stay.
    """
    count, channels, height, width = images.shape
    if (height, width) == (size, size):
        return images
    from PIL import Image, ImageOps

    resized = np.empty((count, channels, size, size), np.uint8)
    planes = np.ascontiguousarray(images).reshape(-1, height, width)
    for plane, out in zip(planes, resized.reshape(-1, size, size), strict=True):
        out[...] = np.asarray(ImageOps.fit(Image.fromarray(plane), (size, size), Image.Resampling.BILINEAR))
    return resized


def crop_box(width: int, height: int, draw: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
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


def resized_crops(pixels: Images, crops: npt.NDArray[np.float64]) -> Images:
    """Crop a random part (see `crop_box`) of each image (N, H, W, C) and resize it to the size of the image."""
    from PIL import Image

    _, height, width, channels = pixels.shape
    if channels not in (1, 3):
        raise UsageError(f"min_area supports images with 1 or 3 channels, got {channels}")
    result = np.empty_like(pixels)
    for image, draw, out in zip(pixels, crops, result, strict=True):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        box = crop_box(width, height, draw)
        out[...] = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box)).reshape(out.shape)
    return result
