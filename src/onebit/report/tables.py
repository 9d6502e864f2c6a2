"""The results of runs: as numbers for JSON, as tables for the terminal and the page, and in the lines of `train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from onebit.common.text import NetSize, size, table
from onebit.recipe import Recipe
from onebit.report.run_folders import Group, tests_by_mode
from onebit.report.tasks import NORMS, Row, group_rows, task_rows
from onebit.report.wording import MISSING, mean_and_sd, mean_sd, number_range, over_runs, percent, share
from onebit.runs.result import CLASS_SCORES, Cell, RunResult
from onebit.train.history import time_left

MAX_COLUMNS = 20
"""Most classes of which a table shows the confusions."""


class Table(NamedTuple):
    """Cells below a heading; the columns `right` are aligned right. `str` is the table for a terminal."""

    heading: str
    head: list[str]
    rows: list[list[str]]
    right: Sequence[int] = ()
    note: str = ""

    def __str__(self) -> str:
        text = table([self.head, *self.rows], right=self.right)
        return f"{self.heading}:\n{text}" if self.heading else text


def report_numbers(groups: Sequence[Group]) -> dict[str, list[dict[str, Any]]]:
    """A report for JSON: `rows` of `onebit.report.compare_runs`, and `tasks` of `compare_tasks` if there are some."""
    tasks = [task_numbers(group) for group in groups if group.tasks]
    return {"rows": [run_numbers(group) for group in groups if not group.tasks], **({"tasks": tasks} if tasks else {})}


def run_numbers(group: Group) -> dict[str, Any]:
    """The row of a group for JSON, see `onebit.report.compare_runs`."""
    runs, results = group.runs, [run.result for run in group.runs]
    best = [run.history.best for run in runs]
    validation = [1 - row.validation_error for row in best if row.validation_error is not None]
    net = next((result.size for result in results if result.size is not None), None)
    masks: list[dict[str, Any]] = []
    if validated := [row.validation_mean_iou for row in best if row.validation_mean_iou is not None]:
        modes = " and ".join(sorted({row.validation_weights for row in best}))
        masks.append({"split": "validation", "weights": modes, "mean_iou": mean_and_sd(validated)})
    dice = tests_by_mode(results, "dice")
    for mode, mean_iou in tests_by_mode(results, "mean_iou").items():
        mask = {"split": "test", "weights": mode, "mean_iou": mean_and_sd(mean_iou)}
        masks.append(mask | ({"dice": mean_and_sd(dice[mode])} if mode in dice else {}))
    seconds = [run.history.seconds if run.result.seconds is None else run.result.seconds for run in runs]
    return {
        "label": group.label,
        "runs": [run.name for run in runs],
        "seeds": [run.settings.get("seed") for run in runs],
        "epochs": [run.history.rows[-1].epoch for run in runs],
        "planned_epochs": [run.history.rows[-1].epochs for run in runs],
        "finished": runs[0].finished,
        "seconds": mean_sd(seconds)[0],
        "size": net and net._asdict(),
        "validation": over_runs(validation) if validation else None,
        "test": {mode: over_runs(scores) for mode, scores in tests_by_mode(results, "accuracy").items()},
        **({"masks": masks} if masks else {}),
    }


def task_numbers(group: Group) -> dict[str, Any]:
    """The table of a group of several tasks for JSON, see `onebit.report.compare_tasks`."""
    return {
        "label": group.label,
        "runs": [run.name for run in group.runs],
        "seeds": [run.settings.get("seed") for run in group.runs],
        "tasks": group.tasks,
        "seconds": mean_sd([run.table.seconds for run in group.runs])[0],
        "table": [
            {
                **{name: getattr(row, name) for name in ("method", "weights", "bn", "task")},
                "seen": [over_runs(accuracies) for accuracies in row.accuracies],
                "mean": over_runs(row.means),
            }
            for row in group_rows(group)
        ],
    }


def report_tables(groups: Sequence[Group]) -> list[Table]:
    """The comparison, a row for each group and a column for each test mode; the masks; and all tables of tasks."""
    rows = report_numbers(groups)["rows"]
    modes = list(dict.fromkeys(mode for row in rows for mode in row["test"]))
    head = ["recipe", "binary weights", "packed size", *(f"test accuracy, {mode}" for mode in modes)]
    head += ["validation accuracy", "runs", "epochs", "time"]
    cells = []
    for row in rows:
        net = NetSize(**row["size"]) if row["size"] else None
        scores = [*(row["test"].get(mode) for mode in modes), row["validation"]]
        unfinished = "" if row["finished"] else f" of {number_range(row['planned_epochs'])}, unfinished"
        cells.append(
            [
                row["label"],
                *([net.share, size(net.bytes)] if net else [MISSING, MISSING]),
                *(percent(score["accuracies"]) if score else MISSING for score in scores),
                str(len(row["runs"])),
                number_range(row["epochs"]) + unfinished,
                time_left(row["seconds"]),
            ]
        )
    note = "± is the sample standard deviation (n − 1) over the seeds of a row."
    norms = tests_by_mode([run.result for group in groups for run in group.runs], "bn")
    if again := [mode for mode, kinds in norms.items() if "reestimate" in kinds]:
        note += f" BatchNorm was re-estimated for {', '.join(again)} weights."
    tables = [Table("Comparison", head, cells, range(1, len(head)), note)] if rows else []
    masks = [
        [row["label"], mask["split"], mask["weights"]]
        + [share(mask[key]["values"]) if key in mask else MISSING for key in ("mean_iou", "dice")]
        for row in rows
        for mask in row.get("masks", ())
    ]
    note = "Means over the classes, over all pixels. The tested epoch is the one with the highest validation mean IoU."
    head = ["recipe", "images", "weights", "mean IoU", "Dice"]
    tables += [Table("Masks", head, masks, (3, 4), note)] if masks else []
    return tables + [table for group in groups for table in task_tables(group_rows(group), about=f"{group.label}: ")]


def class_table(heading: str, scores: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table | None:
    """The scores of each class, over runs on the same classes, and the summed confusions; None without such scores."""
    keys = [key for key in CLASS_SCORES if all(score.get(key) for score in scores)]
    count = len(scores[0][keys[0]]) if keys else 0
    if not keys or any(len(score[key]) != count for score in scores for key in keys):
        return None
    names = names if len(names) == count else [*map(str, range(count))]
    rows, head = [], ["class", *(CLASS_SCORES[key] for key in keys)]
    for k, name in enumerate(names):
        values = ([float(score[key][k]) for score in scores if score[key][k] is not None] for key in keys)
        rows.append([name, *(share(known) if known else MISSING for known in values)])
    confusions = [[list(row) for row in score.get("confusion") or ()] for score in scores]
    if count <= MAX_COLUMNS and all([*map(len, rows_of)] == [count] * count for rows_of in confusions):
        total = [[sum(map(int, cells)) for cells in zip(*of, strict=True)] for of in zip(*confusions, strict=True)]
        rows = [[*row, *(f"{cell:,}" for cell in cells)] for row, cells in zip(rows, total, strict=True)]
        head += names
    note = "A row for each true class. The columns of classes count what its samples were taken for."
    return Table(heading, head, rows, range(1, len(head)), note)


def class_tables(groups: Sequence[Group]) -> list[Table]:
    """`class_table` of each group, in the first test mode."""
    tables = []
    for group in groups:
        results = [run.result for run in group.runs]
        for mode in [*results[0].test][:1]:
            scores = [result.test[mode] for result in results if mode in result.test]
            tables.append(class_table(f"Classes of {group.label}, {mode} weights", scores, results[0].classes))
    return [table for table in tables if table is not None]


def task_tables(rows: Sequence[Row], *, about: str = "") -> list[Table]:
    """The accuracy on every task after every task: a table for each method, test mode and BatchNorm statistics."""
    tables = []
    for (method, weights, bn), block in groupby(rows, key=attrgetter("method", "weights", "bn")):
        block_rows = list(block)
        most = block_rows[-1].task
        cells = [
            [f"after task {row.task}", *map(percent, row.accuracies), *[""] * (most - row.task), percent(row.means)]
            for row in block_rows
        ]
        head = ["test accuracy", *(f"task {seen}" for seen in range(1, most + 1)), "mean"]
        heading = f"{about}{method}, {weights} weights, {NORMS[bn]}"
        tables.append(Table(heading, head, cells, range(1, len(head))))
    return tables


def summarize(recipe: Recipe, results: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """The results of several seeds, and per test mode mean and sample standard deviation (None for one seed)."""
    accuracies = tests_by_mode([RunResult(dict(result)) for result in results], "accuracy")
    return {
        "recipe": recipe.name,
        "dataset": recipe.dataset,
        "epochs": recipe.epochs,
        "seeds": [result["seed"] for result in results],
        "test": {mode: over_runs(scores) for mode, scores in accuracies.items()},
        "seconds": sum(result["seconds"] for result in results),
        "parameters": results[-1]["parameters"],
        "folder": str(folder),
        "runs": list(results),
    }


def outcome_lines(result: Mapping[str, Any]) -> list[str]:
    """The result of one training: a line for each test mode, and one about the training."""
    lines = [
        f"test accuracy {100 * score['accuracy']:.2f} % "
        f"({score['correct']:,} of {score['count']:,}) with {mode} weights"
        + ("" if score["bn"] == "trained" else ", BatchNorm re-estimated")
        + (f"; mean IoU {score['mean_iou']:.4f}, Dice {score['dice']:.4f}" if "mean_iou" in score else "")
        for mode, score in result["test"].items()
    ]
    if "tasks" in result:
        chosen = f"all {result['tasks']} tasks after the last one"
    else:
        stopped = f"stopped after epoch {result['last_epoch']}; " if result["last_epoch"] < result["epochs"] else ""
        chosen = f"{stopped}epoch {result['chosen_epoch']}, chosen by {result['chosen_by']}"
    end = f"{chosen}; seed {result['seed']}; {result['seconds']:.1f} s; run folder {result['folder']}"
    return [*lines, *_size_lines(result), end]


def _size_lines(result: Mapping[str, Any]) -> list[str]:
    """How much of the net is binary; empty for several tasks."""
    size = RunResult(dict(result)).size
    return [str(size)] if size else []


def result_lines(result: Mapping[str, Any]) -> list[str]:
    """The result of a run, of several seeds, or of several tasks: scores, and a line about the training."""
    if "runs" in result:
        lines = []
        for mode, score in result["test"].items():
            each = ", ".join(f"{100 * accuracy:.2f}" for accuracy in score["accuracies"])
            lines.append(f"test accuracy {percent(score['accuracies'])} with {mode} weights (n = {score['n']}: {each})")
        seeds, folder = ", ".join(map(str, result["seeds"])), result["folder"]
        end = f"seeds {seeds}; {result['seconds']:.1f} s; onebit report {folder} -o DIR compares them"
        return [*lines, *_size_lines(result["runs"][-1]), end]
    if "tasks" in result:
        end = f"seed {result['seed']}; {result['seconds']:.1f} s; table and picture in {result['folder']}"
        return [*map(str, task_tables(result_rows(result))), end]
    return outcome_lines(result)


def result_rows(result: Mapping[str, Any]) -> list[Row]:
    """The table of a training on several tasks."""
    return task_rows([[Cell(**cell) for cell in result["cells"]]])
