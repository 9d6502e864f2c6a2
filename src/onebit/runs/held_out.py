"""Validation images on which the net that a training starts from was trained."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from onebit.data import DATASETS, Dataset
from onebit.data.splits import held_out_indices
from onebit.errors import OnebitError
from onebit.packed import Card
from onebit.recipe import Recipe, build_recipe, read_settings, recipe_names, recipe_path

SHARED = ("mnist", "mnist-sample"), ("mnist-sample", "mnist")
"""Pairs of data sets with training images in common."""


def seen_validation(trained: Mapping[str, Any], recipe: Recipe, data: Dataset) -> str | None:
    """How many validation images an earlier training used for its weights, and what to do; None for none.

    How many is not known if the images of one data set are a part of the other's.

    Known of public data sets only: own files may have another content or validation images of their own.

    Args:
        trained: settings of the earlier training; recipe, data: of this one.
    """
    entry, here, total = DATASETS.get(recipe.dataset), len(data.validation), len(data.train) + len(data.validation)
    if entry is None or entry.counts is None or entry.counts[0] != total:
        return None
    before = trained.get("dataset")
    if here and (before, recipe.dataset) in SHARED:
        return f"was trained on {before}, which has images in common with {recipe.dataset}: compare test errors"
    if before != recipe.dataset:
        return None
    there, seed = trained.get("validation"), trained.get("split_seed")
    there = entry.validation if there is None else there
    if not (isinstance(there, int) and isinstance(seed, int) and there >= 0 <= seed):
        return None
    mine = held_out_indices(total, here, seed=recipe.split_seed)
    seen = len(np.setdiff1d(mine, held_out_indices(total, there, seed=seed)))
    if not seen:
        return None
    flags = [f"--split_seed {seed}"] * (seed != recipe.split_seed) + [f"--validation {there}"] * (there < here)
    way = f"add {' '.join(flags)}" if there else "it held out none, so compare test errors"
    return f"was trained on {seen:,} of the {here:,} validation images, whose error is too low: {way}"


def settings_of_card(card: Card | None) -> Mapping[str, Any]:
    """The settings of the training of a packed net, by the command of its card; empty if they are not known."""
    try:
        words = shlex.split((card and card.command) or "")
        if words[:2] != ["onebit", "train"] or words[2:3] == [] or words[2] not in recipe_names():
            return {}
        return build_recipe(read_settings(recipe_path(words[2])), words[3:]).settings()
    except (OnebitError, ValueError):  # a card of another version, or one that was written by hand
        return {}
