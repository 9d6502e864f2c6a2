"""One recipe trained with several seeds, a run folder each, and what they reached together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onebit.cli.output import percent, say
from onebit.cli.processes import way_on
from onebit.common.files import read_regular, write_atomic
from onebit.errors import FormatError, UsageError
from onebit.recipe import Recipe
from onebit.train.history import MOST_RESULT, holds_run, refuse_used

if TYPE_CHECKING:
    from onebit.train.ranks import Ranks

MOST_SEEDS = 1000
SUMMARY_FILE = "seeds.json"


def parse_seeds(text: str) -> list[int]:
    """The seeds of `0-4`, `0,3,7` or `0-2,7`.

    Raises:
        UsageError: none of these, a seed twice, or too many.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise UsageError(f"--seeds must be like 0-4 or 0,3,7, got {text!r}")
        if last - first + len(seeds) >= MOST_SEEDS:
            raise UsageError(f"--seeds {text}: at most {MOST_SEEDS} seeds")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {text}: a seed stands twice")
    return seeds


def seed_folder(folder: Path, seed: int) -> Path:
    """The run folder of one seed."""
    return folder / f"seed-{seed}"


def seed_folders(folder: Path) -> list[Path]:
    """The run folders of the seeds that a folder of several seeds holds."""
    return sorted(path.parent for path in folder.glob("seed-*/recipe.yaml"))


def refuse_used_folder(folder: Path, seeds: Sequence[int] | None, *, resume: bool) -> None:
    """Keep a training out of a folder that holds others.

    Args:
        seeds: of which run folders are asked for; None asks for the folder itself.

    Raises:
        UsageError: a run is there and `resume` was not asked for, the runs of several seeds where one is asked for, or
            a single run where several seeds are.
    """
    if seeds is None:
        found = seed_folders(folder)
        if found:
            raise UsageError(
                f"{folder} holds the runs of several seeds ({found[0].name} …): add --seeds, or name one of them"
            )
        refuse_used(folder, resume=resume)
        return
    if holds_run(folder):
        raise UsageError(f"{folder} holds a single run: leave --seeds out, or choose another --out")
    runs = [seed_folder(folder, seed) for seed in seeds]
    used = next((run for run in runs if holds_run(run)), None)
    if used is not None and not resume:
        raise UsageError(f"{used} holds a run already: add --resume or --overwrite, or choose another --out")


def train_seeds(
    recipe: Recipe,
    seeds: Sequence[int],
    folder: Path,
    *,
    train: Callable[[Recipe, Path], dict[str, Any]],
    resume: bool,
    ranks: Ranks,
) -> dict[str, Any]:
    """Train the recipe once for each seed into `folder/seed-N`; seeds.json is written anew after each.

    Args:
        train: trains one recipe into one folder and returns its result.json.
        resume: leave out the seeds that have a result.
        ranks: which process of several this is; one writes and talks.

    Returns:
        What stands in seeds.json.

    Raises:
        KeyboardInterrupt: with the command that goes on.
    """
    results: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for i, seed in enumerate(seeds, start=1):
        run = seed_folder(folder, seed)
        done = run / "result.json"
        if resume and ranks.first(done.exists):
            result = _stored(done, replace(recipe, seed=seed))
            told = "was trained before"
        else:
            try:
                result = train(replace(recipe, seed=seed), run)
            except KeyboardInterrupt:
                listed = ",".join(map(str, seeds))
                raise KeyboardInterrupt(f"interrupted; {way_on(folder, ranks, options=f'--seeds {listed} ')}") from None
            told = f"{result['seconds']:.1f} s"
        results.append(result)
        summary = summarise(recipe, results, folder)
        if ranks.writes:
            say(f"seed {seed} ({i} of {len(seeds)}, {told}): {'; '.join(outcome_lines(result)[:-1])}")
            write_atomic(folder / SUMMARY_FILE, (json.dumps(summary, indent=2) + "\n").encode())
    return summary


def _stored(path: Path, recipe: Recipe) -> dict[str, Any]:
    """The result of a finished run, if it is one of this recipe.

    Raises:
        CheckpointError: it is not. FormatError: a damaged file.
    """
    from onebit.runs.run import refuse_other_recipe

    refuse_other_recipe(path.parent, recipe)
    try:
        result = json.loads(read_regular(path, largest=MOST_RESULT))
        outcome_lines(result)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{path}: damaged ({type(error).__name__}); remove it to evaluate the run again") from None
    return result


def summarise(recipe: Recipe, results: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """The results of several seeds, and per test mode mean and sample standard deviation (None for one seed)."""
    from onebit.report.wording import over_runs

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
    """What one training reached, for people: a line for each test mode, and one that says of which training."""
    lines = [
        f"test accuracy {percent(score['accuracy'])} "
        f"({score['correct']:,} of {score['count']:,}) with {mode} weights"
        + ("" if score["bn"] == "trained" else ", BatchNorm re-estimated")
        + (f"; mean IoU {score['mean_iou']:.4f}, Dice {score['dice']:.4f}" if "mean_iou" in score else "")
        for mode, score in result["test"].items()
    ]
    if "tasks" in result:
        chosen = f"all {result['tasks']} tasks after the last one"
    else:
        chosen = f"epoch {result['chosen_epoch']}, chosen by {result['chosen_by']}"
    return [*lines, f"{chosen}; seed {result['seed']}; {result['seconds']:.1f} s; run folder {result['folder']}"]


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """What several seeds reached, for people."""
    from onebit.report.wording import percent as spread

    lines = []
    for mode, score in summary["test"].items():
        each = ", ".join(f"{100 * accuracy:.2f}" for accuracy in score["accuracies"])
        lines.append(f"test accuracy {spread(score['accuracies'])} with {mode} weights (n = {score['n']}: {each})")
    listed, folder = ", ".join(map(str, summary["seeds"])), summary["folder"]
    return [*lines, f"seeds {listed}; {summary['seconds']:.1f} s; onebit report {folder} -o DIR compares them"]
