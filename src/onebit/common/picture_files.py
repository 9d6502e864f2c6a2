"""Image files of any user, named by words, and brought to the input of a net."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onebit.common.files import standard_input
from onebit.common.pictures import (
    ORIENTATION,
    SUFFIXES,
    fitted,
    is_deep,
    is_image_name,
    kinds_of_files,
    opened,
    picture,
    upright_size,
)
from onebit.common.progress import say
from onebit.errors import DataError, UsageError, escaped

STANDARD_INPUT = Path("-")
MOST_BYTES = 1 << 28
"""Largest image on standard input."""
MOST_NAMED = 10
"""Files that do not decode that are named one by one."""
MODES = {1: "L", 3: "RGB"}
"""Channels of a net -> mode of its images in Pillow."""
NOT_REGULAR = "not a regular file; - reads standard input: onebit predict NET - < FILE"
DIM = 64
"""Images of 16 bits whose values, in 8 bits, stay below this may hold only 12 or 14 bits."""
BLANK = "is blank: all pixels have one value"
NAMES = {"1": "black and white", "L": "gray", "LA": "gray", "P": "palette", "PA": "palette", "RGBA": "RGB"}
"""Mode of an image in Pillow -> its colors in words; others are named as they are."""


def image_files(words: Sequence[str]) -> list[Path]:
    """The image files that words of the command line name, in order.

    A folder gives the images in it and below it, by name, and a note on its other files; a quoted pattern such as
    `photos/*.png` gives the files that match; `-` is standard input. Hidden files of a folder are ignored.
    """
    return [path for word in words for path in _named_by(word)]


def _named_by(word: str) -> list[Path]:
    path = Path(word)
    if word == str(STANDARD_INPUT):
        return [STANDARD_INPUT]
    if path == STANDARD_INPUT:  # ./- is a file
        return [path.absolute()]
    if path.is_dir():
        found, links = _shown_files(path)
        images = [file for file in found if is_image_name(file.name)]
        if not images:
            raise UsageError(f"{word}: a folder without images; expected files that end in {', '.join(SUFFIXES)}")
        if kinds := kinds_of_files(file.name for file in found if not is_image_name(file.name)):
            say(f"{word}: left out what does not end as an image: {kinds}")
        _say_left_out(word, links, "a link to a folder")
        return images
    if path.exists() or glob.escape(word) == word:
        return [path]
    # brackets in the name of a folder that is there are no pattern
    place = next(parent for parent in path.parents if parent.is_dir() or parent == parent.parent)
    names = glob.glob(os.path.join(glob.escape(str(place)), path.relative_to(place)), recursive=True)
    images = sorted(_once(Path(name) for name in names if os.path.isfile(name)))
    if not images:
        raise UsageError(f"{word}: no file matches this pattern")
    if not any("**" in part for part in path.parts):  # which means the folders, too
        _say_left_out(word, sorted(name for name in names if not os.path.isfile(name)), "a folder")
    return images


def _say_left_out(word: str, names: Sequence[str], example: str) -> None:
    if names:
        more = f" and {len(names) - 1:,} more" if names[1:] else ""
        say(f"{word}: left out what is not a file, such as {example}: {escaped(names[0])}{more}")


def _once(files: Iterable[Path]) -> list[Path]:
    """Files without those that a link to a folder above them names again."""
    places: dict[tuple[str, str], Path] = {}
    for file in sorted(files, key=lambda file: len(file.parts)):
        places.setdefault((os.path.realpath(file.parent), file.name), file)
    return list(places.values())


def _shown_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The files in a folder and below it, by name, and what is not a file, such as links to folders; no hidden ones."""

    def refuse(error: OSError) -> None:
        raise error

    files: list[Path] = []
    others: list[str] = []
    for place, inner, names in os.walk(folder, onerror=refuse):
        inner[:] = [name for name in inner if not name.startswith(".")]
        others += (os.path.join(place, name) for name in inner if os.path.islink(os.path.join(place, name)))
        for file in (Path(place, name) for name in names if not name.startswith(".")):
            if file.is_file():  # a pipe would block forever
                files.append(file)
            else:
                others.append(str(file))
    return sorted(files), sorted(others)


def check_image_file(path: Path) -> None:
    """UsageError if a file is missing, or is a pipe, which would block."""
    if not path.is_file():
        raise UsageError(f"{str(path)!r}: {NOT_REGULAR if path.exists() else 'no such image file'}")


def as_array(pixels: Any) -> Any:
    """A gray or RGB picture as uint8 (C, H, W)."""
    array = np.asarray(pixels, dtype=np.uint8)
    return array.reshape(pixels.height, pixels.width, -1).transpose(2, 0, 1)


class ReadPicture(NamedTuple):
    """An image as a net takes it, uint8 (C, H, W), and what reading it changed or is odd about it, in words."""

    pixels: Any
    notes: list[str]


class PictureReader:
    """Reads image files as a net takes them; keeps what it changed, and which files do not decode.

    Args:
        channels: of the net: 1 or 3.
        size: height and width to bring images to, as the images of a folder are for training; None leaves their size.
        invert: whether to invert the images; what is transparent is black all the same.
        in_tiles: (height, width) of an image -> how it is cut into tiles, in words; None for one that is not.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int] | None,
        *,
        invert: bool = False,
        in_tiles: Callable[[tuple[int, int]], str | None] | None = None,
    ) -> None:
        if channels not in MODES:
            raise UsageError(f"the net takes {channels} channels; predict reads images with 1 or 3")
        self.mode, self.size, self.invert, self.in_tiles = MODES[channels], size, invert, in_tiles
        self.changes: dict[str, list[str]] = {}
        """Kind of change -> the change in words for each file, its path first."""
        self.failed: dict[str, str] = {}
        """File that does not decode -> why."""

    def read(self, path: Path) -> ReadPicture | None:
        """The image of a file; None if it does not decode."""
        stream = None
        if path == STANDARD_INPUT:
            data = standard_input().read(MOST_BYTES + 1)
            if not 0 < len(data) <= MOST_BYTES:
                raise DataError(f"standard input: got {len(data):,} bytes, expected an image of 1 to {MOST_BYTES:,}")
            stream = io.BytesIO(data)
        else:
            check_image_file(path)
        name = "standard input" if stream else str(path)
        try:
            with opened(name, stream) as image:
                changes = self._changes(image)
                paper = 255 if self.invert else 0
                if self.size is None:
                    array = as_array(picture(image, self.mode, paper=paper))
                else:
                    array = as_array(fitted(image, self.size, self.mode, paper=paper))
                if (array == array[:, :1, :1]).all():
                    changes["blank"] = BLANK
                elif "bits" in changes and array.max() < DIM:
                    changes["dim"] = (  # a line of its own: other images of 16 bits are not alike
                        f"{changes.pop('bits')}, of which the brightest pixel has {array.max()} of 255: if the file "
                        "holds 12 or 14 bits, stretch it first"
                    )
                with suppress(Exception):  # of the frames behind the first, which are not read
                    if image.is_animated:
                        changes["frames"] = "only the first of its frames"
        except DataError as error:
            self.failed[str(path)] = str(error)
            return None
        for kind, words in changes.items():
            self.changes.setdefault(kind, []).append(f"{escaped(name)}: {words}")
        return ReadPicture(255 - array if self.invert else array, list(changes.values()))

    def _changes(self, image: Any) -> dict[str, str]:
        """What reading an opened image changes: kind -> words."""
        made = {"bits": "16 bits reduced to 8"} if is_deep(image) else {}  # reading the EXIF data loads a PNG
        if 2 <= image.getexif().get(ORIENTATION, 1) <= 8:
            made["turned"] = "turned as its EXIF orientation says"
        deep = image.mode.startswith("I")  # with numbers of unknown range it is refused
        if image.has_transparency_data and (deep or image.convert("RGBA").getchannel("A").getextrema()[0] < 255):
            made["transparency"] = f"transparent pixels blended with {'white' if self.invert else 'black'}"
        colors = "gray" if deep else NAMES.get(image.mode, image.mode)
        if self.mode == "L" and colors not in ("gray", "black and white"):
            made[f"{colors} to gray"] = f"{colors} made gray"
        elif self.mode == "RGB" and colors not in ("RGB", "palette"):
            made[f"{colors} to RGB"] = f"{colors} made RGB"
        if self.size is not None:
            made |= _resizing(upright_size(image), (self.size[1], self.size[0]))
        if self.in_tiles is not None and (words := self.in_tiles(upright_size(image)[::-1])):
            made["tiles"] = words
        return made

    @property
    def failures(self) -> list[dict[str, str]]:
        """The files that do not decode, for an answer in JSON."""
        return [{"file": file, "error": error} for file, error in self.failed.items()]

    def tell(self) -> None:
        """Say what was changed, a line for each kind, and name the files that do not decode."""
        for lines in self.changes.values():
            say(lines[0] + and_others(len(lines) - 1))
        for error in list(self.failed.values())[:MOST_NAMED]:
            say(f"onebit: {error}")
        if len(self.failed) > MOST_NAMED:
            say(f"onebit: {len(self.failed) - MOST_NAMED:,} more do not decode; --json names all")


def and_others(count: int) -> str:
    """The end of a line about the first of several images."""
    return f", and {count:,} other image{'s' * (count > 1)} alike" if count else ""


def _resizing(size: tuple[int, int], wanted: tuple[int, int]) -> dict[str, str]:
    """How an image is brought to another (width, height): kind -> words."""
    if size == wanted:
        return {}
    (width, height), target = size, "×".join(map(str, wanted))
    scale = min(width / wanted[0], height / wanted[1])
    part = round(wanted[0] * scale), round(wanted[1] * scale)
    kind = "enlarged" if scale < 1 else "resized"
    if part != size:
        return {f"cropped, {kind}": f"the center {part[0]}×{part[1]} of {width}×{height} pixels {kind} to {target}"}
    return {kind: f"{kind} from {width}×{height} to {target}"}
