"""Image files as `onebit predict` takes them. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from onebit.errors import UsageError
from onebit.packed import PackedNet
from onebit.pictures import opened, picture


def as_array(pixels: Any) -> Any:
    """A grey or RGB picture as uint8 (C, H, W)."""
    array = np.asarray(pixels, dtype=np.uint8)
    return array.reshape(pixels.height, pixels.width, -1).transpose(2, 0, 1)


def read_picture(path: Path, net: PackedNet) -> Any:
    """An image file in the colours that the net takes.

    Raises:
        UsageError: not there, or a net whose channels no image has. DataError: not an image.
    """
    channels = net.input.shape[0]
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise UsageError(f"the net takes {channels} channels; predict reads images with 1 or 3")
    if not path.is_file():  # a pipe would wait for ever
        raise UsageError(f"{str(path)!r}: no such image file")
    with opened(str(path)) as image:
        return picture(image, modes[channels])
