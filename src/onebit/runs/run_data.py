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
OTHER_WHITENING = "the whitening is fitted to these data, not to those of the training: the accuracy may be too low"


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
    recipe = run.recipe
    if dataset not in (None, recipe.dataset):
        recipe = replace(recipe, dataset=dataset, validation=None)
    place = remembered_place(run.source.parent) if recipe.dataset == run.recipe.dataset else None
    if not recipe.dataset:
        raise UsageError(f"{run.source}: the data that its net was trained on are not stored: name them with --dataset")
    data = load_from_place(recipe, place, directory=directory, progress=progress)
    data = named_as(data, run.facts.get("classes"))
    refuse_other_classes(data, run.facts.get("classes"), source=str(run.source))
    same_name = recipe.dataset == run.recipe.dataset
    if others := same_name and is_of_other_files(run.source.parent, data):
        data = data.noted(OTHER_FILES)
    if recipe.whitening is not None and (others or not same_name):
        data = data.noted(OTHER_WHITENING)
    return data


def are_other_files(data: Dataset) -> bool:
    """Whether data have the note on other files than those of the training."""
    return OTHER_FILES in data.note


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
