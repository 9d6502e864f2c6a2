"""A picture of classified images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onebit.errors import UsageError
from onebit.report.drawing import GREY, INK, WRONG, picture
from onebit.report.wording import printable

if TYPE_CHECKING:
    from matplotlib.patches import Rectangle

MOST_IMAGES = 200
COLUMNS = 10
ANSWERS = 3 * COLUMNS // 2
"""Right answers beside as many wrong ones, in three rows."""


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
    images, found = _checked(images, labels, predicted, probabilities, classes, most=MOST_IMAGES)
    title = _counted(found, data, weights)
    columns = min(COLUMNS, max(len(images), 4))
    _draw(images, path, found, cells=range(len(images)), columns=columns, title=title)


def plot_answers(
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
    """Draw right answers on the left beside wrong ones on the right, chosen from the images of a whole test.

    The right ones are the first of the images, the wrong ones those with the highest probability: what the net was
    most certain of.

    Args:
        images: uint8 (N, C, H, W), C 1 or 3, any N ≥ 1.
        Remaining arguments: see `plot_predictions`.

    Raises:
        UsageError, OnebitError: as `plot_predictions`.

    Example:
        >>> plot_answers(data.test.images, "answers.png", labels=data.test.labels, predicted=logits.argmax(axis=1),
        ...              probabilities=softmax(logits).max(axis=1), classes=data.classes)  # doctest: +SKIP
    """
    images, found = _checked(images, labels, predicted, probabilities, classes)
    right = np.flatnonzero(~found.wrong)[:ANSWERS]
    wrong = np.flatnonzero(found.wrong)
    wrong = wrong[np.argsort(-found.probabilities[wrong], kind="stable")][:ANSWERS]
    title = _counted(found, data, weights)
    title += f"\nleft: the first {len(right)} right answers; right: the {len(wrong)} most certain wrong ones"
    half = COLUMNS // 2
    cells = [COLUMNS * (index // half) + index % half for index in range(len(right))]
    cells += [COLUMNS * (index // half) + half + index % half for index in range(len(wrong))]
    chosen = np.concatenate([right, wrong])
    _draw(images[chosen], path, found.of(chosen), cells=cells, columns=COLUMNS, title=title)


@dataclass(frozen=True)
class _Answers:
    """What was answered: class numbers (N,), probabilities (N,) of those predicted, names of the classes."""

    labels: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    classes: Sequence[str]

    @property
    def wrong(self) -> np.ndarray:
        return self.labels != self.predicted

    def of(self, chosen: np.ndarray) -> _Answers:
        return _Answers(self.labels[chosen], self.predicted[chosen], self.probabilities[chosen], self.classes)


def _counted(found: _Answers, data: str, weights: str) -> str:
    """`30 images of mnist test: 29 right, 1 wrong (packed weights)`."""
    count, wrong = len(found.wrong), int(np.count_nonzero(found.wrong))
    images = ("1 image" if count == 1 else f"{count:,} images") + (f" of {data}" if data else "")
    return f"{images}: {count - wrong:,} right, {wrong:,} wrong ({weights} weights)"


def _draw(
    images: np.ndarray,
    path: str | os.PathLike[str],
    found: _Answers,
    *,
    cells: Sequence[int],
    columns: int,
    title: str,
) -> None:
    """Each image in its cell of a grid of `columns`, numbered row by row."""
    rows = max(cells) // columns + 1
    names = [printable(name, limit=12) for name in found.classes]
    between, lines = ("\n", 3) if max(map(len, names)) > 2 else (", ", 2)
    height = (1.02 + 0.15 * lines) * rows + 0.25 + 0.2 * len(title.splitlines())
    with picture(path, width=max(1.0 * columns, 5.5), height=height) as figure:
        figure.suptitle("\n".join(map(printable, title.splitlines())), fontsize=11, x=0.01, ha="left")
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for index, cell in enumerate(cells):
            axes = panels.flat[cell]
            pixels = images[index].transpose(1, 2, 0)
            if pixels.shape[2] == 1:
                axes.imshow(pixels[:, :, 0], cmap="gray", vmin=0, vmax=255)
            else:
                axes.imshow(pixels)
            wrong = found.wrong[index]
            name, truth = names[found.predicted[index]], names[found.labels[index]]
            text = (f"{name}{between}not {truth}" if wrong else name) + f"\n{100 * found.probabilities[index]:.1f} %"
            style: dict[str, Any] = {"color": WRONG, "fontweight": "bold"} if wrong else {"color": INK}
            axes.set_title(text, fontsize=8, loc="center", pad=3, **style)
            axes.add_patch(_frame(pixels.shape[1], pixels.shape[0], wrong=bool(wrong)))


def _frame(width: int, height: int, *, wrong: bool) -> Rectangle:
    from matplotlib.patches import Rectangle

    edge: dict[str, Any] = {"edgecolor": WRONG, "linewidth": 2.5} if wrong else {"edgecolor": GREY, "linewidth": 0.6}
    return Rectangle((-0.5, -0.5), width, height, fill=False, clip_on=False, **edge)


def _checked(
    images: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    *,
    most: int | None = None,
) -> tuple[np.ndarray, _Answers]:
    """The arguments as arrays; raises UsageError for those that do not fit together."""
    images = np.asarray(images)
    labels, predicted, probabilities = np.asarray(labels), np.asarray(predicted), np.asarray(probabilities)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UsageError(f"got images {images.dtype} {images.shape}, expected uint8 (N, C, H, W) with C 1 or 3")
    if not 1 <= len(images) <= (most or len(images)):
        expected = "at least 1" if most is None else f"1 to {most}: choose some of them"
        raise UsageError(f"got {len(images)} images, expected {expected}")
    for name, array in {"labels": labels, "predicted": predicted, "probabilities": probabilities}.items():
        if array.shape != (len(images),):
            raise UsageError(f"got {name} of shape {array.shape}, expected ({len(images)},), one for each image")
    for name, array in {"labels": labels, "predicted": predicted}.items():
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= len(classes):
            raise UsageError(f"{name} must be class numbers from 0 to {len(classes) - 1}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise UsageError("probabilities must lie between 0 and 1")
    return images, _Answers(labels, predicted, probabilities, classes)
