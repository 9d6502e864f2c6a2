"""Image files of any user, named by words, and brought to the input of a net."""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onebit.common.pictures import fitted, is_image_name, opened, picture, upright_size
from onebit.common.progress import say
from onebit.errors import DataError, UsageError

STANDARD_INPUT = Path("-")
MOST_BYTES = 1 << 28
"""Largest image on standard input."""
MODES = {1: "L", 3: "RGB"}
"""Channels of a net -> mode of its images in Pillow."""


def image_files(words: Sequence[str]) -> list[Path]:
    """The image files that words of the command line name, in order.

    A folder gives the images in it and below it, by name; a quoted pattern such as `photos/*.png` gives the files that
    match; `-` is standard input. Hidden files of a folder are ignored.
    """
    return [path for word in words for path in _named_by(word)]


def _named_by(word: str) -> list[Path]:
    path = Path(word)
    if word == str(STANDARD_INPUT):
        return [STANDARD_INPUT]
    if path == STANDARD_INPUT:  # ./- is a file
        return [path.absolute()]
    if path.is_dir():
        images = sorted(_shown_images(path))
    elif path.exists() or glob.escape(word) == word:
        images = [path]
    else:
        images = sorted(Path(name) for name in glob.glob(word, recursive=True) if os.path.isfile(name))
    if not images:
        raise UsageError(f"{word}: no images there")
    return images


def _shown_images(folder: Path) -> Iterator[Path]:
    """The images in a folder and below it that are not hidden; links to folders are not followed."""
    for place, inner, names in os.walk(folder, onerror=_refuse):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            if is_image_name(name) and not name.startswith(".") and os.path.isfile(os.path.join(place, name)):
                yield Path(place, name)


def _refuse(error: OSError) -> None:
    raise error


class ReadPicture(NamedTuple):
    """An image as a net takes it, uint8 (C, H, W), and how it was cropped and resized, in words."""

    pixels: Any
    notes: list[str]


class PictureReader:
    """Reads image files as a net takes them; keeps which files do not decode, in `failures`.

    Args:
        channels: of the net: 1 or 3.
        size: height and width to bring images to, as the images of a folder are for training; None leaves their size.
        invert: whether to invert the images; what is transparent is black all the same.
    """

    def __init__(self, channels: int, size: tuple[int, int] | None, *, invert: bool = False) -> None:
        if channels not in MODES:
            raise UsageError(f"the net takes {channels} channels; predict reads images with 1 or 3")
        self.mode, self.size, self.invert = MODES[channels], size, invert
        self.failures: list[dict[str, str]] = []

    def read(self, path: Path) -> ReadPicture | None:
        """The image of a file; None if it does not decode, which is said."""
        stream, name = None, str(path)
        if path == STANDARD_INPUT:
            data, name = sys.stdin.buffer.read(MOST_BYTES + 1), "standard input"
            if len(data) > MOST_BYTES:
                raise DataError(f"standard input: expected an image of at most {MOST_BYTES:,} bytes")
            stream = io.BytesIO(data)
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
