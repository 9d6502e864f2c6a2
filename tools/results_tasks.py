"""Continual learning in docs/results.md: what the seeds of a recipe of several tasks measured, as table and sentence.

docs/results/NAME/seed-N.json is the continual.json of a seed and its precision, the one place of its figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import onebit
from onebit.runs.task_grid import Cell, read_table

wording = onebit.report.wording

NAME = "mnist-permuted-short"
FOLDER = Path("docs/results") / NAME
LEARNERS = {"bayesbinn": "BayesBiNN", "ste": "STE"}
STATISTICS = {"trained": "of the latest task", "reestimate": "of each task"}
Cells = Mapping[int, list[Cell]]
"""Seed -> the scores after its last task."""


def measured() -> str:
    """The results in one sentence, for the recipe."""
    cells = _after_the_last_task()
    seeds = f"{min(cells)}-{max(cells)}"
    [precision] = {json.loads(file.read_text(encoding="utf-8"))["precision"] for file in FOLDER.glob("seed-*.json")}
    parts = [f"{_name(row)} {_mean(cells, row)} (BatchNorm {STATISTICS[row[2]]})" for row in _rows(cells)]
    return (
        f"Mean test accuracy over the five tasks after the last one, each with its permutation: {'; '.join(parts)}; "
        f"seeds {seeds.replace('-', '–')}; 10 epochs a task; {precision}; onebit train {NAME} --seeds {seeds}"
    )


def table() -> str:
    """A row for each method, test mode and BatchNorm statistics, with the accuracy in % on each task."""
    cells = _after_the_last_task()
    tasks = range(1, 1 + max(cell.seen for cell in next(iter(cells.values()))))
    lines = [f"| method, weights | BatchNorm | task 1 | {' | '.join(map(str, tasks[1:]))} | mean |"]
    lines.append("|---" * (len(tasks) + 3) + "|")
    for row in _rows(cells):
        figures = [
            wording.plus_minus(
                [cell.accuracy for one in cells.values() for cell in one if cell.block == row and cell.seen == task],
                ".1f",
                scale=100,
            )
            for task in tasks
        ]
        lines.append(f"| {_name(row)} | {STATISTICS[row[2]]} | {' | '.join(figures)} | **{_mean(cells, row)}** |")
    return "\n".join(lines)


def _after_the_last_task() -> Cells:
    files = {int(file.stem[5:]): read_table(file) for file in FOLDER.glob("seed-*.json")}
    return {seed: [cell for cell in table.cells if cell.task == table.tasks] for seed, table in sorted(files.items())}


def _rows(cells: Cells) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys(cell.block for cell in next(iter(cells.values()))))


def _name(row: tuple[str, str, str]) -> str:
    method, weights, _ = row
    return f"{LEARNERS[method]}, {weights}"


def _mean(cells: Cells, row: tuple[str, str, str]) -> str:
    """Over the tasks of each seed; then mean and standard deviation of the seeds."""
    accuracies = [[cell.accuracy for cell in one if cell.block == row] for one in cells.values()]
    return wording.percent([sum(one) / len(one) for one in accuracies])
