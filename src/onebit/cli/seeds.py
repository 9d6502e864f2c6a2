"""One recipe trained with several seeds, a run folder each, and their results."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onebit.cli.output import say
from onebit.errors import CheckpointError, FormatError, UsageError
from onebit.recipe import Recipe
from onebit.runs.folder import SEEDS_FILE, RunFolder
from onebit.runs.result import RunResult
from onebit.train.history import reported_weights

if TYPE_CHECKING:
    from onebit.data import Dataset


def parse_seeds(text: str) -> list[int]:
    """The seeds of `0-4`, `0,3,7` or `0-2,7`; UsageError for other text."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise UsageError(f"--seeds must be like 0-4 or 0,3,7, got {text!r}")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def train_seeds(
    recipe: Recipe,
    seeds: Sequence[int],
    folder: RunFolder,
    *,
    data: Dataset,
    train: Callable[[Recipe, RunFolder], dict[str, Any]],
) -> dict[str, Any]:
    """Train the recipe once for each seed into `folder/seed-N`; on resume, only the seeds without a result.

    Returns seeds.json, which is written after each seed, with the results of all finished seeds in the folder.
    `train` trains one recipe into one folder and returns its result.json.
    """
    from onebit.report.tables import outcome_lines, summarize

    results = folder.first(lambda: _finished(recipe, data, folder))
    summary: dict[str, Any] = {}
    for i, seed in enumerate(seeds, start=1):
        if folder.resume and seed in results:
            result = results[seed]
            time = "already trained"
        else:
            result = train(replace(recipe, seed=seed), folder.seed(seed))
            time = f"{result['seconds']:.1f} s"
        results[seed] = result
        summary = summarize(recipe, [results[each] for each in sorted(results)], folder.path)
        say(f"seed {seed} ({i} of {len(seeds)}, {time}): {'; '.join(outcome_lines(result)[:-1])}")
        folder.write(SEEDS_FILE, summary)
    return summary


def _finished(recipe: Recipe, data: Dataset, folder: RunFolder) -> dict[int, dict[str, Any]]:
    """Seed -> result of the finished runs in a folder; CheckpointError if one has another recipe or other data."""
    from onebit.runs.continual import finished_tasks

    found = {}
    for run in folder.seeds():
        if not (number := re.fullmatch(r"seed-(\d+)", run.name)):
            continue
        seed = int(number[1])
        seeded = replace(recipe, seed=seed)
        RunFolder(run).refuse_other(seeded, data)
        if recipe.continual.tasks:
            values = finished_tasks(seeded, data, RunFolder(run))
        else:
            result = RunResult.read(run)
            values = None if result is None else result.values
            if result is not None and reported_weights(run, result.sha256)[1]:
                raise FormatError(f"{run}/result.json belongs to other weights than those beside it; remove it")
        if values is None:
            continue
        if values.get("note", data.note) != data.note:
            raise CheckpointError(f"{run}: was trained on other data ({values['note']}) than these ({data.note})")
        found[seed] = values
    return found
