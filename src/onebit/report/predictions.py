"""Pictures of classified images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onebit.common.files import AnyPath
from onebit.errors import UsageError
from onebit.report.drawing import GREY, INK, WRONG, picture
from onebit.report.wording import printable

COLUMNS = 10
ANSWERS = 3 * COLUMNS // 2
"""Number of correct predictions, and of wrong ones, in three rows."""


def plot_predictions(
    images: np.ndarray,
    path: AnyPath,
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
        images: uint8 (N, C, H, W), C 1 or 3.
        path: ends in .png.
        labels, predicted: (N,) class numbers.
        probabilities: (N,) of the predicted classes, 0–1.
        classes: names by class number.
        weights: the test mode of the predictions.
        data: name of the data set, for the title.

    Raises:
        UsageError: images that are not uint8, or `path` is not a .png.
        OnebitError: the file cannot be written.

    Example:
        >>> plot_predictions(images, "digits.png", labels=labels, predicted=logits.argmax(axis=1),
        ...                  probabilities=softmax(logits).max(axis=1), classes=data.classes)  # doctest: +SKIP
    """
    title, columns = _title(labels, predicted, weights, data), min(COLUMNS, max(len(images), 4))
    _draw(path, (images, labels, predicted, probabilities), classes, range(len(images)), columns=columns, title=title)


def plot_answers(
    images: np.ndarray,
    path: AnyPath,
    *,
    labels: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    weights: str = "packed",
    data: str = "",
) -> None:
    """Draw correct predictions on the left and wrong ones on the right, chosen from all images of a test.

    The correct ones are the first images, the wrong ones those with the highest probability. Arguments as in
    `plot_predictions`, for any number of images.

    Raises:
        UsageError, OnebitError: see `plot_predictions`.

    Example:
        >>> plot_answers(data.test.images, "answers.png", labels=data.test.labels, predicted=logits.argmax(axis=1),
        ...              probabilities=softmax(logits).max(axis=1), classes=data.classes)  # doctest: +SKIP
    """
    is_wrong = np.asarray(labels) != np.asarray(predicted)
    right, wrong = np.flatnonzero(~is_wrong)[:ANSWERS], np.flatnonzero(is_wrong)
    wrong = wrong[np.argsort(-np.asarray(probabilities)[wrong], kind="stable")][:ANSWERS]
    title = _title(labels, predicted, weights, data)
    title += f"\nleft: the first {len(right)} right answers; right: the {len(wrong)} most certain wrong ones"
    grid = np.arange(2 * ANSWERS).reshape(-1, 2, COLUMNS // 2)
    cells = [*grid[:, 0].flat[: len(right)], *grid[:, 1].flat[: len(wrong)]]
    chosen = [np.asarray(array)[[*right, *wrong]] for array in (images, labels, predicted, probabilities)]
    _draw(path, chosen, classes, cells, columns=COLUMNS, title=title)


def _title(labels: Any, predicted: Any, weights: str, data: str) -> str:
    """`30 images of mnist test: 29 right, 1 wrong (packed weights)`."""
    count, wrong = len(labels), int(np.count_nonzero(np.asarray(labels) != np.asarray(predicted)))
    images = ("1 image" if count == 1 else f"{count:,} images") + (f" of {data}" if data else "")
    return f"{images}: {count - wrong:,} right, {wrong:,} wrong ({weights} weights)"


def _draw(
    path: AnyPath, answers: Sequence[np.ndarray], classes: Sequence[str], cells: Sequence[int], columns: int, title: str
) -> None:
    """Draw images in the cells of a grid, numbered row by row; answers: images, labels, predicted, probabilities."""
    if answers[0].dtype != np.uint8:  # real pixels would be drawn black
        raise UsageError(f"images: expected uint8, got {answers[0].dtype}")
    rows, names = max(cells) // columns + 1, [printable(name, limit=12) for name in classes]
    between, lines = ("\n", 3) if max(map(len, names)) > 2 else (", ", 2)
    height = (1.02 + 0.15 * lines) * rows + 0.25 + 0.2 * len(title.splitlines())
    with picture(path, width=max(1.0 * columns, 5.5), height=height, title=title) as figure:
        from matplotlib.patches import Rectangle

        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for cell, image, label, guess, probability in zip(cells, *answers, strict=True):
            axes, pixels, wrong = panels.flat[cell], image.transpose(1, 2, 0), guess != label
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)  # the map is for a single channel
            name = f"{names[guess]}{between}not {names[label]}" if wrong else names[guess]
            style: Any = {"color": WRONG, "fontweight": "bold"} if wrong else {"color": INK, "fontweight": "normal"}
            axes.set_title(f"{name}\n{100 * probability:.1f} %", fontsize=8, loc="center", pad=3, **style)
            frame: Any = {"edgecolor": WRONG, "linewidth": 2.5} if wrong else {"edgecolor": GREY, "linewidth": 0.6}
            height, width = pixels.shape[:2]
            axes.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, clip_on=False, **frame))
