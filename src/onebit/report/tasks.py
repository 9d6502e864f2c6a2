"""Continual learning: the accuracy on every task after every task, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from onebit.common.files import AnyPath
from onebit.report.curves import BAND, panel
from onebit.report.drawing import GREY, INK, curve_color, picture
from onebit.report.run_folders import Group
from onebit.report.wording import printable
from onebit.runs.result import Cell

LEGEND_TASKS = 25
"""Largest number of tasks in the legend."""
NORMS = {"trained": "BatchNorm of the latest task", "reestimate": "BatchNorm of each task"}


@dataclass(frozen=True)
class Row:
    """The accuracies on tasks 1, 2, … after the task `task`: for each of them, one value per run.

    method, weights, bn: see `Cell`.
    """

    method: str
    weights: str
    bn: str
    task: int
    accuracies: tuple[tuple[float, ...], ...]

    @property
    def means(self) -> tuple[float, ...]:
        """The mean over the tasks seen so far, for each run."""
        return tuple(sum(each) / len(each) for each in zip(*self.accuracies, strict=True))


def task_rows(tables: Sequence[Sequence[Cell]]) -> list[Row]:
    """The table over the seeds of a recipe: a row for each method, test mode, BatchNorm statistics and task.

    Args:
        tables: the cells of each run; an unfinished run is missing in the rows of later tasks.
    """
    blocks: dict[tuple[str, str, str], dict[int, dict[int, list[float]]]] = {}
    for cell in chain.from_iterable(tables):
        tasks = blocks.setdefault(cell.block, {})
        tasks.setdefault(cell.task, {}).setdefault(cell.seen, []).append(cell.accuracy)
    order = [(block, task) for block, tasks in blocks.items() for task in sorted(tasks)]
    return [Row(*block, task, tuple(map(tuple, blocks[block][task].values()))) for block, task in order]


def group_rows(group: Group) -> list[Row]:
    """The table of one group."""
    return task_rows([run.table.cells for run in group.runs])


def plot_tasks(rows: Sequence[Row], path: AnyPath, *, tasks: int, title: str = "") -> None:
    """Draw a panel per method with a curve per task, from the end of that task on; seeds as mean and band.

    Args:
        rows: the result of `task_rows`; for each method, its first test mode is drawn, with the BatchNorm statistics of
            the latest task.
        path: PNG file.
        tasks: number of all tasks, learned or not.
        title: of the whole picture.
    """
    methods: dict[str, list[Row]] = {}
    for row in rows:
        if row.bn == "trained":
            methods.setdefault(row.method, []).append(row)
    every = -(-tasks // LEGEND_TASKS)
    height = 3.7 + 0.04 * min(tasks, LEGEND_TASKS)
    with picture(path, width=max(3.4 * len(methods) + 0.6, 7.4), height=height, title=title) as figure:
        panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
        for axes, (method, trained) in zip(panels, methods.items(), strict=True):
            block = [row for row in trained if row.weights == trained[0].weights]
            series: list[Any] = []
            for task in range(1, tasks + 1):
                points = [(row.task, value) for row in block if row.task >= task for value in row.accuracies[task - 1]]
                label = f"task {task}" if (task - 1) % every == 0 else "_"  # matplotlib hides these in a legend
                style = {"marker": "o", "markersize": 4, "label": label, "color": curve_color(task - 1, tasks)}
                series.append((points, style))
            means = [(row.task, value) for row in block for value in row.means]
            style = {"marker": "", "color": INK, "linestyle": "--", "label": "mean of the tasks seen"}
            panel(axes, [*series, (means, style)], x="tasks learned", scale=100)
            axes.set(title=printable(f"{method} ({block[0].weights} weights)", limit=60), xlim=(0.8, tasks + 0.2))
        panels[0].set_ylabel("test accuracy (%)")
        if any(len(row.means) > 1 for row in rows):
            panels[0].plot([], [], color=GREY, **BAND)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=5)
