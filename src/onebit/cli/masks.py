"""`onebit predict` with a segmentation net. Loads no torch."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from onebit.cli.output import percent, progress, say
from onebit.common.files import OWN, atomic_files, is_own
from onebit.common.pictures import STANDARD_INPUT, PictureReader, is_image_name
from onebit.data import (
    VOID,
    Masks,
    Tiling,
    confusion_matrix,
    known_labels,
    mask_classes,
    pixel_scores,
    read_mask,
)
from onebit.errors import DataError, UsageError, escaped
from onebit.evaluation.packed_nets import mask_shape
from onebit.packed import PackedNet
from onebit.runtime import run

MAX_VALUES = 1 << 22
"""Output values of tiles in memory at a time."""
MAX_WHOLE = 1 << 26
"""Numbers of the largest value of a net, for an image in one piece: 256 MiB of float32."""
MAX_BORDER = 64
"""Sizes to try for an image in one piece: a net of depth 6 takes one of these."""
GAP = 6
"""White pixels between two parts of a picture."""
COLORS = np.frombuffer(
    bytes.fromhex("000000 e69f00 56b4e9 009e73 f0e442 0072b2 d55e00 cc79a7 999999"), np.uint8
).reshape(-1, 3)
"""Colors of the classes of masks with more than two; they repeat after the last."""


def write_masks(net: PackedNet, files: Sequence[Path], args: Any) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Write the masks of images into `args.masks`; returns facts about each, and the images that do not decode.

    NAME.png is the mask: 0 and 255 for two classes, else class numbers. NAME-beside.png shows the image, the true mask
    if `../label/NAME.*` exists, and the predicted mask.
    """
    if not args.masks or STANDARD_INPUT in files:
        raise UsageError(f"{args.net} segments image files: add --masks DIR for their masks")
    folder = Path(args.masks)
    _refuse_to_replace(files, folder)
    mask_shape(net)  # refuses a net of another scale before anything is written
    reader = PictureReader(net.input.shape[0], None, invert=args.invert)
    predictions: list[dict[str, Any]] = []
    for file in files:
        if (read := reader.read(file)) is not None:
            folder.mkdir(parents=True, exist_ok=True)
            predictions.append(_predict(net, file, read.pixels, folder, invert=args.invert) | {"notes": read.notes})
    return predictions, reader.failures


def _refuse_to_replace(files: Sequence[Path], folder: Path) -> None:
    """Refuse to replace any file but an earlier mask or its picture."""
    kept = {os.path.realpath(path) for file in files for path in (file, *_true_masks(file))}
    for path in (folder / f"{file.stem}{end}.png" for file in files for end in ("", "-beside")):
        if os.path.realpath(path) in kept or (os.path.lexists(path) and not is_own(path)):
            raise UsageError(f"{path} would be replaced: name another folder with --masks, or rename the image")
        kept.add(os.path.realpath(path))


def mask_line(found: dict[str, Any]) -> str:
    """What was predicted, as text."""
    text = ", ".join(f"{name} {percent(share)}" for name, share in found["shares"].items())
    if "accuracy" in found:
        text += f"; {percent(found['accuracy'])} right, mean IoU {found['mean_iou']:.4f}, Dice {found['dice']:.4f}"
    return f"{escaped(found['file'])}: {text}; {escaped(found['mask'])}"


def predict_mask(net: PackedNet, image: np.ndarray) -> Masks:
    """The class of each pixel of an image of any size: (C, H, W) uint8 -> (H, W).

    With a single output channel, class 1 is where it is above 0. A net of any size sees the whole image, if a size that
    the net takes is not too large; others see tiles.
    """
    sized = whole(net, image.shape[1:])
    taken, made = sized.input.shape, mask_shape(sized)
    tiling = Tiling((image.shape[1], image.shape[2]), (taken[1], taken[2]), (made[1], made[2]))
    tiles = tiling.cut(image[np.newaxis])
    masks = np.empty((len(tiles), 1, *tiling.made), np.uint8)
    group = max(1, MAX_VALUES // math.prod(made))
    with progress("predicting", "tiles") as bar:
        for start in range(0, len(tiles), group):
            part = tiles[start : start + group]
            outputs = run(net, part)
            masks[start : start + group, 0] = outputs.argmax(axis=1) if made[0] > 1 else outputs[:, 0] > 0
            bar.update(start + len(part), len(tiles))
    return tiling.join(masks)[0, 0]


def whole(net: PackedNet, image: Sequence[int]) -> PackedNet:
    """The net of the least size, its own or larger, that makes a mask of a whole image (H, W); else the net itself."""
    if not net.free:
        return net
    _, *made = mask_shape(net)
    sides = list(net.input.shape[1:])
    for axis, size in enumerate(image):
        least = sides[axis] + max(0, size - made[axis])
        for side in range(least, least + MAX_BORDER):
            tried = [*sides[:axis], side, *sides[axis + 1 :]]
            with suppress(UsageError):
                if max(math.prod(value.shape) for value in net.at(tried).values.values()) > MAX_WHOLE:
                    return net
                sides = tried
                break
        else:
            return net
    return net.at(sides)


def _predict(net: PackedNet, file: Path, pixels: np.ndarray, folder: Path, *, invert: bool) -> dict[str, Any]:
    """Predict one image and write its mask and picture; returns the facts for the answer."""
    image = 255 - pixels if invert else pixels  # as the file shows it
    mask = predict_mask(net, pixels)
    count = max(2, net.values[net.only_output].shape[0])
    names = net.classes if net.classes and len(net.classes) == count else tuple(map(str, range(count)))
    mask_file, picture_file = f"{file.stem}.png", f"{file.stem}-beside.png"
    facts: dict[str, Any] = {"file": str(file), "mask": str(folder / mask_file), "picture": str(folder / picture_file)}
    facts["shares"] = {name: float(np.mean(mask == number)) for number, name in enumerate(names)}
    truth = _truth(net, file, mask.shape, count)
    if truth is not None and len(known_labels(truth)):
        scores = pixel_scores(confusion_matrix(truth, mask, classes=count))
        facts |= {name: scores[name] for name in ("accuracy", "mean_iou", "dice")}
    parts = [np.broadcast_to(image.transpose(1, 2, 0), (*mask.shape, 3))]
    for shown in (truth, mask) if truth is not None else (mask,):
        parts += [np.full((len(mask), GAP, 3), 255, np.uint8), _painted(shown, count)]
    with atomic_files(folder) as staging:  # both or neither
        _save(mask * np.uint8(255) if count == 2 else mask, staging / mask_file)
        _save(np.hstack(parts), staging / picture_file)
    return facts


def _true_masks(file: Path) -> list[Path]:
    """The true mask of an image in a folder of images and masks, if there is one."""
    folder = Path(os.path.realpath(file)).parent
    found = (folder.parent / "label").glob(f"{glob.escape(file.stem)}.*") if folder.name == "image" else []
    return sorted(path for path in found if is_image_name(path.name))


def _truth(net: PackedNet, file: Path, size: tuple[int, ...], count: int) -> Masks | None:
    """The true mask of an image; None, with a note, if it cannot be read or has other classes."""
    found = _true_masks(file)
    if not found:
        return None
    try:
        known, values = mask_classes(found[0].parents[1], net.classes if count == 2 else None)
        if len(known) != count or (net.classes is not None and known != tuple(net.classes)):
            raise DataError(f"its classes are {', '.join(known)}")
        return read_mask(found[0], size, values)
    except DataError as error:
        say(f"note: {file} is not compared with its true mask: {error}")
        return None


def _painted(mask: Masks, count: int) -> np.ndarray:
    """Classes as colors, or black and white for two: (H, W) -> (H, W, 3); `VOID` is white, or gray for two."""
    colors = np.array([(0, 0, 0), (255, 255, 255)], np.uint8) if count == 2 else COLORS
    painted = colors[mask % len(colors)]
    painted[mask == VOID] = 128 if count == 2 else 255
    return painted


def _save(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    text.add_text("Comment", OWN.decode())
    Image.fromarray(pixels).save(path, format="PNG", pnginfo=text)
