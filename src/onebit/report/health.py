"""Training health as a picture: a panel per measure, a row per layer, a column per epoch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from onebit.errors import DataError
from onebit.report.drawing import picture
from onebit.report.wording import printable
from onebit.train.history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = {
    "flip_ratio": "weights that changed sign",
    "saturation": "latents at their bound",
    "input_saturation": "inputs without a surrogate gradient",
    "zero_gradients": "latents without a gradient",
}
"""Field of `LayerHealth` -> heading."""
LEAST = 1e-4
"""Shares span decades: the colours are logarithmic from here, and all below is as dark."""


def has_health(history: History) -> bool:
    """Whether the run holds the health of a layer; runs of earlier versions do not."""
    return any(row.layers for row in history)


def plot_health(history: History, path: str | os.PathLike[str], *, name: str = "") -> None:
    """Draw the health of each layer over the epochs of one training into one PNG.

    Args:
        history: what `fit` returned. path: ends in .png. name: of the run, for the title.

    Raises:
        DataError: a history without the health of a layer.
        UsageError: `path` is not a .png, or matplotlib is not installed. OnebitError: the file cannot be written.

    Example:
        >>> plot_health(history, "health.png")  # doctest: +SKIP
    """
    if not has_health(history):
        raise DataError("the history holds no health of a layer: it is empty, or of an earlier version")
    found = [measure for measure in MEASURES if any(measure in m for row in history for m in row.layers.values())]
    layers = {measure: _layers(history, measure) for measure in found}
    rows = max(map(len, layers.values()))
    with picture(path, width=8, height=(1.1 + 0.16 * max(rows, 4)) * -(-len(found) // 2)) as figure:
        figure.suptitle(
            f"{printable(name)}: training health" if name else "training health", fontsize=10, x=0.01, ha="left"
        )
        panels = figure.subplots(-(-len(found) // 2), min(len(found), 2), squeeze=False)
        for axes in panels.flat[len(found) :]:
            axes.set_axis_off()
        for axes, measure in zip(panels.flat, found, strict=False):
            _draw(figure, axes, history, measure, layers[measure])


def _layers(history: History, measure: str) -> list[str]:
    """The layers that a measure applies to, in the order of the net."""
    return list(dict.fromkeys(name for row in history for name, measured in row.layers.items() if measure in measured))


def _draw(figure: Figure, axes: Any, history: History, measure: str, layers: list[str]) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    shares = np.array([[row.layers.get(layer, {}).get(measure, np.nan) for row in history] for layer in layers])
    first, last = history.rows[0].epoch, history.rows[-1].epoch
    extent = (first - 0.5, last + 0.5, len(layers) - 0.5, -0.5)
    shown = np.clip(shares, LEAST, 1)
    image = axes.imshow(shown, aspect="auto", interpolation="nearest", norm=LogNorm(LEAST, 1), extent=extent)
    axes.set_title(MEASURES[measure])
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.grid(False)
    every = -(-len(layers) // 24)
    axes.set_yticks(range(0, len(layers), every), [printable(name, limit=24) for name in layers[::every]], fontsize=7)
    figure.colorbar(image, ax=axes, format=lambda share, _: f"{100 * share:g} %", pad=0.02)
