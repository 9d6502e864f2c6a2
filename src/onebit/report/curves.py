"""Error, loss and time per epoch: several runs in one picture, several seeds as mean and band."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from onebit.errors import DataError
from onebit.report.drawing import GREY, choose_scale, colour, label_epochs, picture
from onebit.report.wording import printable, time_unit
from onebit.train.history import EpochLog, History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAINING = "training (mean over the epoch)"
TRAINING_LINE: dict[str, Any] = {"linestyle": (0, (4, 2)), "alpha": 0.65}
BEST_DOT: dict[str, Any] = {"marker": "o", "markersize": 7, "fillstyle": "none", "linestyle": "none"}
LETTERS_BESIDE = 97
"""Of the longest name and the longest line style together, so that both have room beside each other."""
MARKED_EPOCHS = 20
"""Curves of at most so many epochs get a dot per epoch."""


@dataclass(frozen=True)
class Curve:
    """What becomes one colour: the histories of the seeds of one recipe.

    smoothing: (label smoothing, number of classes) of its cross entropy, where the labels are smoothed.
    """

    label: str
    histories: tuple[History, ...]
    smoothing: tuple[float, int] | None = None

    @property
    def modes(self) -> list[str]:
        """Test modes of the validation."""
        return sorted({row.validation_weights for history in self.histories for row in history})

    @property
    def validated(self) -> bool:
        return any(row.validation_error is not None for history in self.histories for row in history)

    @property
    def masked(self) -> bool:
        """Whether masks were validated."""
        return any(row.validation_mean_iou is not None for history in self.histories for row in history)

    @property
    def named(self) -> str:
        seeds = f", {len(self.histories)} seeds" if len(self.histories) > 1 else ""
        return printable(self.label) + seeds

    @property
    def named_with_mode(self) -> str:
        return self.named + (f", {' and '.join(self.modes)} weights" if self.validated else "")


Points = Sequence[tuple[int, float | None]]
"""(epoch, value) of one training; None where there is no value."""


def per_epoch(trainings: Iterable[Points]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(epochs, mean, sd) over the trainings that reached an epoch; sd is 0 where only one did.

    Epochs without a value are left out; a value that is not finite makes a gap.
    """
    found: dict[int, list[float]] = {}
    for points in trainings:
        for epoch, value in points:
            if value is not None:
                found.setdefault(epoch, []).append(value if math.isfinite(value) else math.nan)
    epochs = sorted(found)
    mean = [np.mean(found[epoch]) for epoch in epochs]
    sd = [np.std(found[epoch], ddof=1) if len(found[epoch]) > 1 else 0.0 for epoch in epochs]
    return np.array(epochs, np.int64), np.array(mean, np.float64), np.array(sd, np.float64)


def least_cross_entropy(label_smoothing: float, classes: int) -> float:
    """The least cross entropy with smoothed labels, in nats: the entropy −Σ t ln t of the targets.

    The target t of the true class is 1 − s + s/K, that of each other class s/K (Szegedy et al. 2016, arXiv:1512.00567,
    section 7): a net that predicts just these has this loss, and none has less.

    Args:
        label_smoothing: s, in [0, 1).
        classes: K.

    Example:
        >>> round(least_cross_entropy(0.1, 10), 4)
        0.5003
    """
    other = label_smoothing / classes
    targets = [1 - label_smoothing + other, *[other] * (classes - 1)]
    return -sum(target * math.log(target) for target in targets if target > 0)


def plot_history(history: History, path: str | os.PathLike[str], *, data: str = "") -> None:
    """Draw error, loss and time per epoch of one training into one PNG, of masks the mean IoU as well.

    Args:
        history: what `fit` returned.
        path: ends in .png.
        data: name of the data set, for the title.

    Raises:
        DataError: a history without an epoch.
        UsageError: `path` is not a .png, or matplotlib is not installed.
        OnebitError: the file cannot be written.

    Example:
        >>> plot_history(history, "curves.png", data="mnist")  # doctest: +SKIP
    """
    if not history.rows:
        raise DataError("the history has no epoch to draw: train at least one epoch first")
    curves = [Curve("", (history,))]
    masked = curves[0].masked
    with picture(path, width=14.5 if masked else 11, height=3.2) as figure:
        figure.suptitle(title("error and loss", curves, data=data), fontsize=11, x=0.01, ha="left")
        error, loss, time, *more = figure.subplots(1, 4 if masked else 3)
        draw_error(error, curves)
        draw_loss(loss, curves)
        draw_seconds(time, curves)
        for axes in more:
            draw_mean_iou(axes, curves)
        add_legend(figure, curves)


def title(what: str, curves: Sequence[Curve], *, data: str, training: bool = True) -> str:
    """`mnist: training and validation error, validation with binary weights`; one recipe stands on a line above."""
    validated = [curve for curve in curves if curve.validated]
    modes = " and ".join(sorted({mode for curve in validated for mode in curve.modes}))
    text = f"training {what}"
    if not training:
        text = f"validation {what} with {modes} weights"
    elif validated:
        text = f"training and validation {what}, validation with {modes} weights"
    if len(curves) == 1 and curves[0].label:
        about = curves[0].named + (f" on {printable(data)}" if data else "")
        return f"{about}\n{text}"
    return f"{printable(data)}: {text}" if data else text


def draw_error(axes: Axes, curves: Sequence[Curve]) -> None:
    """Training and validation error in percent, the best epoch of a single training marked."""
    _draw_both(axes, curves, "train_error", "validation_error", scale=100, label="error (%)")


def draw_mean_iou(axes: Axes, curves: Sequence[Curve]) -> None:
    """Mean IoU of the validation masks, the best epoch of a single training marked."""
    for index, curve in enumerate(curves):
        _line(axes, _points(curve, "validation_mean_iou"), color=colour(index, len(curves)))
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 1))
    axes.set_ylabel("validation mean IoU")
    _label_epochs(axes, curves)
    best = _best_row(curves)
    if best is not None and best.validation_mean_iou is not None:
        axes.plot(best.epoch, best.validation_mean_iou, color=colour(0, 1), **BEST_DOT)


def draw_loss(axes: Axes, curves: Sequence[Curve], *, name: str = "") -> None:
    """Training and validation loss, the best epoch of a single training marked, and what no loss can fall below.

    `name` is that of the loss function, "" when unknown or not the same for all.
    """
    floors = {}
    for smoothing, classes in dict.fromkeys(curve.smoothing for curve in curves if curve.smoothing):
        floor = least_cross_entropy(smoothing, classes)
        floors[f"least possible with label smoothing {smoothing:g}, {classes} classes: {floor:.3f}"] = floor
    label = f"loss ({name})" if name else "loss"
    _draw_both(axes, curves, "train_loss", "validation_loss", scale=1, label=label, floors=list(floors.values()))
    for meaning, floor in floors.items():
        axes.axhline(floor, color=GREY, linestyle=":", label=meaning)


def draw_seconds(axes: Axes, curves: Sequence[Curve]) -> None:
    """Seconds of each epoch, training and validation together."""
    for index, curve in enumerate(curves):
        _line(axes, _points(curve, "seconds"), color=colour(index, len(curves)))
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    axes.set_ylabel("time per epoch (s)")
    _label_epochs(axes, curves)


def draw_total_time(axes: Axes, curves: Sequence[Curve]) -> None:
    """Time since the start, the sum over epochs."""
    unit, seconds = time_unit(max(history.seconds for curve in curves for history in curve.histories))
    for index, curve in enumerate(curves):
        totals = [
            list(zip([row.epoch for row in history], accumulate(row.seconds / seconds for row in history), strict=True))
            for history in curve.histories
        ]
        _line(axes, totals, color=colour(index, len(curves)))
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"time since the start ({unit})")
    _label_epochs(axes, curves)


def add_legend(figure: Figure, curves: Sequence[Curve], *, splits: bool = True, training: bool = True) -> None:
    """A legend below the picture, where it covers nothing: colours are recipes, line styles are splits.

    Lines with a label of their own are in it, too.

    Args:
        splits: whether they are drawn; training: whether the training is, beside the validation.
    """
    from matplotlib.lines import Line2D

    single = len(curves) == 1
    neutral = colour(0, 1) if single else GREY
    names: list[Any] = []
    if not single:
        labels = [curve.named_with_mode if splits else curve.named for curve in curves]
        names = [Line2D([], [], color=colour(i, len(curves)), label=label) for i, label in enumerate(labels)]
    styles: list[Any] = []
    if splits:
        if training:
            styles.append(Line2D([], [], color=neutral, **TRAINING_LINE, label=TRAINING))
        if training and any(curve.validated for curve in curves):
            styles.append(Line2D([], [], color=neutral, label="validation"))
        best = _best_row(curves)
        if best is not None:
            styles.append(Line2D([], [], color=neutral, **BEST_DOT, label=_best_label(best)))
    styles += [line for axes in figure.axes for line in axes.lines if not str(line.get_label()).startswith("_")]
    if any(len(curve.histories) > 1 for curve in curves):
        styles.append(Line2D([], [], color=neutral, alpha=0.25, linewidth=6, label="± standard deviation over seeds"))
    width, height = figure.get_size_inches()
    letters = sum(max((len(line.get_label()) for line in lines), default=0) for lines in (names, styles))
    if names and styles and letters <= LETTERS_BESIDE:
        figure.legend(handles=names, loc="outside lower left")
        figure.legend(handles=styles, loc="outside lower right")
        rows = max(len(names), len(styles))
    else:
        columns = 1 if names else 3 if len(styles) <= 3 else 2
        rows = math.ceil(len(names + styles) / columns)
        if rows:
            figure.legend(handles=names + styles, loc="outside lower left", ncols=columns)
    figure.set_size_inches(width, height + 0.2 * rows)


def _draw_both(
    axes: Axes,
    curves: Sequence[Curve],
    training: str,
    validation: str,
    *,
    scale: float,
    label: str,
    floors: Sequence[float] = (),
) -> None:
    """Training dashed and pale, validation solid with the best epoch of a single training; room for the `floors`."""
    trained: list[float] = []
    validated: list[float] = []
    for index, curve in enumerate(curves):
        kind = {"color": colour(index, len(curves))}
        trained += _line(axes, _points(curve, training, scale), **TRAINING_LINE, **kind)
        validated += _line(axes, _points(curve, validation, scale), **kind)
    # validation is what counts: a training error that falls far below it must not flatten it
    lowest = min((value for value in validated if value > 0), default=0.0)
    linear_below = choose_scale(axes, [*trained, *validated, *floors], least=lowest / 5)
    axes.set_ylabel(label if linear_below is None else f"{label}, linear below {linear_below:g}")
    _label_epochs(axes, curves)
    best = _best_row(curves)
    value = None if best is None else getattr(best, validation)
    if best is not None and value is not None and math.isfinite(value):
        axes.plot(best.epoch, scale * value, color=colour(0, 1), **BEST_DOT)


def _label_epochs(axes: Axes, curves: Sequence[Curve]) -> None:
    epochs = [row.epoch for curve in curves for history in curve.histories for row in history]
    label_epochs(axes, min(epochs), max(epochs))


def _points(curve: Curve, field: str, scale: float = 1) -> list[Points]:
    """`scale` times a field of the rows, a list for each training."""

    def scaled(row: EpochLog) -> float | None:
        value = getattr(row, field)
        return None if value is None else scale * value

    return [[(row.epoch, scaled(row)) for row in history] for history in curve.histories]


def _line(axes: Axes, trainings: Sequence[Points], **kind: Any) -> list[float]:
    """Draw the mean as a line and ±sd as a band; returns the finite means."""
    epochs, mean, sd = per_epoch(trainings)
    if len(epochs) <= MARKED_EPOCHS:
        kind |= {"marker": "o", "markersize": 2.5}
    axes.plot(epochs, mean, **kind)
    if len(trainings) > 1:
        axes.fill_between(epochs, mean - sd, mean + sd, color=kind["color"], alpha=0.18, linewidth=0)
    return [float(number) for number in mean if math.isfinite(number)]


def _best_row(curves: Sequence[Curve]) -> EpochLog | None:
    """The best epoch, for a picture of a single training that was validated."""
    if len(curves) > 1 or len(curves[0].histories) > 1:
        return None
    best = curves[0].histories[0].best
    return None if best.validation_error is None else best


def _best_label(best: EpochLog) -> str:
    if best.validation_mean_iou is not None:
        return f"best validation: mean IoU {best.validation_mean_iou:.4f} in epoch {best.epoch}"
    return f"best validation error: {100 * (best.validation_error or 0):.2f} % in epoch {best.epoch}"
