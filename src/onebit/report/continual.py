"""A picture of continual learning: the accuracy on every task after every task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from onebit.report.drawing import GREY, INK, colour, picture
from onebit.report.tasks import Row
from onebit.report.wording import mean_sd

MARKERS = "osD^vP*X"
MEAN_LINE: dict[str, Any] = {"color": INK, "linestyle": "--"}
LEGEND_COLUMNS = 5
LEGEND_TASKS = 25
"""So many tasks are named at most."""


def plot_tasks(rows: Sequence[Row], path: str | os.PathLike[str], *, tasks: int, title: str = "") -> None:
    """Draw a panel for each method, in it a line for each task from its own end on; several seeds with mean and band.

    Args:
        rows: of `task_rows`; of each method the test mode that stands first is drawn, with the BatchNorm statistics of
            the latest task.
        path: PNG file.
        tasks: number of all tasks, learnt or not.
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
        from matplotlib.lines import Line2D
        from matplotlib.ticker import MaxNLocator

        panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
        for axes, (method, own) in zip(panels, methods.items(), strict=True):
            for seen in range(1, tasks + 1):
                line = {row.task: row.accuracies[seen - 1] for row in own if row.task >= seen}
                style = {"color": colour(seen - 1, tasks), "marker": MARKERS[(seen - 1) % len(MARKERS)]}
                label = f"task {seen}" if (seen - 1) % every == 0 else "_"  # matplotlib leaves those out of a legend
                _draw(axes, line, markersize=4, label=label, **style)
            _draw(axes, {row.task: row.means for row in own}, label="mean of the tasks seen", **MEAN_LINE)
            axes.set_title(f"{method} ({own[0].weights} weights)" if own else method)
            axes.set_xlabel("tasks learnt")
            axes.set_xlim(0.8, tasks + 0.2)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
        panels[0].set_ylabel("test accuracy (%)")
        *each, mean = panels[0].get_legend_handles_labels()[0]
        band = Line2D([], [], color=GREY, alpha=0.25, linewidth=6, label="± standard deviation over seeds")
        figure.legend(handles=each, loc="outside lower left", ncols=LEGEND_COLUMNS)
        figure.legend(handles=[mean, *([band] if several else [])], loc="outside lower right")
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")


def _draw(axes: Any, line: dict[int, tuple[float, ...]], **style: Any) -> None:
    """Accuracies over the trainings by the number of tasks learnt: their mean in percent, and ±sd as a band."""
    after = sorted(line)
    mean = [100 * mean_sd(line[task])[0] for task in after]
    sd = [100 * (mean_sd(line[task])[1] or 0.0) for task in after]
    axes.plot(after, mean, **style)
    if any(sd):
        low, high = ([m + sign * s for m, s in zip(mean, sd, strict=True)] for sign in (-1, 1))
        axes.fill_between(after, low, high, color=style["color"], alpha=0.15, linewidth=0)
