"""Error, loss and time per epoch: several runs in one picture, several seeds as mean and band."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onebit.data import DATASETS
from onebit.errors import DataError
from onebit.report.drawing import (
    GREY,
    Picture,
    add_title,
    band_key,
    choose_scale,
    curve_color,
    draw_mean,
    label_epochs,
    picture,
    scale_words,
    wrap_to,
)
from onebit.report.histograms import open_weights
from onebit.report.run_folders import Group, RunResults, data_name
from onebit.report.wording import mean_sd, printable, time_unit
from onebit.train.history import EpochLog, History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAINING = "training (mean over the epoch)"
TRAINING_LINE: dict[str, Any] = {"linestyle": (0, (4, 2)), "alpha": 0.65}
BEST_DOT: dict[str, Any] = {"marker": "o", "markersize": 7, "fillstyle": "none", "linestyle": "none"}
LETTERS_BESIDE = 97
"""Up to this many letters in the longest name and the longest line style, both fit side by side."""
MARKED_EPOCHS = 20
"""Curves with at most this many epochs get a dot per epoch."""


@dataclass(frozen=True)
class Curve:
    """The histories of the seeds of one recipe, drawn in one color.

    smoothing: (label smoothing, number of classes) of its cross-entropy, if labels are smoothed.
    """

    label: str
    histories: tuple[History, ...]
    smoothing: tuple[float, int] | None = None

    @property
    def modes(self) -> list[str]:
        """Test modes of the validation."""
        return sorted({row.validation_weights for row in self.rows})

    @property
    def rows(self) -> list[EpochLog]:
        """The epochs of all histories."""
        return [row for history in self.histories for row in history]

    @property
    def validated(self) -> bool:
        return any(row.validation_error is not None for row in self.rows)

    @property
    def masked(self) -> bool:
        return any(row.validation_mean_iou is not None for row in self.rows)

    @property
    def named(self) -> str:
        return printable(self.label) + (f", {len(self.histories)} seeds" if len(self.histories) > 1 else "")

    @property
    def named_with_mode(self) -> str:
        return self.named + (f", {' and '.join(self.modes)} weights" if self.validated else "")


Points = Sequence[tuple[int, float | None]]
"""(epoch, value) of one training; None without a value."""
Draw = Callable[["Axes", Sequence[Curve]], None]


def per_epoch(runs: Iterable[Points]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(epochs, mean, sd) over the runs that completed an epoch; sd is 0 for a single one.

    Epochs without a value are left out; a value that is not finite makes a gap.
    """
    values: dict[int, list[float]] = {}
    for epoch, value in chain.from_iterable(runs):
        if value is not None:
            values.setdefault(epoch, []).append(value if math.isfinite(value) else math.nan)
    epochs = sorted(values)
    mean, sd = zip(*(mean_sd(values[epoch]) for epoch in epochs), strict=True) if epochs else ((), ())
    return np.array(epochs, np.int64), np.array(mean, np.float64), np.array([each or 0.0 for each in sd], np.float64)


def least_cross_entropy(label_smoothing: float, classes: int) -> float:
    """The lowest possible cross-entropy with smoothed labels, in nats: the entropy −Σ t ln t of the targets.

    The target t is 1 − s + s/K for the true class and s/K for each other class (Szegedy et al. 2016, arXiv:1512.00567,
    section 7); a net that predicts exactly these targets has this loss.

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
    """Draw error, loss and time per epoch of one training into one PNG; for masks, also the mean IoU.

    Args:
        history: the result of `fit`.
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
    draw = [draw_error, draw_loss, draw_seconds, *([draw_mean_iou] if curves[0].masked else [])]
    with picture(path, width=14.5 if curves[0].masked else 11, height=3.2) as figure:
        add_title(figure, title("error and loss", curves, data=data))
        for axes, draw_panel in zip(figure.subplots(1, len(draw)), draw, strict=True):
            draw_panel(axes, curves)
        add_legend(figure, curves)


def write_curves(groups: Sequence[Group[RunResults]], folder: Path) -> list[Picture]:
    """error.png, loss.png and time.png, and mean-iou.png for masks."""
    curves = list(map(_curve, groups))
    losses = {group.settings.get("loss") for group in groups}
    loss_name = str(losses.pop() or "").replace("_", " ") if len(losses) == 1 else ""
    floor = " No loss can fall below the dotted line." if any(curve.smoothing for curve in curves) else ""
    charts = [_write_chart(groups, folder, "error", draw_error)]
    if masked := [group for group, curve in zip(groups, curves, strict=True) if curve.masked]:
        charts.append(_write_chart(masked, folder, "mean IoU", draw_mean_iou, training=False))
    charts.append(_write_chart(groups, folder, "loss", partial(draw_loss, name=loss_name), note=floor))
    with picture(folder / "time.png", width=8, height=3.4) as figure:
        each, total = figure.subplots(1, 2)
        draw_seconds(each, curves)
        draw_total_time(total, curves)
        data = data_name(groups)
        about = f"{curves[0].named} on {data}" if len(curves) == 1 else data
        add_title(figure, f"{about}: training time", size=10)
        add_legend(figure, curves, splits=False)
    caption = "Time per epoch, validation included, and its sum since the start."
    return [*charts, ("Time", folder / "time.png", caption)]


def _write_chart(
    groups: Sequence[Group[RunResults]], folder: Path, what: str, draw: Draw, *, training: bool = True, note: str = ""
) -> Picture:
    """One panel; without `training`, it has the validation curves only."""
    curves, path = list(map(_curve, groups)), folder / f"{what.lower().replace(' ', '-')}.png"
    with picture(path, width=8, height=4.2) as figure:
        axes = figure.subplots()
        draw(axes, curves)
        note += scale_words(axes)
        wrap_to(axes.set_title(title(what, curves, data=data_name(groups), training=training)), 7.4)
        add_legend(figure, curves, training=training)
    heading = what[0].upper() + what[1:]
    return heading, path, f"{heading}{'' if training else ' of the validation masks'} per epoch.{note}"


def _curve(group: Group[RunResults]) -> Curve:
    return Curve(group.label, tuple(run.history for run in group.runs), _smoothing(group.runs[0]))


def _smoothing(run: RunResults) -> tuple[float, int] | None:
    """(label smoothing, number of classes) if the loss is only the cross-entropy with smoothed labels."""
    smoothing, dataset = run.settings.get("label_smoothing"), str(run.settings.get("dataset"))
    if not isinstance(smoothing, float) or not 0 < smoothing < 1 or run.settings.get("teacher") is not None:
        return None
    classes: Any = DATASETS[dataset].classes if dataset in DATASETS else None
    if classes is None and run.weights is not None:
        classes = open_weights(run.weights)[0].get("classes")
    return (smoothing, len(classes)) if isinstance(classes, (list, tuple)) and classes else None


def title(what: str, curves: Sequence[Curve], *, data: str, training: bool = True) -> str:
    """`mnist: training and validation error, validation with binary weights`; a single recipe gets a line above."""
    validated = [curve for curve in curves if curve.validated]
    modes = " and ".join(sorted({mode for curve in validated for mode in curve.modes}))
    text = f"training and validation {what}, validation with {modes} weights" if validated else f"training {what}"
    if not training:
        text = f"validation {what} with {modes} weights"
    if len(curves) == 1 and curves[0].label:
        about = curves[0].named + (f" on {printable(data)}" if data else "")
        return f"{about}\n{text}"
    return f"{printable(data)}: {text}" if data else text


def draw_error(axes: Axes, curves: Sequence[Curve]) -> None:
    """Training and validation error in percent; the best epoch of a single training is marked."""
    _draw_both(axes, curves, "train_error", "validation_error", scale=100, label="error (%)")


def draw_mean_iou(axes: Axes, curves: Sequence[Curve]) -> None:
    """Mean IoU of the validation masks; the best epoch of a single training is marked."""
    _draw(axes, curves, "validation_mean_iou", label="validation mean IoU")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 1))
    _mark_best(axes, curves, "validation_mean_iou")


def draw_loss(axes: Axes, curves: Sequence[Curve], *, name: str = "") -> None:
    """Training and validation loss, and its lower bound; the best epoch of a single training is marked.

    `name` is that of the loss function; "" if it is unknown or not the same for all.
    """
    floors = {}
    for smoothing, classes in dict.fromkeys(curve.smoothing for curve in curves if curve.smoothing):
        floor = least_cross_entropy(smoothing, classes)
        floors[f"least possible with label smoothing {smoothing:g}, {classes} classes: {floor:.3f}"] = floor
    label = f"loss ({name})" if name else "loss"
    _draw_both(axes, curves, "train_loss", "validation_loss", label=label, floors=list(floors.values()))
    for meaning, floor in floors.items():
        axes.axhline(floor, color=GREY, linestyle=":", label=meaning)


def draw_seconds(axes: Axes, curves: Sequence[Curve]) -> None:
    """Seconds per epoch, for training and validation together."""
    _draw(axes, curves, "seconds", label="time per epoch (s)")
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])


def draw_total_time(axes: Axes, curves: Sequence[Curve]) -> None:
    """Time since the start, summed over epochs."""
    unit, seconds = time_unit(max(history.seconds for curve in curves for history in curve.histories))

    def totals(history: History) -> Points:
        times = accumulate(row.seconds / seconds for row in history)
        return [(row.epoch, time) for row, time in zip(history, times, strict=True)]

    _draw(axes, curves, totals, label=f"time since the start ({unit})")
    axes.set_ylim(bottom=0)


def add_legend(figure: Figure, curves: Sequence[Curve], *, splits: bool = True, training: bool = True) -> None:
    """A legend below the panels: colors are recipes, line styles are splits; lines with their own label are included.

    Args:
        splits: whether splits are drawn. training: whether training curves are drawn beside validation curves.
    """
    from matplotlib.lines import Line2D

    single = len(curves) == 1
    neutral = curve_color(0, 1) if single else GREY
    names: list[Any] = []
    if not single:
        labels = [curve.named_with_mode if splits else curve.named for curve in curves]
        names = [Line2D([], [], color=curve_color(i, len(curves)), label=label) for i, label in enumerate(labels)]
    styles: list[Any] = []
    if splits:
        if training:
            styles.append(Line2D([], [], color=neutral, **TRAINING_LINE, label=TRAINING))
        if training and any(curve.validated for curve in curves):
            styles.append(Line2D([], [], color=neutral, label="validation"))
        if best := _best_row(curves):
            styles.append(Line2D([], [], color=neutral, **BEST_DOT, label=_best_label(best)))
    styles += [line for axes in figure.axes for line in axes.lines if not str(line.get_label()).startswith("_")]
    if any(len(curve.histories) > 1 for curve in curves):
        styles.append(band_key(neutral))
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
    label: str,
    scale: float = 1,
    floors: Sequence[float] = (),
) -> None:
    """Training dashed and pale, validation solid with the best epoch of a single training; room for the `floors`."""
    trained = _draw(axes, curves, training, scale=scale, label=label, **TRAINING_LINE)
    validated = _draw(axes, curves, validation, scale=scale, label=label)
    # a training error that falls far below the validation error must not flatten the validation curve
    lowest = min((value for value in validated if value > 0), default=0.0)
    linear_below = choose_scale(axes, [*trained, *validated, *floors], least=lowest / 5)
    if linear_below is not None:
        axes.set_ylabel(f"{label}, linear below {linear_below:g}")
    _mark_best(axes, curves, validation, scale=scale)


def _draw(
    axes: Axes,
    curves: Sequence[Curve],
    values: str | Callable[[History], Points],
    *,
    label: str,
    scale: float = 1,
    **style: Any,
) -> list[float]:
    """Draw `scale` times a field of the rows, or the points of a history, over the epochs; returns the finite means."""

    def points(history: History) -> Points:
        if callable(values):
            return values(history)
        return [(row.epoch, None if (n := getattr(row, values)) is None else scale * n) for row in history]

    means: list[float] = []
    for index, curve in enumerate(curves):
        epochs, mean, sd = per_epoch(map(points, curve.histories))
        if len(epochs) <= MARKED_EPOCHS:
            style |= {"marker": "o", "markersize": 2.5}
        draw_mean(axes, epochs, mean, sd, color=curve_color(index, len(curves)), **style)
        means += mean[np.isfinite(mean)].tolist()
    axes.set_ylabel(label)
    drawn = [row.epoch for curve in curves for row in curve.rows]
    label_epochs(axes, min(drawn), max(drawn))
    return means


def _best_row(curves: Sequence[Curve]) -> EpochLog | None:
    """The best epoch, in a picture of a single training with a validation split."""
    first, *others = (history for curve in curves for history in curve.histories)
    return None if others or first.best.validation_error is None else first.best


def _mark_best(axes: Axes, curves: Sequence[Curve], field: str, *, scale: float = 1) -> None:
    """A circle at the best epoch of a single training."""
    best = _best_row(curves)
    value = getattr(best, field, None)
    if best is not None and value is not None and math.isfinite(value):
        axes.plot(best.epoch, scale * value, color=curve_color(0, 1), **BEST_DOT)


def _best_label(best: EpochLog) -> str:
    if best.validation_mean_iou is not None:
        return f"best validation: mean IoU {best.validation_mean_iou:.4f} in epoch {best.epoch}"
    return f"best validation error: {100 * (best.validation_error or 0):.2f} % in epoch {best.epoch}"
