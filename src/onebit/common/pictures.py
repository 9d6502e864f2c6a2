"""Image files, read with Pillow, which is imported with the first one."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
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
_DEEP = re.compile(";16[BLN]")
"""A layout of pixels in a file with 16 bits a channel, in an order of bytes; `BGR;16` has 16 for all three."""
ORIENTATION = 0x0112
"""The EXIF tag of how to turn an image; values of 5 and more mean by a quarter."""
_WIDTH, _HEIGHT, _PHOTOMETRIC = 256, 257, 262
"""Tags of TIFF; a photometric interpretation of 0 means that the least value is white."""


def is_image_name(name: str) -> bool:
    """Whether a file name ends as an image."""
    return name.lower().endswith(SUFFIXES)


def kinds_of_files(names: Iterable[str]) -> str:
    """How many files there are of each suffix: "2 .txt, 1 without a suffix"; "" for none."""
    counts = Counter(os.path.splitext(name)[1].lower() for name in names)
    return ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in sorted(counts.items()))


def is_deep(image: Any) -> bool:
    """Whether an opened image has 16 bits a channel; Pillow itself reduces those of colors when it loads the pixels."""
    layouts = [tile[3] for tile in getattr(image, "tile", ())]
    if image.mode.startswith("I;16") or _is_deep_pgm(image) or any(_DEEP.search(str(layout)) for layout in layouts):
        return True
    # a PPM's is its mode and its largest value
    return image.format == "PPM" and any(isinstance(layout, tuple) and layout[1] > 255 for layout in layouts)


def _is_deep_pgm(image: Any) -> bool:
    """Whether an image is of a PGM with more than 8 bits, whose values Pillow brings to 0 to 65,535."""
    return image.format == "PPM" and image.mode == "I"


@contextmanager
def opened(path: str, stream: BinaryIO | None = None) -> Iterator[Any]:
    """The image file, opened by Pillow; every error in the block becomes a DataError that names the file.

    Args:
        stream: read in place of the file.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images and odd EXIF data; an unreadable file is an error
            file: Any = open_regular(path) if stream is None else nullcontext(stream)
            with file as content, Image.open(content, formats=FORMATS) as image:
                if is_deep(image) and isinstance(image.info.get("transparency"), tuple):
                    # Pillow compares it with pixels that it has reduced to 8 bits
                    raise ValueError("one of its colors of 16 bits is transparent; save it with 8 bits")
                _scale_transparency(image)
                yield image
    except UnidentifiedImageError:
        raise DataError(f"{path}: is not an image of a known kind ({', '.join(FORMATS)})") from None
    except MemoryError:
        raise DataError(f"{path}: needs more memory than there is") from None
    except PermissionError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except Exception as error:  # a damaged file makes the decoders of Pillow raise almost anything
        raise DataError(f"{path}: does not decode as an image: {first_line(error)}") from None


def white_of_few_bits(image: Any) -> int:
    """The largest gray in the file of an opened image with fewer than 8 bits a pixel; 0 for other images."""
    return {"1": 1, "L;2": 3, "L;4": 15}.get(str(image.tile[0][3]), 0) if image.tile else 0


def _scale_transparency(image: Any) -> None:
    """Bring the transparent gray of a PNG with fewer than 8 bits to the 8 bits of its pixels."""
    clear = image.info.get("transparency")
    if image.format == "PNG" and isinstance(clear, int):
        white = white_of_few_bits(image)
        if 0 < clear <= white:  # else 0, or scaled by this version of Pillow
            image.info["transparency"] = clear * 255 // white


def upright_size(image: Any) -> tuple[int, int]:
    """Width and height of an opened image after the rotation by its EXIF orientation."""
    # versions of Pillow differ in whether the size of a TIFF is that after the rotation
    width, height = (image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]) if image.format == "TIFF" else image.size
    return (height, width) if _is_quarter_turned(image) else (width, height)


def _is_quarter_turned(image: Any) -> bool:
    """Whether the EXIF orientation of an opened image swaps its width and height."""
    return image.getexif().get(ORIENTATION, 1) in range(5, 9)


def upright(image: Any) -> Any:
    """An opened image rotated by its EXIF orientation, as every viewer shows it; pixel values stay the same."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def picture(image: Any, mode: str, *, paper: int = 0) -> Any:
    """An opened image as viewers show it: EXIF orientation applied, transparency over black, 16 bits reduced to 8.

    Args:
        mode: "L" for grayscale, "RGB" for color.
        paper: gray value behind transparent pixels.

    Raises:
        ValueError: pixels without a known range.
    """
    from PIL import Image

    if _is_deep_pgm(image):
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0
    image = upright(image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip
        deep, clear = np.asarray(image), image.info.get("transparency")
        if white_is_zero:  # which Pillow regards with 8 bits only
            deep = 65535 - deep
        image = Image.fromarray((deep // 257).astype(np.uint8))
        if isinstance(clear, int):
            image.putalpha(Image.fromarray(np.where(deep == clear, 0, 255).astype(np.uint8)))
    if image.mode in ("F", "I"):
        raise ValueError(f"its pixels are {image.mode!r}, numbers of unknown range; save it with 8 bits")
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
