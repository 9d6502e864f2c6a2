"""Pictures of classified images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from onebit.errors import UsageError
from onebit.report.drawing import GREY, INK, WRONG, add_title, picture
from onebit.report.wording import printable

COLUMNS = 10
ANSWERS = 3 * COLUMNS // 2
"""Number of correct predictions, and of wrong ones, in three rows."""


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
        images: uint8 (N, C, H, W), C 1 or 3.
        path: ends in .png.
        labels: (N,) true class numbers.
        predicted: (N,) predicted class numbers.
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
    answers = _Answers(images, labels, predicted, probabilities, classes)
    columns = min(COLUMNS, max(len(images), 4))
    every = range(len(images))
    answers.draw(path, every, cells=every, columns=columns, title=answers.title(data, weights))


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
    """Draw correct predictions on the left and wrong ones on the right, chosen from all images of a test.

    The correct ones are the first images, the wrong ones those with the highest probability.

    Args:
        images: uint8 (N, C, H, W), C 1 or 3, any N ≥ 1.
        Remaining arguments: see `plot_predictions`.

    Raises:
        UsageError, OnebitError: see `plot_predictions`.

    Example:
        >>> plot_answers(data.test.images, "answers.png", labels=data.test.labels, predicted=logits.argmax(axis=1),
        ...              probabilities=softmax(logits).max(axis=1), classes=data.classes)  # doctest: +SKIP
    """
    answers = _Answers(images, labels, predicted, probabilities, classes)
    right, wrong = np.flatnonzero(~answers.wrong)[:ANSWERS], np.flatnonzero(answers.wrong)
    wrong = wrong[np.argsort(-answers.probabilities[wrong], kind="stable")][:ANSWERS]
    title = answers.title(data, weights)
    title += f"\nleft: the first {len(right)} right answers; right: the {len(wrong)} most certain wrong ones"
    grid = np.arange(2 * ANSWERS).reshape(-1, 2, COLUMNS // 2)
    cells = [*grid[:, 0].flat[: len(right)], *grid[:, 1].flat[: len(wrong)]]
    answers.draw(path, np.concatenate([right, wrong]), cells=cells, columns=COLUMNS, title=title)


class _Answers:
    """Images and what was predicted for them; see `plot_predictions`."""

    def __init__(self, images: np.ndarray, labels: Any, predicted: Any, probabilities: Any, classes: Sequence[str]):
        if images.dtype != np.uint8:  # real pixels would be drawn black
            raise UsageError(f"got images {images.dtype}, expected uint8")
        self.images, self.classes, self.labels, self.predicted = images, classes, labels, predicted
        self.probabilities = np.asarray(probabilities)
        self.wrong = np.asarray(labels) != np.asarray(predicted)

    def title(self, data: str, weights: str) -> str:
        """`30 images of mnist test: 29 right, 1 wrong (packed weights)`."""
        count, wrong = len(self.wrong), int(np.count_nonzero(self.wrong))
        images = ("1 image" if count == 1 else f"{count:,} images") + (f" of {data}" if data else "")
        return f"{images}: {count - wrong:,} right, {wrong:,} wrong ({weights} weights)"

    def draw(
        self, path: str | os.PathLike[str], chosen: Iterable[int], *, cells: Sequence[int], columns: int, title: str
    ) -> None:
        """Draw each chosen image in its cell of a grid of `columns`, numbered row by row."""
        rows = max(cells) // columns + 1
        names = [printable(name, limit=12) for name in self.classes]
        between, lines = ("\n", 3) if max(map(len, names)) > 2 else (", ", 2)
        height = (1.02 + 0.15 * lines) * rows + 0.25 + 0.2 * len(title.splitlines())
        with picture(path, width=max(1.0 * columns, 5.5), height=height) as figure:
            from matplotlib.patches import Rectangle

            add_title(figure, title)
            panels = figure.subplots(rows, columns, squeeze=False)
            for axes in panels.flat:
                axes.set_axis_off()
            for cell, index in zip(cells, chosen, strict=True):
                axes, pixels = panels.flat[cell], self.images[index].transpose(1, 2, 0)
                axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)  # the map is for a single channel
                name, truth, wrong = names[self.predicted[index]], names[self.labels[index]], self.wrong[index]
                text = (f"{name}{between}not {truth}" if wrong else name) + f"\n{100 * self.probabilities[index]:.1f} %"
                weight = "bold" if wrong else "normal"
                axes.set_title(text, fontsize=8, loc="center", pad=3, color=WRONG if wrong else INK, fontweight=weight)
                height, width = pixels.shape[:2]
                frame = Rectangle((-0.5, -0.5), width, height, fill=False, clip_on=False)
                frame.set(edgecolor=WRONG if wrong else GREY, linewidth=2.5 if wrong else 0.6)
                axes.add_patch(frame)
