"""Image files of the command line, read with Pillow, which is imported on first use."""

from __future__ import annotations

import glob
import io
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from onebit.common.files import open_regular
from onebit.common.progress import say
from onebit.errors import DataError, UsageError, first_line

SUFFIXES = (
    *(".apng", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif"),
    *(".tiff", ".webp"),
)
"""Suffixes of image files in lower case: those of Pillow for `FORMATS` but .pfm, whose pixels have no known range."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""Formats that Pillow may read; it passes some others to external programs, such as EPS to Ghostscript."""
ORIENTATION = 0x0112
"""The EXIF tag of how to turn an image; values of 5 and more mean by a quarter."""
_WIDTH, _HEIGHT = 256, 257
"""Tags of TIFF."""
STANDARD_INPUT = Path("-")
MAX_BYTES = 1 << 28
"""Largest image on standard input."""
MODES = {1: "L", 3: "RGB"}
"""Channels of a net -> mode of its images in Pillow."""


def is_image_name(name: str) -> bool:
    """Whether a file name ends as an image."""
    return name.lower().endswith(SUFFIXES)


@contextmanager
def opened(path: str, stream: BinaryIO | None = None) -> Iterator[Any]:
    """Open an image file with Pillow; every error in the block becomes a DataError that names the file.

    Args:
        stream: read in place of the file.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        file: Any = open_regular(path) if stream is None else nullcontext(stream)
        with file as content, Image.open(content, formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError:  # its text names the stream
        raise DataError(f"{path}: is no image, or of an unknown format") from None
    except Exception as error:  # a damaged file makes the decoders of Pillow raise almost anything
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"{path}: cannot be read as an image: {reason}") from None


def upright_size(image: Any) -> tuple[int, int]:
    """Width and height of an opened image after the rotation by its EXIF orientation."""
    # versions of Pillow differ in whether the size of a TIFF is that after the rotation
    width, height = (image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]) if image.format == "TIFF" else image.size
    return (height, width) if _is_quarter_turned(image) else (width, height)


def _is_quarter_turned(image: Any) -> bool:
    """Whether the EXIF orientation of an opened image swaps its width and height."""
    return image.getexif().get(ORIENTATION, 1) in range(5, 9)


def picture(image: Any, mode: str, *, paper: int = 0) -> Any:
    """An opened image with its EXIF orientation applied, transparency over `paper`, 16 bits reduced to 8.

    Args:
        mode: "L" for grayscale, "RGB" for color.
        paper: gray value behind transparent pixels.

    Raises:
        ValueError: pixels without a known range.
    """
    from PIL import Image, ImageOps

    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError(f"got {image.mode!r} pixels of unknown range, expected 8 bits")
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
    """An opened image as `picture`, resized to `size` with an antialiased filter, as for training.

    Args:
        size: height and width.
        mode, paper: see `picture`.
        box: (width, height) -> left, top, right, bottom of the part to resize; None for the largest centered part with
            the aspect ratio of `size`.
    """
    from PIL import Image, ImageOps

    height, width = size
    whole = upright_size(image)
    left, top, right, bottom = (0.0, 0.0, *whole) if box is None else box(*whole)
    # a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, at least twice the size of the result
    least = math.ceil(2 * width * whole[0] / (right - left)), math.ceil(2 * height * whole[1] / (bottom - top))
    image.draft(image.mode, least[::-1] if _is_quarter_turned(image) else least)  # the size before the rotation
    image = picture(image, mode, paper=paper)
    if box is None:
        return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    across, down = image.width / whole[0], image.height / whole[1]
    part = left * across, top * down, min(right * across, image.width), min(bottom * down, image.height)
    return image.resize((width, height), Image.Resampling.BILINEAR, part)


def image_files(words: Sequence[str]) -> list[Path]:
    """The image files that arguments of the command line name, in order.

    A folder gives the images in it and below it, by name; a quoted pattern such as `photos/*.png` gives the files that
    match; `-` is standard input. Hidden files of a folder are ignored.
    """
    return [path for word in words for path in _named_by(word)]


def _named_by(word: str) -> list[Path]:
    path = Path(word)
    if path == STANDARD_INPUT:
        return [path]
    if path.is_dir():
        images = sorted(Path(file) for file in visible_files(path) if is_image_name(file) and os.path.isfile(file))
    elif path.exists() or glob.escape(word) == word:
        images = [path]
    else:
        images = sorted(Path(name) for name in glob.glob(word, recursive=True) if os.path.isfile(name))
    if not images:
        raise UsageError(f"{word}: no images there")
    return images


def visible_files(folder: Path) -> Iterator[str]:
    """The files in a folder, then those below it, by name, without hidden ones; links to folders are not followed."""
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(names) if not name.startswith("."))


def _raise(error: OSError) -> None:
    raise error


class ReadPicture(NamedTuple):
    """The input of a net, uint8 (C, H, W), and notes on how the image was cropped and resized."""

    pixels: Any
    notes: list[str]


class PictureReader:
    """Read image files as inputs of a net; files that do not decode are listed in `failures`.

    Args:
        channels: of the net: 1 or 3.
        size: height and width to resize images to; None keeps their size.
        invert: whether to invert the images; transparent pixels are black in any case.
    """

    def __init__(self, channels: int, size: tuple[int, int] | None, *, invert: bool = False) -> None:
        self.mode, self.size, self.invert = MODES[channels], size, invert
        self.failures: list[dict[str, str]] = []

    def read(self, path: Path) -> ReadPicture | None:
        """The image of a file; None, after a message, if it does not decode."""
        stream, name = None, str(path)
        if path == STANDARD_INPUT:
            stream, name = io.BytesIO(sys.stdin.buffer.read(MAX_BYTES)), "standard input"
        paper, notes = 255 if self.invert else 0, []
        try:
            with opened(name, stream) as image:
                width, height = upright_size(image)
                if self.size is None:
                    shown = picture(image, self.mode, paper=paper)
                else:
                    shown = fitted(image, self.size, self.mode, paper=paper)
                    if (height, width) != self.size:
                        notes = [f"the center of {width}×{height} pixels resized to {shown.width}×{shown.height}"]
        except DataError as error:
            say(f"onebit: {error}")
            self.failures.append({"file": str(path), "error": str(error)})
            return None
        pixels = np.asarray(shown).reshape(shown.height, shown.width, -1).transpose(2, 0, 1)
        return ReadPicture(255 - pixels if self.invert else pixels, notes)
