"""Error, loss, mean IoU and time per epoch, several runs in one picture; and the health of the layers of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onebit.common.files import AnyPath
from onebit.report.drawing import GREY, Picture, curve_color, log_ticks, picture
from onebit.report.run_folders import Group, RunResults, data_name
from onebit.report.wording import mean_sd, printable
from onebit.train.history import EpochLog, History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Iterable[tuple[int, float | None]]
"""(epoch, value) of all epochs of all runs."""
STYLES: dict[str, dict[str, Any]] = {"training": {"linestyle": (0, (4, 2)), "alpha": 0.65}, "validation": {}}
BEST: dict[str, Any] = {"marker": "o", "markersize": 7, "fillstyle": "none", "linestyle": "none"}
BAND: dict[str, Any] = {"alpha": 0.25, "linewidth": 6, "label": "± standard deviation over seeds"}
"""The legend entry of the bands of `panel`."""
MARKED_EPOCHS = 20
"""Curves with at most this many epochs get a dot per epoch."""
MEASURES = {
    "flip_ratio": "weights that changed sign",
    "saturation": "latents at their bound",
    "input_saturation": "inputs without a surrogate gradient",
    "zero_gradients": "latents without a gradient",
}
"""Field of `LayerHealth` -> heading."""
MIN_SHARE = 1e-4
"""Where the logarithmic color scale of shares starts; smaller shares get the same color."""
PANELS: dict[str, tuple[str, dict[str, str], float]] = {
    "error": ("error (%)", {"training": "train_error", "validation": "validation_error"}, 100),
    "mean IoU": ("validation mean IoU", {"validation": "validation_mean_iou"}, 1),
    "loss": ("loss", {"training": "train_loss", "validation": "validation_loss"}, 1),
    "time": ("time per epoch (s)", {"validation": "seconds"}, 1),
}
"""Name -> label, field of `EpochLog` for each split, of which validation is the last, and the scale of its values."""


def per_epoch(points: Points) -> np.ndarray:
    """(epochs, mean, sd) over the runs that completed an epoch, (3, epochs); sd is 0 for a single one.

    Args:
        points: epochs without a value are left out; a value that is not finite leaves a gap.
    """
    values: dict[int, list[float]] = {}
    for epoch, value in points:
        if value is not None:
            values.setdefault(epoch, []).append(value if math.isfinite(value) else math.nan)
    rows = [(epoch, *mean_sd(values[epoch])) for epoch in sorted(values)]
    return np.array([(epoch, mean, sd or 0.0) for epoch, mean, sd in rows]).reshape(-1, 3).T


def panel(
    axes: Axes, series: Iterable[tuple[Points, dict[str, Any]]], *, x: str = "epoch", scale: float = 1, ticks: int = 10
) -> list[np.ndarray]:
    """Draw a curve for each of `series`: `scale` times the mean of its runs, and ±sd as a band; returns the means.

    Args:
        series: (points, style of the line). Curves of few points get dots.
        x: what is counted along the axis, in whole numbers with at most `ticks` labels.
    """
    from matplotlib.ticker import MaxNLocator

    means = []
    for points, style in series:
        at, mean, sd = per_epoch(points) * [[1], [scale], [scale]]
        dots: dict[str, Any] = {"marker": "o", "markersize": 2.5} if len(at) <= MARKED_EPOCHS else {}
        axes.plot(at, mean, **(dots | style))
        if any(sd):
            axes.fill_between(at, mean - sd, mean + sd, color=style["color"], alpha=0.18, linewidth=0)
        means.append(mean)
    axes.set_xlabel(x)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=ticks, integer=True, min_n_ticks=1))
    return means


def plot_history(history: History, path: AnyPath, *, data: str = "") -> None:
    """Draw error, loss and time per epoch of one training into one PNG; for masks, also the mean IoU.

    Args:
        history: the result of `fit`.
        path: ends in .png.
        data: name of the data set, for the title.

    Raises:
        UsageError: `path` is not a .png.
        OnebitError: the file cannot be written.

    Example:
        >>> plot_history(history, "curves.png", data="mnist")  # doctest: +SKIP
    """
    group = Group("", (RunResults("", {}, history),))
    title = ": ".join(filter(None, (data, _named(group))))
    _draw_panels(path, [name for name in PANELS if _has(name, group)], [group], title)


def write_curves(groups: Sequence[Group], folder: Path) -> list[Picture]:
    """error.png, loss.png and time.png, and mean-iou.png for masks."""
    pictures: list[Picture] = []
    for name in PANELS:
        if drawn := [group for group in groups if _has(name, group)]:
            path, heading = folder / f"{name.lower().replace(' ', '-')}.png", name[0].upper() + name[1:]
            alone = f", {_named(drawn[0])}" if len(drawn) == 1 else ""
            _draw_panels(path, [name], drawn, f"{data_name(drawn)}: {name}{alone}")
            caption = f"{heading} per epoch" + (", validation included." if name == "time" else ".")
            pictures.append((heading, path, caption))
    return pictures


def _rows(groups: Iterable[Group]) -> list[EpochLog]:
    """The epochs of all runs."""
    return [row for group in groups for run in group.runs for row in run.history]


def _has(name: str, group: Group) -> bool:
    """Whether a panel shows these runs; only the mean IoU may be missing."""
    return name != "mean IoU" or any(row.validation_mean_iou is not None for row in _rows([group]))


def _named(group: Group) -> str:
    """The label, with the number of seeds and the test mode of the validation."""
    modes = sorted({row.validation_weights for row in _rows([group]) if row.validation_loss is not None})
    seeds = f"{len(group.runs)} seeds" if len(group.runs) > 1 else ""
    weights = f"{printable(' and '.join(modes), limit=60)} weights" if modes else ""
    return ", ".join(filter(None, (printable(group.label), seeds, weights)))


def _draw_panels(path: AnyPath, names: Sequence[str], groups: Sequence[Group], title: str) -> None:
    """Draw the panels of these names side by side, with one title and one legend."""
    height = 4 if len(names) == 1 else 3.2
    with picture(path, width=max(8, 3.7 * len(names)), height=height, title=title) as figure:
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            draw_panel(axes, groups, name)
        add_legend(figure, groups, splits=any("training" in PANELS[name][1] for name in names))


def draw_panel(axes: Axes, groups: Sequence[Group], name: str) -> None:
    """Draw one of PANELS: training dashed and pale, validation solid, with the best epoch of a single training.

    The axis is linear from 0, or logarithmic if positive values span more than a decade; a training error far below the
    validation error is then cut off at the bottom.
    """
    label, fields, scale = PANELS[name]
    series = []
    for index, group in enumerate(groups):
        for split, field in fields.items():
            points = [(row.epoch, getattr(row, field)) for row in _rows([group])]
            series.append((points, {"color": curve_color(index, len(groups)), **STYLES[split]}))
    means = panel(axes, series, scale=scale)
    if (best := _best(groups)) and (value := getattr(best, fields["validation"])) is not None:
        axes.plot(best.epoch, scale * value, color=curve_color(0, 1), **BEST)
    axes.set_ylabel(label)
    validated = chain.from_iterable(means[len(fields) - 1 :: len(fields)])
    values = [0.0, *filter(math.isfinite, chain.from_iterable(means))]
    high = max(values)
    least = max(min((value for value in validated if value > 0), default=0) / 5, 1e-9 * high)
    low = min((value for value in values if value > least), default=high)
    if min(values) >= 0 and high >= 10 * low > 0:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.3, high * 1.3)
        log_ticks(axes.yaxis, subs=(1, 2, 5) if high < 1e3 * low else (1,))
    elif min(values) >= 0:
        axes.set_ylim(bottom=0)


def _best(groups: Sequence[Group]) -> EpochLog | None:
    """The best epoch, in a picture of a single training with a validation split."""
    first, *others = (run.history for group in groups for run in group.runs)
    return None if others or first.best.validation_error is None else first.best


def add_legend(figure: Figure, groups: Sequence[Group], *, splits: bool = True) -> None:
    """A legend below the panels: colors are recipes, line styles are splits, if both are drawn."""
    from matplotlib.lines import Line2D

    single = len(groups) == 1
    neutral = curve_color(0, 1) if single else GREY
    named = [] if single else groups
    keys = [{"label": _named(group), "color": curve_color(i, len(groups))} for i, group in enumerate(named)]
    if splits:
        keys.append({"label": "training (mean over the epoch)", **STYLES["training"]})
    if splits and any(row.validation_loss is not None for row in _rows(groups)):
        keys.append({"label": "validation"})
    if best := _best(groups):
        keys.append({"label": f"best validation: epoch {best.epoch}", **BEST})
    if any(len(group.runs) > 1 for group in groups):
        keys.append(BAND)
    columns = 3 if single else 1
    if keys:
        lines = [Line2D([], [], **{"color": neutral, **style}) for style in keys]
        figure.legend(handles=lines, loc="outside lower left", ncols=columns)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2 * math.ceil(len(keys) / columns))


def plot_health(history: History, path: AnyPath, *, name: str = "") -> None:
    """Draw the health of each layer over the epochs of one training into one PNG.

    Args:
        history: the result of `fit`. path: ends in .png. name: of the run, for the title.

    Raises:
        UsageError: `path` is not a .png. OnebitError: the file cannot be written.

    Example:
        >>> plot_health(history, "health.png")  # doctest: +SKIP
    """
    layers = {
        measure: list(dict.fromkeys(name for row in history for name in row.layers if measure in row.layers[name]))
        for measure in MEASURES
    }
    layers = {measure: names for measure, names in layers.items() if names}
    rows, most = -(-len(layers) // 2), max(map(len, layers.values()))
    title = f"{name}: training health".removeprefix(": ")
    with picture(path, width=8, height=(1.1 + 0.16 * max(most, 4)) * rows, title=title) as figure:
        from matplotlib.colors import LogNorm

        for place, (measure, names) in enumerate(layers.items(), start=1):
            axes = figure.add_subplot(rows, min(len(layers), 2), place)
            shares = [[row.layers.get(layer, {}).get(measure, np.nan) for row in history] for layer in names]
            extent = (history.rows[0].epoch - 0.5, history.rows[-1].epoch + 0.5, len(names) - 0.5, -0.5)
            style: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest", "extent": extent}
            image = axes.imshow(np.clip(shares, MIN_SHARE, 1), norm=LogNorm(MIN_SHARE, 1), **style)
            axes.set_title(MEASURES[measure])
            panel(axes, [], ticks=8)
            axes.grid(False)
            every = -(-len(names) // 24)
            shown = [printable(name, limit=24) for name in names[::every]]
            axes.set_yticks(range(0, len(names), every), shown, fontsize=7)
            figure.colorbar(image, ax=axes, format=lambda share, _: f"{100 * share:g} %", pad=0.02)
