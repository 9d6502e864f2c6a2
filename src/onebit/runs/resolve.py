"""Resolve a recipe for this machine, and check all that can be checked before data are read."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from onebit.data import DATASETS, Dataset, DatasetEntry, Split, TrainingSamples, refuse_held_out
from onebit.errors import UsageError
from onebit.nets import is_packed
from onebit.recipe import Recipe
from onebit.runs.continual import arms, task_recipe
from onebit.runs.model import build_model
from onebit.runs.names import check_names
from onebit.runs.run import first_stage
from onebit.runs.training import Machine, prepare, resolve_machine, training_of
from onebit.train.ranks import ALONE, Ranks
from onebit.train.step import count_steps, plan_batches
from onebit.train.weights import weight_file

SIDE = 224
"""Assumed side of images of unknown size, which every model takes."""
MANY = 1_000_000
"""Assumed number of images if it is unknown, so that no batch is too large."""


def resolve(recipe: Recipe, *, ranks: Ranks = ALONE) -> Machine:
    """Check a recipe once, before any data are read, and return the machine that trains it.

    Refuses unknown names, devices, options, sizes, and missing files. Nets are built on the meta device,
    without memory for weights, with their optimizers. For data sets with fixed content, the number and size of images
    and the number of classes are checked, too.

    Args:
        ranks: this process among several.
    """
    check_names(recipe)
    machine = resolve_machine(recipe, ranks)
    for path in filter(None, (recipe.init_from, recipe.teacher)):
        if not is_packed(path):
            weight_file(Path(path))
    if recipe.continual.tasks and ranks.world > 1:
        raise UsageError(f"several tasks are learned by one process, got {ranks.world}")
    for part in _parts(recipe):
        _check_training(part, processes=ranks.world)
    return machine


def _parts(recipe: Recipe) -> list[Recipe]:
    """The recipes to train: of stages, of the methods that learn tasks, or one."""
    if recipe.continual.tasks:
        return [task_recipe(arm, 1) for arm in arms(recipe).values()]
    return [first_stage(recipe), recipe] if recipe.first_stage else [recipe]


def _check_training(recipe: Recipe, *, processes: int) -> None:
    """Build one training on the meta device."""
    entry = DATASETS.get(recipe.dataset)  # None for arrays of the user
    data = None if entry is None or entry.masks or entry.counts is None else _stand_in(recipe, entry)
    shape, classes = (
        (data.input_shape, len(data.classes)) if data else recipe.model.likely_data(recipe.input_size or SIDE)
    )
    with torch.device("meta"):
        model = build_model(recipe.model, input_shape=shape, classes=classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training prints them
        if data is None:
            training_of(recipe, model, images=MANY, labels=MANY, processes=processes)
        else:
            training = prepare(recipe, data, model=model, device=torch.device("meta"), processes=processes)
            TrainingSamples(data.train[:1], training.augmentation, channels_last=False)
            count = len(data.train) * recipe.augmentation.repeats
            batches = plan_batches(count, batch_size=recipe.batch_size, processes=processes)
            count_steps(len(batches), recipe.epochs)


def _stand_in(recipe: Recipe, entry: DatasetEntry) -> Dataset:
    """A data set of the same size and shape, of black images that share the memory of one pixel."""
    assert entry.counts and entry.input_shape and entry.classes  # noqa: PT018
    channels, height, width = entry.input_shape
    size = (channels, recipe.input_size or height, recipe.input_size or width)

    def black(count: int) -> Split:
        return Split(np.broadcast_to(np.uint8(0), (count, *size)), np.zeros(count, np.int64))

    total, tested = entry.counts
    held_out = (entry.validation if recipe.validation is None else recipe.validation) or 0
    refuse_held_out(held_out, total)
    return Dataset(entry.name, black(total - held_out), black(held_out), black(tested), entry.classes)
