"""A picture of continual learning: the accuracy on every task after every task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from onebit.report.drawing import GREY, INK, add_title, band_key, curve_color, draw_mean, picture, whole_ticks
from onebit.report.tasks import Row
from onebit.report.wording import mean_sd

MARKERS = "osD^vP*X"
MEAN_LINE: dict[str, Any] = {"color": INK, "linestyle": "--"}
LEGEND_COLUMNS = 5
LEGEND_TASKS = 25
"""Largest number of tasks in the legend."""


def plot_tasks(rows: Sequence[Row], path: str | os.PathLike[str], *, tasks: int, title: str = "") -> None:
    """Draw a panel per method with a curve per task, from the end of that task on; seeds as mean and band.

    Args:
        rows: the result of `task_rows`; for each method, its first test mode is drawn, with the BatchNorm statistics of
            the latest task.
        path: PNG file.
        tasks: number of all tasks, learned or not.
        title: of the whole picture.

    Raises:
        UsageError: matplotlib is not installed, or `path` does not end in .png.
    """
    methods: dict[str, list[Row]] = {}
    for row in rows:
        drawn = methods.setdefault(row.method, [])
        if row.bn == "trained" and (not drawn or drawn[0].weights == row.weights):
            drawn.append(row)
    several = any(len(row.means) > 1 for row in rows)
    every = -(-tasks // LEGEND_TASKS)
    lines = max(-(-tasks // every // LEGEND_COLUMNS), 1 + several)
    with picture(path, width=max(3.4 * len(methods) + 0.6, 7.4), height=3.3 + 0.2 * lines) as figure:
        panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
        for axes, (method, own) in zip(panels, methods.items(), strict=True):
            for seen in range(1, tasks + 1):
                curve = {row.task: row.accuracies[seen - 1] for row in own if row.task >= seen}
                style = {"color": curve_color(seen - 1, tasks), "marker": MARKERS[(seen - 1) % len(MARKERS)]}
                label = f"task {seen}" if (seen - 1) % every == 0 else "_"  # matplotlib hides these in a legend
                _draw(axes, curve, markersize=4, label=label, **style)
            _draw(axes, {row.task: row.means for row in own}, label="mean of the tasks seen", **MEAN_LINE)
            axes.set_title(f"{method} ({own[0].weights} weights)" if own else method)
            axes.set_xlabel("tasks learned")
            axes.set_xlim(0.8, tasks + 0.2)
            whole_ticks(axes)
        panels[0].set_ylabel("test accuracy (%)")
        *each, mean = panels[0].get_legend_handles_labels()[0]
        figure.legend(handles=each, loc="outside lower left", ncols=LEGEND_COLUMNS)
        figure.legend(handles=[mean, *([band_key(GREY)] if several else [])], loc="outside lower right")
        add_title(figure, title)


def _draw(axes: Any, curve: dict[int, tuple[float, ...]], **style: Any) -> None:
    """Accuracies of the seeds by number of tasks learned: their mean in percent, and ±sd as a band."""
    after = sorted(curve)
    mean, sd = (np.array([100 * (mean_sd(curve[task])[part] or 0.0) for task in after]) for part in (0, 1))
    draw_mean(axes, after, mean, sd, band=0.15, **style)
