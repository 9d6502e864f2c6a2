"""The results of training runs in words: what `onebit train` prints at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from onebit.recipe import Recipe
from onebit.report.tables import task_tables
from onebit.report.tasks import Row, task_rows
from onebit.report.wording import over_runs, percent
from onebit.runs.result import RunResult
from onebit.runs.task_grid import Cell


def summarize(recipe: Recipe, results: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """The results of several seeds, and per test mode mean and sample standard deviation (None for one seed)."""
    modes = dict.fromkeys(mode for result in results for mode in result["test"])
    return {
        "recipe": recipe.name,
        "dataset": recipe.dataset,
        "epochs": recipe.epochs,
        "seeds": [result["seed"] for result in results],
        "test": {
            mode: over_runs([result["test"][mode]["accuracy"] for result in results if mode in result["test"]])
            for mode in modes
        },
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
        chosen = f"epoch {result['chosen_epoch']}, chosen by {result['chosen_by']}"
    end = f"{chosen}; seed {result['seed']}; {result['seconds']:.1f} s; run folder {result['folder']}"
    return [*lines, *_size_lines(result), end]


def _size_lines(result: Mapping[str, Any]) -> list[str]:
    """How much of the net is binary; nothing if the result does not say it, as that of several tasks."""
    size = RunResult(dict(result)).size
    return [str(size)] if size else []


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The results of several seeds: a line for each test mode, and one about the training runs."""
    lines = []
    for mode, score in summary["test"].items():
        each = ", ".join(f"{100 * accuracy:.2f}" for accuracy in score["accuracies"])
        lines.append(f"test accuracy {percent(score['accuracies'])} with {mode} weights (n = {score['n']}: {each})")
    listed, folder = ", ".join(map(str, summary["seeds"])), summary["folder"]
    end = f"seeds {listed}; {summary['seconds']:.1f} s; onebit report {folder} -o DIR compares them"
    return [*lines, *_size_lines(summary["runs"][-1]), end]


def task_lines(result: Mapping[str, Any]) -> list[str]:
    """The accuracy on every task after every task: tables, each below its heading."""
    tables = [[f"{table.heading}:", *str(table).split("\n")] for table in task_tables(result_rows(result))]
    end = f"seed {result['seed']}; {result['seconds']:.1f} s; table and picture in {result['folder']}"
    return [*chain(*tables), end]


def result_rows(result: Mapping[str, Any]) -> list[Row]:
    """The table of a training on several tasks."""
    return task_rows([[Cell(**cell) for cell in result["cells"]]])
