"""What `tools.results` states of training on several tasks, one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import onebit
from onebit.runs.result import read_table

wording = onebit.report.wording

FOLDER = Path("docs/results")
TASKS = "mnist-permuted-short"
"""The recipe of several tasks."""
LEARNERS = {"bayesbinn": "BayesBiNN", "ste": "STE"}
STATISTICS = {"trained": "of the latest task", "reestimate": "of each task"}
Grid = dict[tuple[str, ...], list[list[float]]]
"""(method, weights, BatchNorm) -> seed -> the accuracy on each task after the last one."""


def task_grid() -> tuple[Grid, dict[int, Path]]:
    """The accuracies, and the file of each seed."""
    files = {int(file.stem[5:]): file for file in sorted((FOLDER / TASKS).glob("seed-*.json"))}
    grid: Grid = {}
    for file in files.values():
        table = read_table(file)
        last = [cell for cell in table.cells if cell.task == table.tasks]
        for block in dict.fromkeys(cell.block for cell in last):
            grid.setdefault(block, []).append([cell.accuracy for cell in last if cell.block == block])
    return grid, files


def tasks_measured() -> str:
    """The results of several tasks in one sentence, for the recipe."""
    grid, files = task_grid()
    seeds = f"{min(files)}-{max(files)}"
    [precision] = {json.loads(file.read_text(encoding="utf-8"))["precision"] for file in files.values()}
    parts = [f"{_learner(row)} {_mean(of)} (BatchNorm {STATISTICS[row[2]]})" for row, of in grid.items()]
    return (
        f"Mean test accuracy over the five tasks after the last one, each with its permutation: {'; '.join(parts)}; "
        f"seeds {seeds.replace('-', '–')}; 10 epochs a task; {precision}; onebit train {TASKS} --seeds {seeds}"
    )


def tasks_table() -> str:
    """A row for each method, test mode and BatchNorm statistics, with the accuracy in % on each task."""
    grid, _ = task_grid()
    count = len(next(iter(grid.values()))[0])
    lines = [f"| method, weights | BatchNorm | task 1 | {' | '.join(map(str, range(2, count + 1)))} | mean |"]
    lines.append("|---" * (count + 3) + "|")
    for row, of in grid.items():
        figures = [wording.plus_minus(list(column), ".1f", scale=100) for column in zip(*of, strict=True)]
        lines.append(f"| {_learner(row)} | {STATISTICS[row[2]]} | {' | '.join(figures)} | **{_mean(of)}** |")
    return "\n".join(lines)


def _learner(row: Sequence[str]) -> str:
    return f"{LEARNERS[row[0]]}, {row[1]}"


def _mean(seeds: Iterable[Sequence[float]]) -> str:
    """The mean over tasks, then mean and standard deviation over seeds."""
    return str(wording.percent([sum(one) / len(one) for one in seeds]))
