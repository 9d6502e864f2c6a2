"""A picture of continual learning: the accuracy on every task after every task."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from onebit.report.drawing import COLOURS, picture

MARKERS = "osD^vP*X"


def plot_tasks(result: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw what `train_continual` returns: a panel for each method, in it a line for each task from its own end on.

    Args:
        result: with `cells`; of each method the test mode that stands first, with the BatchNorm statistics of the
            latest task.
        path: PNG file.

    Raises:
        UsageError: matplotlib is not installed, or `path` does not end in .png.
    """
    cells = [cell for cell in result["cells"] if cell["bn"] == "trained"]
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    tasks = range(1, result["tasks"] + 1)
    with picture(path, width=3.4 * len(methods) + 0.6, height=3.4) as figure:
        panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
        for axes, method in zip(panels, methods, strict=True):
            own = [cell for cell in cells if cell["method"] == method]
            shown = own[0]["weights"]
            own = [cell for cell in own if cell["weights"] == shown]
            for seen in tasks:
                line = [cell for cell in own if cell["seen"] == seen]
                axes.plot(
                    [cell["task"] for cell in line],
                    [100 * cell["correct"] / cell["count"] for cell in line],
                    color=COLOURS[(seen - 1) % len(COLOURS)],
                    marker=MARKERS[(seen - 1) % len(MARKERS)],
                    markersize=4,
                    label=f"task {seen}",
                )
            means = []
            for task in tasks:
                row = [100 * cell["correct"] / cell["count"] for cell in own if cell["task"] == task]
                means.append(sum(row) / len(row) if row else float("nan"))
            axes.plot(tasks, means, color="#222222", linestyle="--", label="mean of the tasks seen")
            axes.set_title(f"{method} ({shown} weights)")
            axes.set_xlabel("tasks learnt")
            axes.set_xticks(list(tasks))
        panels[0].set_ylabel("test accuracy (%)")
        panels[-1].legend()
        figure.suptitle(
            f"{result['recipe']}, {result['dataset']}, {result['epochs']:g} epochs a task, seed {result['seed']}"
        )
