"""Continual learning, read without torch: the accuracy on every task after every task, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onebit.errors import DataError
from onebit.report.runs import Group, flat_settings, unique_names
from onebit.report.wording import mean_sd, over_runs, percent, plus_minus, printable
from onebit.runs.task_grid import Cell, TaskTable, read_table
from onebit.train.history import TABLE_FILE, task_folders

NORMS = {"trained": "BatchNorm of the latest task", "reestimate": "BatchNorm of each task"}


@dataclass(frozen=True)
class TaskRun:
    """The contents of one folder of several tasks; name and settings as in `onebit.report.runs.Run`."""

    name: str
    settings: dict[str, Any]
    table: TaskTable


@dataclass(frozen=True)
class Row:
    """The accuracies on tasks 1, 2, … after the task `task`: for each of them, one value per training.

    method, weights, bn: see `Cell`.
    """

    method: str
    weights: str
    bn: str
    task: int
    accuracies: tuple[tuple[float, ...], ...]

    @property
    def means(self) -> tuple[float, ...]:
        """The mean over the tasks seen so far, for each training."""
        return tuple(sum(each) / len(each) for each in zip(*self.accuracies, strict=True))

    def __str__(self) -> str:
        each = " ".join(plus_minus(accuracies, "6.2f", scale=100) for accuracies in self.accuracies)
        mode = f"{self.weights} weights, {NORMS[self.bn]}"
        return f"{self.method} after task {self.task}: {each}  mean {percent(self.means)} ({mode})"


def task_rows(tables: Sequence[Sequence[Cell]]) -> list[Row]:
    """The table over the seeds of a training: a row for each method, test mode, BatchNorm statistics and task.

    Args:
        tables: the cells of each training; an unfinished training is missing in the rows of later tasks.
    """
    found: dict[tuple[tuple[str, str, str], int], list[list[float]]] = {}
    for cells in tables:
        for key in dict.fromkeys((cell.block, cell.task) for cell in cells):
            own = [cell.accuracy for cell in cells if (cell.block, cell.task) == key]
            found.setdefault(key, []).append(own)
    blocks = list(dict.fromkeys(block for block, _ in found))
    order = sorted(found, key=lambda key: (blocks.index(key[0]), key[1]))
    return [Row(*block, task, tuple(zip(*found[block, task], strict=True))) for block, task in order]


def group_rows(group: Group[TaskRun]) -> list[Row]:
    """The table of one group."""
    return task_rows([run.table.cells for run in group.runs])


def read_task_runs(folders: Sequence[Path]) -> list[TaskRun]:
    """Read folders of several tasks, as found by `find_folders`.

    Raises:
        DataError: a folder without a finished task.
        FormatError, UsageError: a damaged continual.json or recipe.yaml.
    """
    return [_read(folder, name) for folder, name in zip(folders, unique_names(folders), strict=True)]


def _read(folder: Path, name: str) -> TaskRun:
    if not (folder / TABLE_FILE).exists():
        first = task_folders(folder)[0]
        raise DataError(f"{folder}: no task is finished yet; continue with --resume {folder}, or report {first}")
    table = read_table(folder / TABLE_FILE)
    cells = tuple(
        replace(cell, method=printable(cell.method, limit=30), weights=printable(cell.weights, limit=30))
        for cell in table.cells
    )
    return TaskRun(name, flat_settings(folder), replace(table, cells=cells))


def compared_tasks(groups: Sequence[Group[TaskRun]]) -> list[dict[str, Any]]:
    """The results of the groups for JSON; for accuracies over seeds see `over_runs`."""
    return [
        {
            "label": group.label,
            "runs": [run.name for run in group.runs],
            "seeds": [run.settings.get("seed") for run in group.runs],
            "tasks": max(run.table.tasks for run in group.runs),
            "seconds": mean_sd([run.table.seconds for run in group.runs])[0],
            "table": [
                {
                    "method": row.method,
                    "weights": row.weights,
                    "bn": row.bn,
                    "task": row.task,
                    "seen": [over_runs(accuracies) for accuracies in row.accuracies],
                    "mean": over_runs(row.means),
                }
                for row in group_rows(group)
            ],
        }
        for group in groups
    ]
