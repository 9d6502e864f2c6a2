"""Continual learning: one net learns the same data set with a new permutation of its pixels, task after task.

Every task is a run in `OUT/METHOD/task-N` that starts from the weights of the previous one. An optimizer with the
option `prior` also takes the posterior of that run as its prior (Meng, Bachmann, Khan 2020, arXiv:2002.10778, section
4.3), so that weights which matter to earlier tasks hardly change. After each task the net is tested on every task seen
so far, each with its permutation; the net does not know the task.

BatchNorm has one set of statistics, as in the authors' code: those of the latest task (`trained`), each draw of an
ensemble with its own. The table also has the scores with statistics of the training images of the tested task
(`reestimate`), which a continual learner that keeps no old images does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from onebit.data import Dataset, permute_pixels
from onebit.errors import UsageError
from onebit.evaluation.modes import evaluate
from onebit.recipe import ContinualRecipe, Recipe, build_recipe, method_of, method_settings, with_method
from onebit.runs.folder import RunFolder
from onebit.runs.opening import open_run
from onebit.runs.result import Cell, RunResult, read_table
from onebit.runs.run import test_modes, train_part
from onebit.train.history import TABLE_FILE

PERMUTATIONS = 1_000
"""Most tasks of one seed; another seed has other permutations."""


def task_recipe(recipe: Recipe, task: int) -> Recipe:
    """The recipe of task 1, 2, …, with its permutation, and a prior from the second task on."""
    optimizer = recipe.optimizer
    if hasattr(optimizer, "prior"):
        prior: dict[str, Any] = {"prior": recipe.continual.prior and task > 1}
        optimizer = replace(optimizer, **prior)
    return replace(
        recipe,
        name=f"{recipe.name}-task-{task}",
        summary=f"task {task} of {recipe.continual.tasks} of {recipe.name}",
        measured="",
        permutation=recipe.seed * PERMUTATIONS + task,
        continual=ContinualRecipe(),
        draws=0,  # `test_seen` tests the ensemble
        optimizer=optimizer,
    )


def arms(recipe: Recipe) -> dict[str, Recipe]:
    """Method -> the recipe with which it learns all tasks: first that of `recipe`, then those it is compared with."""
    for name in ("first_stage", "permutation"):
        if getattr(recipe, name):
            raise UsageError(f"{name} does not work with continual.tasks")
    named = recipe.continual.own
    if named is not None:
        method_settings(named)
    found = {named or method_of(recipe) or recipe.model.weight_quantizer or "real": recipe}
    for name in recipe.continual.against:
        if name in found:
            raise UsageError(f"continual.against: got {name} twice")
        found[name] = build_recipe(with_method(recipe, name))
    return found


def _parts(recipe: Recipe, folder: RunFolder) -> list[tuple[str, int, Recipe, Recipe, RunFolder]]:
    """(method, task, recipe of the method and of the task, run folder) of all tasks, in order."""
    return [
        (method, task, own, task_recipe(own, task), folder / method / f"task-{task}")
        for method, own in arms(recipe).items()
        for task in range(1, recipe.continual.tasks + 1)
    ]


def _cells(folder: RunFolder) -> list[Cell]:
    table = folder.path / TABLE_FILE
    return list(read_table(table).cells) if table.exists() else []


def train_continual(
    recipe: Recipe,
    data: Dataset,
    folder: RunFolder,
    *,
    on_task: Callable[[str, int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Learn all tasks with every method of `arms`, and write continual.json after each.

    It continues after the tasks whose cells are in continual.json; a folder that resumes, within a task from its last
    checkpoint.

    Args:
        data: the data set, not permuted.
        on_task: called with the method and the task, unless it was finished before.
        options: of `train_part`, for each task.

    Returns:
        The content of continual.json: `cells`, and `test`, the final scores of the recipe's own method over all tasks,
        for each test mode.
    """
    cells = _cells(folder)
    done = {(cell.method, cell.task) for cell in cells}
    for method, task, own, asked, part in _parts(recipe, folder):
        if (method, task) in done:
            part.refuse_other(asked, data)
            continue
        before = folder / method / f"task-{task - 1}" if task > 1 else None
        permuted = permute_pixels(data, asked.permutation or 0)
        train_part(asked, permuted, part, start=before, **options)
        cells += test_seen(own, data, part.path, method=method, task=task)
        folder.write(TABLE_FILE, _result(recipe, data, folder.path, cells), indent=1)
        if on_task is not None:
            on_task(method, task)
    return _result(recipe, data, folder.path, cells)


def finished_tasks(recipe: Recipe, data: Dataset, folder: RunFolder) -> dict[str, Any] | None:
    """The result of `train_continual` in a folder with all tasks finished; else None."""
    cells, parts = _cells(folder), _parts(recipe, folder)
    if {part[:2] for part in parts} - {(cell.method, cell.task) for cell in cells}:
        return None
    for _, _, _, asked, part in parts:
        part.refuse_other(asked, data)
    return _result(recipe, data, folder.path, cells)


def test_seen(recipe: Recipe, data: Dataset, part: Path, *, method: str, task: int) -> list[Cell]:
    """Test the net of a task, in the run folder `part`, on all tasks seen so far."""
    run = open_run(part)
    shipped, *others = test_modes(run.model, draws=recipe.draws)
    latest = permute_pixels(data, task_recipe(recipe, task).permutation or 0).train
    modes: list[tuple[str, Any]] = [(mode, "trained") for mode in others if mode.startswith("ensemble")]
    modes += [(shipped, "trained"), (shipped, "reestimate")]
    cells = []
    for seen in range(1, task + 1):
        permuted = permute_pixels(data, task_recipe(recipe, seen).permutation or 0)
        for weights, bn in modes:
            # the statistics in the file are those of the signs; draws use images of the latest task
            found, train = ("auto", latest) if bn == "trained" else (bn, permuted.train)
            score = evaluate(run.model, permuted.test, weights=weights, bn=found, train=train, seed=recipe.seed)
            cells.append(Cell(method, task, seen, weights, bn, score.correct or 0, score.count, score.loss))
    return cells


def _result(recipe: Recipe, data: Dataset, folder: Path, cells: Sequence[Cell]) -> dict[str, Any]:
    """The content of continual.json."""
    own = cells[0].method
    last = max(cell.task for cell in cells if cell.method == own)
    runs = [result for part in sorted(folder.glob("*/task-*")) if (result := RunResult.read(part))]
    final = [cell for cell in cells if (cell.method, cell.task, cell.bn) == (own, last, "trained")]
    test = {}
    for weights in dict.fromkeys(cell.weights for cell in final):
        chosen = [cell for cell in final if cell.weights == weights]
        correct, count = sum(cell.correct for cell in chosen), sum(cell.count for cell in chosen)
        test[weights] = {
            "weights": weights,
            "bn": "trained",
            "correct": correct,
            "count": count,
            "accuracy": correct / count,
            "error": 1 - correct / count,
            "loss": sum(cell.loss * cell.count for cell in chosen) / count,
        }
    return {
        "recipe": recipe.name,
        "dataset": recipe.dataset,
        "note": data.note,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "tasks": recipe.continual.tasks,
        "test": test,
        "cells": [asdict(cell) for cell in cells],
        "seconds": sum(run.seconds or 0 for run in runs),
        "parameters": runs[0].values["parameters"],
        "folder": str(folder),
    }
