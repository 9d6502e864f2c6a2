"""Recipes: every setting of a run, read from YAML, JSON and flags. Imports no torch, so wrong flags fail at once."""

from __future__ import annotations

from onebit.recipe.defaults import default_settings
from onebit.recipe.flags import flag_names, flag_text
from onebit.recipe.optimizer import OptimizerRecipe, ScheduleRecipe
from onebit.recipe.override import method_of, with_method
from onebit.recipe.reading import (
    build_recipe,
    merge,
    method_settings,
    methods,
    read_settings,
    recipe_names,
    recipe_path,
)
from onebit.recipe.settings import (
    DESCRIPTIVE,
    ContinualRecipe,
    ModelRecipe,
    Recipe,
    flatten,
)

__all__ = [
    "DESCRIPTIVE",
    "ContinualRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "Recipe",
    "ScheduleRecipe",
    "build_recipe",
    "default_settings",
    "flag_names",
    "flag_text",
    "flatten",
    "merge",
    "method_of",
    "method_settings",
    "methods",
    "read_settings",
    "recipe_names",
    "recipe_path",
    "with_method",
]
