"""A picture of classified images."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onebit.errors import UsageError
from onebit.report.drawing import GREY, INK, WRONG, picture
from onebit.report.wording import printable

if TYPE_CHECKING:
    from matplotlib.patches import Rectangle

MOST_IMAGES = 200
COLUMNS = 10


def plot_predictions(
    images: np.ndarray,
    path: str | os.PathLike[str],
    *,
    labels: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    weights: str = "packed",
    data: str = "",
) -> None:
    """Draw images in a grid, each with the predicted class and its probability; wrong ones in red, with the true class.

    Args:
        images: uint8 (N, C, H, W), C 1 or 3, N at most 200.
        path: ends in .png.
        labels: (N,) true class numbers.
        predicted: (N,) predicted class numbers.
        probabilities: (N,) of the predicted classes, 0–1.
        classes: names by class number.
        weights: the test mode that predicted.
        data: name of the data set, for the title.

    Raises:
        UsageError: arrays that do not fit together, `path` is not a .png, or matplotlib is not installed.
        OnebitError: the file cannot be written.

    Example:
        >>> plot_predictions(images, "digits.png", labels=labels, predicted=logits.argmax(axis=1),
        ...                  probabilities=softmax(logits).max(axis=1), classes=data.classes)  # doctest: +SKIP
    """
    images = np.asarray(images)
    labels, predicted, probabilities = np.asarray(labels), np.asarray(predicted), np.asarray(probabilities)
    _check(images, labels, predicted, probabilities, classes)
    count = len(images)
    columns = min(COLUMNS, max(count, 4))
    rows = math.ceil(count / columns)
    right = int(np.count_nonzero(labels == predicted))
    kind = "image" if count == 1 else "images"
    names = [printable(name, limit=12) for name in classes]
    between, lines = ("\n", 3) if max(map(len, names)) > 2 else (", ", 2)
    title = f"{count} {kind}{f' of {data}' if data else ''}: {right} right, {count - right} wrong ({weights} weights)"
    with picture(path, width=max(1.0 * columns, 5.5), height=(1.02 + 0.15 * lines) * rows + 0.45) as figure:
        figure.suptitle(printable(title), fontsize=11, x=0.01, ha="left")
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for index in range(count):
            axes = panels.flat[index]
            pixels = images[index].transpose(1, 2, 0)
            if pixels.shape[2] == 1:
                axes.imshow(pixels[:, :, 0], cmap="gray", vmin=0, vmax=255)
            else:
                axes.imshow(pixels)
            wrong = labels[index] != predicted[index]
            name, truth = names[predicted[index]], names[labels[index]]
            text = (f"{name}{between}not {truth}" if wrong else name) + f"\n{100 * probabilities[index]:.1f} %"
            style: dict[str, Any] = {"color": WRONG, "fontweight": "bold"} if wrong else {"color": INK}
            axes.set_title(text, fontsize=8, loc="center", pad=3, **style)
            axes.add_patch(_frame(pixels.shape[1], pixels.shape[0], wrong=bool(wrong)))


def _frame(width: int, height: int, *, wrong: bool) -> Rectangle:
    from matplotlib.patches import Rectangle

    edge: dict[str, Any] = {"edgecolor": WRONG, "linewidth": 2.5} if wrong else {"edgecolor": GREY, "linewidth": 0.6}
    return Rectangle((-0.5, -0.5), width, height, fill=False, clip_on=False, **edge)


def _check(
    images: np.ndarray, labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> None:
    """Raises UsageError for arrays that do not fit together."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UsageError(f"got images {images.dtype} {images.shape}, expected uint8 (N, C, H, W) with C 1 or 3")
    if not 1 <= len(images) <= MOST_IMAGES:
        raise UsageError(f"got {len(images)} images, expected 1 to {MOST_IMAGES}: choose some of them")
    for name, array in {"labels": labels, "predicted": predicted, "probabilities": probabilities}.items():
        if array.shape != (len(images),):
            raise UsageError(f"got {name} of shape {array.shape}, expected ({len(images)},), one for each image")
    for name, array in {"labels": labels, "predicted": predicted}.items():
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= len(classes):
            raise UsageError(f"{name} must be class numbers from 0 to {len(classes) - 1}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise UsageError("probabilities must lie between 0 and 1")
