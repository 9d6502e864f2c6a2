"""The tables of a report: as numbers for JSON, and as text for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from onebit.common.text import NetSize, size, table
from onebit.report.run_folders import Group, RunResults, tests_by_mode
from onebit.report.tasks import NORMS, Row, TaskRun, group_rows
from onebit.report.wording import MISSING, mean_sd, number_range, over_runs, percent, share, spread
from onebit.train.history import time_left


class Table(NamedTuple):
    """Cells below a heading; the columns `right` are aligned right. `str` is the table for a terminal."""

    heading: str
    head: list[str]
    rows: list[list[str]]
    right: Sequence[int] = ()
    note: str = ""

    def __str__(self) -> str:
        return table([self.head, *self.rows], right=self.right)


def run_numbers(group: Group[RunResults]) -> dict[str, Any]:
    """The row of a group for JSON, see `onebit.report.compare_runs`."""
    best = [run.history.best for run in group.runs]
    validation = [1 - row.validation_error for row in best if row.validation_error is not None]
    net = next((run.size for run in group.runs if run.size is not None), None)
    masks = _mask_numbers(group)
    return {
        "label": group.label,
        "runs": [run.name for run in group.runs],
        "seeds": [run.settings.get("seed") for run in group.runs],
        "epochs": [run.history.rows[-1].epoch for run in group.runs],
        "planned_epochs": [run.history.rows[-1].epochs for run in group.runs],
        "finished": group.runs[0].finished,
        "seconds": mean_sd([run.seconds for run in group.runs])[0],
        "size": net and net._asdict(),
        "validation": over_runs(validation) if validation else None,
        "test": {mode: over_runs(scores) for mode, scores in tests_by_mode(group.runs, "accuracy").items()},
        **({"masks": masks} if masks else {}),
    }


def _mask_numbers(group: Group[RunResults]) -> list[dict[str, Any]]:
    """Mean IoU and Dice for the validation and each test mode; empty for runs that classify whole images."""
    rows: list[dict[str, Any]] = []
    best = [run.history.best for run in group.runs]
    if validated := [row.validation_mean_iou for row in best if row.validation_mean_iou is not None]:
        modes = " and ".join(sorted({row.validation_weights for row in best}))
        rows.append({"split": "validation", "weights": modes, "mean_iou": spread(validated)})
    dice = tests_by_mode(group.runs, "dice")
    for mode, mean_iou in tests_by_mode(group.runs, "mean_iou").items():
        row = {"split": "test", "weights": mode, "mean_iou": spread(mean_iou)}
        rows.append(row | ({"dice": spread(dice[mode])} if mode in dice else {}))
    return rows


def task_numbers(group: Group[TaskRun]) -> dict[str, Any]:
    """The table of a group of several tasks for JSON, see `onebit.report.compare_tasks`."""
    return {
        "label": group.label,
        "runs": [run.name for run in group.runs],
        "seeds": [run.settings.get("seed") for run in group.runs],
        "tasks": max(run.table.tasks for run in group.runs),
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


def run_tables(groups: Sequence[Group[RunResults]]) -> list[Table]:
    """The comparison, a row for each group and a column for each test mode; and the masks, if there are some."""
    if not groups:
        return []
    rows = [run_numbers(group) for group in groups]
    modes = list(dict.fromkeys(mode for row in rows for mode in row["test"]))
    head = ["recipe", "binary weights", "packed size", *(f"test accuracy, {mode}" for mode in modes)]
    head += ["validation accuracy", "runs", "epochs", "time"]
    cells = [_comparison(row, modes) for row in rows]
    compared = Table("Comparison", head, cells, range(1, len(head)), _comparison_note(groups, modes))
    masks = [
        [row["label"], mask["split"], mask["weights"]]
        + [share(mask[key]["values"]) if key in mask else MISSING for key in ("mean_iou", "dice")]
        for row in rows
        for mask in row.get("masks", ())
    ]
    note = "Means over the classes; pixels are counted over all images first. The epoch with the highest mean IoU on "
    note += "the validation images is tested."
    head = ["recipe", "images", "weights", "mean IoU", "Dice"]
    return [compared, *([Table("Masks", head, masks, (3, 4), note)] if masks else [])]


def _comparison(row: Mapping[str, Any], modes: Sequence[str]) -> list[str]:
    net = row["size"]
    scores = [*(row["test"].get(mode) for mode in modes), row["validation"]]
    unfinished = "" if row["finished"] else f" of {number_range(row['planned_epochs'])}, unfinished"
    return [
        row["label"],
        *([NetSize(**net).share, size(net["bytes"])] if net else [MISSING, MISSING]),
        *(percent(score["accuracies"]) if score else MISSING for score in scores),
        str(len(row["runs"])),
        number_range(row["epochs"]) + unfinished,
        time_left(row["seconds"]),
    ]


def _comparison_note(groups: Sequence[Group[RunResults]], modes: Sequence[str]) -> str:
    runs = [run for group in groups for run in group.runs]
    note = "" if modes else "No run has been tested yet."
    if again := [mode for mode, kinds in tests_by_mode(runs, "bn").items() if "reestimate" in kinds]:
        note += f" BatchNorm was re-estimated for {', '.join(again)} weights."
    if len(runs) > len(groups):
        note += " ± is the sample standard deviation (n − 1) over the seeds of a row."
    return note.strip()


def task_tables(rows: Sequence[Row], *, about: str = "") -> list[Table]:
    """The accuracy on every task after every task: a table for each method, test mode and BatchNorm statistics."""
    tables = []
    for (method, weights, bn), block in groupby(rows, key=attrgetter("method", "weights", "bn")):
        own = list(block)
        most = own[-1].task
        cells = [
            [f"after task {row.task}", *map(percent, row.accuracies), *[""] * (most - row.task), percent(row.means)]
            for row in own
        ]
        head = ["test accuracy", *(f"task {seen}" for seen in range(1, most + 1)), "mean"]
        heading = f"{about}{method}, {weights} weights, {NORMS[bn]}"
        tables.append(Table(heading, head, cells, range(1, len(head))))
    return tables
