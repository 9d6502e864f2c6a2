"""Continual learning: the accuracy on every task after every task, over seeds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onebit.report.curves import per_epoch
from onebit.report.drawing import GREY, INK, add_title, band_key, curve_color, draw_mean, picture, whole_ticks
from onebit.report.run_folders import Group, Training, data_of, flat_settings, unique_names
from onebit.report.wording import printable
from onebit.runs.result import Cell, TaskTable, read_table
from onebit.train.history import TABLE_FILE

LEGEND_TASKS = 25
"""Largest number of tasks in the legend."""
NORMS = {"trained": "BatchNorm of the latest task", "reestimate": "BatchNorm of each task"}


@dataclass(frozen=True)
class TaskRun(Training):
    """The contents of one folder of several tasks."""

    table: TaskTable


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
    cells_by_row: dict[tuple[tuple[str, str, str], int], list[list[float]]] = {}
    for cells in tables:
        for key in dict.fromkeys((cell.block, cell.task) for cell in cells):
            accuracies = [cell.accuracy for cell in cells if (cell.block, cell.task) == key]
            cells_by_row.setdefault(key, []).append(accuracies)
    blocks = list(dict.fromkeys(block for block, _ in cells_by_row))
    order = sorted(cells_by_row, key=lambda key: (blocks.index(key[0]), key[1]))
    return [Row(*block, task, tuple(zip(*cells_by_row[block, task], strict=True))) for block, task in order]


def group_rows(group: Group[TaskRun]) -> list[Row]:
    """The table of one group."""
    return task_rows([run.table.cells for run in group.runs])


def read_task_runs(folders: Sequence[Path]) -> list[TaskRun]:
    """Read folders of several tasks, as found by `find_folders`; for errors see `onebit.report.write_report`."""
    return [
        TaskRun(name, flat_settings(folder), read_table(folder / TABLE_FILE), data=data_of(folder))
        for folder, name in zip(folders, unique_names(folders), strict=True)
    ]


def plot_tasks(rows: Sequence[Row], path: str | os.PathLike[str], *, tasks: int, title: str = "") -> None:
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
        drawn = methods.setdefault(row.method, [])
        if row.bn == "trained" and (not drawn or drawn[0].weights == row.weights):
            drawn.append(row)
    every = -(-tasks // LEGEND_TASKS)
    with picture(
        path, width=max(3.4 * len(methods) + 0.6, 7.4), height=3.7 + 0.04 * min(tasks, LEGEND_TASKS)
    ) as figure:
        panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
        for axes, (method, block) in zip(panels, methods.items(), strict=True):
            for seen in range(1, tasks + 1):
                curve = {row.task: row.accuracies[seen - 1] for row in block if row.task >= seen}
                label = f"task {seen}" if (seen - 1) % every == 0 else "_"  # matplotlib hides these in a legend
                _draw(axes, curve, marker="o", markersize=4, label=label, color=curve_color(seen - 1, tasks))
            means = {row.task: row.means for row in block}
            _draw(axes, means, color=INK, linestyle="--", label="mean of the tasks seen")
            axes.set_title(printable(f"{method} ({block[0].weights} weights)" if block else method, limit=60))
            axes.set_xlabel("tasks learned")
            axes.set_xlim(0.8, tasks + 0.2)
            whole_ticks(axes)
        panels[0].set_ylabel("test accuracy (%)")
        lines = panels[0].get_legend_handles_labels()[0]
        several = any(len(row.means) > 1 for row in rows)
        figure.legend(handles=[*lines, *([band_key(GREY)] if several else [])], loc="outside lower left", ncols=5)
        add_title(figure, title)


def _draw(axes: Any, curve: dict[int, tuple[float, ...]], **style: Any) -> None:
    """Accuracies of the seeds by number of tasks learned: their mean in percent, and ±sd as a band."""
    after, mean, sd = per_epoch([(task, 100 * value) for value in values] for task, values in curve.items())
    draw_mean(axes, after, mean, sd, **style)
