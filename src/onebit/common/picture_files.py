"""Image files of any user, named by words and read as they are."""

from __future__ import annotations

import glob
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onebit.common.pictures import SUFFIXES, opened, picture
from onebit.errors import DataError, UsageError

STANDARD_INPUT = Path("-")
MOST_BYTES = 1 << 28
"""Largest image on standard input."""


def image_files(words: Sequence[str]) -> list[Path]:
    """The image files that words of the command line name, in order.

    A folder gives the images in it and below it, by name; a quoted pattern such as `photos/*.png` gives the
    files that match; `-` is standard input.

    Raises:
        UsageError: a folder without images, or a pattern that nothing matches.
    """
    return [path for word in words for path in _named_by(word)]


def _named_by(word: str) -> list[Path]:
    path = Path(word)
    if path.is_dir():
        found = [Path(place, name) for place, _, names in os.walk(path) for name in names]
        images = sorted(file for file in found if file.suffix.lower() in SUFFIXES and file.is_file())
        if not images:
            raise UsageError(f"{word}: a folder without images; expected files that end in {', '.join(SUFFIXES)}")
        return images
    if path == STANDARD_INPUT or path.exists() or glob.escape(word) == word:
        return [path]
    images = sorted(Path(name) for name in glob.glob(word, recursive=True) if os.path.isfile(name))
    if not images:
        raise UsageError(f"{word}: no file matches this pattern")
    return images


def as_array(pixels: Any) -> Any:
    """A gray or RGB picture as uint8 (C, H, W)."""
    array = np.asarray(pixels, dtype=np.uint8)
    return array.reshape(pixels.height, pixels.width, -1).transpose(2, 0, 1)


def read_picture(path: Path, channels: int) -> Any:
    """An image file in gray or RGB.

    Raises:
        UsageError: not there, or neither 1 nor 3 channels. DataError: not an image, or too large on standard input.
    """
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise UsageError(f"the net takes {channels} channels; predict reads images with 1 or 3")
    if path == STANDARD_INPUT:
        data = sys.stdin.buffer.read(MOST_BYTES + 1)
        if not 0 < len(data) <= MOST_BYTES:
            raise DataError(f"standard input: got {len(data):,} bytes, expected an image of 1 to {MOST_BYTES:,}")
        with opened("standard input", io.BytesIO(data)) as image:
            return picture(image, modes[channels])
    if not path.is_file():  # a pipe would block forever
        raise UsageError(f"{str(path)!r}: no such image file")
    with opened(str(path)) as image:
        return picture(image, modes[channels])
