"""The data of a trained net: where they lay when it was trained, and whether their labels mean the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onebit.data import DATASETS, Dataset, Progress, refuse_other_classes
from onebit.errors import DataError, UsageError
from onebit.recipe import Recipe
from onebit.runs.run import Run, load_recipe_data
from onebit.train.files import PLACE_FILE, remembered_place


def load_run_data(
    run: Run, *, dataset: str | None = None, directory: str | Path | None = None, progress: Progress | None = None
) -> Dataset:
    """The data that a net was trained on, or others with the same classes.

    Args:
        dataset: another one than the recipe's.
        directory: where they lie; where they lay in the training when nothing else names a place.

    Raises:
        UsageError: other classes than those of the net, or own arrays of an unknown place.
        DataError: not there, or damaged.
    """
    recipe = run.recipe if dataset is None else replace(run.recipe, dataset=dataset, validation=None)
    place = remembered_place(run.source.parent) if recipe.dataset == run.recipe.dataset else None
    if dataset is None and recipe.dataset not in DATASETS and directory is place is None:
        raise UsageError(
            f"{run.source}: was trained on {recipe.dataset!r}, which is no data set of onebit: "
            "name a file of its arrays with --data FILE.npz"
        )
    data = load_from_place(recipe, place, directory=directory, progress=progress)
    refuse_other_classes(data, run.facts.get("classes"), source=str(run.source))
    return data


def load_from_place(
    recipe: Recipe,
    place: Path | None,
    *,
    directory: str | Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The data of a recipe; where neither `directory` nor `ONEBIT_DATA` leads to them, those of a remembered place.

    Raises:
        DataError: they are not there, or damaged. UsageError, UnknownNameError: see `load_dataset`.
    """
    if directory is not None or place is None:
        return load_recipe_data(recipe, directory=directory, progress=progress)
    if recipe.dataset in DATASETS:
        try:
            return load_recipe_data(recipe, progress=progress)
        except DataError as error:
            if not place.exists():
                raise DataError(f"{error}; it was trained on {place}, which is not there any more") from None
    return load_recipe_data(recipe, directory=place, progress=progress)


def place_of_training(folder: Path) -> Path | None:
    """Where the data of a training lay that is to go on: one run, or several of seeds, stages or tasks."""
    folders = [folder, *sorted(path.parent for path in folder.glob(f"*/**/{PLACE_FILE}"))]
    return next(filter(None, map(remembered_place, folders)), None)
