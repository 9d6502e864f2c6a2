"""Training health as a picture: a panel per measure, a row per layer, a column per epoch."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from onebit.report.drawing import add_title, picture, whole_ticks
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
"""Shares span decades, so the color scale is logarithmic; it starts here, and smaller shares get the same color."""


def has_health(history: History) -> bool:
    """Whether the run recorded the health of a layer."""
    return any(row.layers for row in history)


def plot_health(history: History, path: str | os.PathLike[str], *, name: str = "") -> None:
    """Draw the health of each layer over the epochs of one training into one PNG.

    Args:
        history: the result of `fit`. path: ends in .png. name: of the run, for the title.

    Raises:
        UsageError: `path` is not a .png. OnebitError: the file cannot be written.

    Example:
        >>> plot_health(history, "health.png")  # doctest: +SKIP
    """
    layers = {measure: _layers(history, measure) for measure in MEASURES}
    layers = {measure: names for measure, names in layers.items() if names}
    rows, most = -(-len(layers) // 2), max(map(len, layers.values()))
    with picture(path, width=8, height=(1.1 + 0.16 * max(most, 4)) * rows) as figure:
        add_title(figure, f"{name}: training health".removeprefix(": "))
        panels = figure.subplots(rows, min(len(layers), 2), squeeze=False)
        for axes in panels.flat[len(layers) :]:
            axes.set_axis_off()
        for axes, (measure, names) in zip(panels.flat, layers.items(), strict=False):
            _draw(figure, axes, history, measure, names)


def _layers(history: History, measure: str) -> list[str]:
    """The layers with this measure, in the order of the net."""
    return list(dict.fromkeys(name for row in history for name, measured in row.layers.items() if measure in measured))


def _draw(figure: Figure, axes: Any, history: History, measure: str, layers: list[str]) -> None:
    from matplotlib.colors import LogNorm

    shares = np.array([[row.layers.get(layer, {}).get(measure, np.nan) for row in history] for layer in layers])
    first, last = history.rows[0].epoch, history.rows[-1].epoch
    extent = (first - 0.5, last + 0.5, len(layers) - 0.5, -0.5)
    shown = np.clip(shares, LEAST, 1)
    image = axes.imshow(shown, aspect="auto", interpolation="nearest", norm=LogNorm(LEAST, 1), extent=extent)
    axes.set_title(MEASURES[measure])
    axes.set_xlabel("epoch")
    whole_ticks(axes, most=8)
    axes.grid(False)
    every = -(-len(layers) // 24)
    axes.set_yticks(range(0, len(layers), every), [printable(name, limit=24) for name in layers[::every]], fontsize=7)
    figure.colorbar(image, ax=axes, format=lambda share, _: f"{100 * share:g} %", pad=0.02)
