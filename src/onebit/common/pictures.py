"""Image files, read with Pillow, which is imported with the first one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, BinaryIO

import numpy as np

from onebit.common.files import open_regular
from onebit.errors import DataError, first_line

SUFFIXES = (
    *(".apng", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif"),
    *(".tiff", ".webp"),
)
"""Suffixes of image files, in lower case: all that Pillow has for `FORMATS`, but for .pfm, pixels of unknown range."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""Formats that are read, as Pillow names them; it gives some others to programs of the machine, EPS to Ghostscript."""
ORIENTATION = 0x0112
"""The EXIF tag of how to turn an image; values of 5 and more mean by a quarter."""
_WIDTH, _HEIGHT = 256, 257
"""Tags of TIFF."""


def is_image_name(name: str) -> bool:
    """Whether a file name ends as an image."""
    return name.lower().endswith(SUFFIXES)


@contextmanager
def opened(path: str, stream: BinaryIO | None = None) -> Iterator[Any]:
    """The image file, opened by Pillow; every error in the block becomes a DataError that names the file.

    Args:
        stream: read in place of the file.
    """
    from PIL import Image

    try:
        file: Any = open_regular(path) if stream is None else nullcontext(stream)
        with file as content, Image.open(content, formats=FORMATS) as image:
            yield image
    except Exception as error:  # a damaged file makes the decoders of Pillow raise almost anything
        raise DataError(f"{path}: does not decode as an image: {first_line(error)}") from None


def upright_size(image: Any) -> tuple[int, int]:
    """Width and height of an opened image after the rotation by its EXIF orientation."""
    # versions of Pillow differ in whether the size of a TIFF is that after the rotation
    width, height = (image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]) if image.format == "TIFF" else image.size
    return (height, width) if _is_quarter_turned(image) else (width, height)


def _is_quarter_turned(image: Any) -> bool:
    """Whether the EXIF orientation of an opened image swaps its width and height."""
    return image.getexif().get(ORIENTATION, 1) in range(5, 9)


def picture(image: Any, mode: str, *, paper: int = 0) -> Any:
    """An opened image as viewers show it: EXIF orientation applied, transparency over black, 16 bits reduced to 8.

    Args:
        mode: "L" for grayscale, "RGB" for color.
        paper: gray value behind transparent pixels.

    Raises:
        ValueError: pixels without a known range.
    """
    from PIL import Image, ImageOps

    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError(f"its pixels are {image.mode!r}, numbers of unknown range; save it with 8 bits")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which Pillow's own conversion would clip to 255
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (paper, paper, paper, 255)), image)
    return image.convert(mode)


def fitted(
    image: Any, size: tuple[int, int], mode: str, *, paper: int = 0, box: Callable[[int, int], Any] | None = None
) -> Any:
    """An opened image as `picture`, resized to `size` with an antialiased filter: what every net is trained on.

    Args:
        size: height and width.
        mode, paper: see `picture`.
        box: (width, height) -> left, top, right, bottom of the part to resize; the largest centered part with the
            aspect ratio of `size` when None.
    """
    from PIL import Image, ImageOps

    height, width = size
    whole = upright_size(image)
    left, top, right, bottom = (0.0, 0.0, *whole) if box is None else box(*whole)
    # a large JPEG is decoded at a half, quarter or eighth, so that the part keeps twice its pixels in each direction
    least = math.ceil(2 * width * whole[0] / (right - left)), math.ceil(2 * height * whole[1] / (bottom - top))
    image.draft(image.mode, least[::-1] if _is_quarter_turned(image) else least)  # the size before the rotation
    image = picture(image, mode, paper=paper)
    if box is None:
        return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    across, down = image.width / whole[0], image.height / whole[1]
    part = left * across, top * down, min(right * across, image.width), min(bottom * down, image.height)
    return image.resize((width, height), Image.Resampling.BILINEAR, part)
