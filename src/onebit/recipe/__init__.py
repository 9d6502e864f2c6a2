"""Recipes: every setting of a training, read from YAML, JSON and flags. No torch here: wrong flags answer at once."""

from __future__ import annotations

from onebit.recipe.defaults import default_settings
from onebit.recipe.flags import flag_names, flag_text
from onebit.recipe.optimizer import OptimizerRecipe, ScheduleRecipe
from onebit.recipe.override import METHOD_FIELDS, method_of, with_method
from onebit.recipe.reading import (
    DEFAULTS_FILE,
    METHODS_FILE,
    RECIPE_FOLDER,
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
from onebit.recipe.warmup import shrink_warmup

__all__ = [
    "DEFAULTS_FILE",
    "DESCRIPTIVE",
    "METHODS_FILE",
    "METHOD_FIELDS",
    "RECIPE_FOLDER",
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
    "shrink_warmup",
    "with_method",
]
