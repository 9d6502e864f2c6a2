"""The data of a trained net: where they were during training, and whether their labels mean the same."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from onebit.data import DATASETS, Dataset, Progress, named_as, refuse_other_classes
from onebit.errors import DataError, UsageError
from onebit.recipe import Recipe
from onebit.runs.run import Run, load_recipe_data
from onebit.train.files import is_of_other_files, remembered_place
from onebit.train.history import PLACE_FILE

OTHER_FILES = "these are not the files of the training: it may have seen their test images"
"""The note on own data that changed since the training, or that are named in place of those of the training."""


def load_run_data(
    run: Run, *, dataset: str | None = None, directory: str | Path | None = None, progress: Progress | None = None
) -> Dataset:
    """The data that a net was trained on, or others with the same classes.

    Args:
        dataset: instead of the recipe's.
        directory: of the data; where they were during training when nothing else names a place.

    Returns:
        The data; their note says so if they are the user's own and not those of the training.
    """
    recipe, folder = run.recipe, run.source.parent
    same_name = dataset in (None, recipe.dataset)
    if not same_name:
        recipe = replace(recipe, dataset=dataset or "", validation=None)
    if not recipe.dataset:
        raise UsageError(f"{run.source}: the data that its net was trained on are not stored: name them with --dataset")
    place = remembered_place(folder) if same_name else None
    data = load_from_place(recipe, place, directory=directory, progress=progress)
    data = named_as(data, run.facts.get("classes"))
    refuse_other_classes(data, run.facts.get("classes"), source=str(run.source))
    return data.noted(OTHER_FILES) if same_name and is_of_other_files(folder, data) else data


def load_from_place(
    recipe: Recipe, place: Path | None, *, directory: str | Path | None = None, progress: Progress | None = None
) -> Dataset:
    """The data of a recipe; from a remembered place if neither `directory` nor `ONEBIT_DATA` names one."""
    if directory is None and place is not None and recipe.dataset in DATASETS:
        with suppress(DataError):
            return load_recipe_data(recipe, progress=progress)
    return load_recipe_data(recipe, directory=directory or place, progress=progress)


def place_of_training(folder: Path) -> Path | None:
    """The stored place of the data of a training to resume: one run, or several seeds, stages or tasks."""
    folders = [folder, *sorted(path.parent for path in folder.glob(f"*/**/{PLACE_FILE}"))]
    return next(filter(None, map(remembered_place, folders)), None)
