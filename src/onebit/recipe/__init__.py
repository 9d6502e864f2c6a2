"""Recipes: every setting of a training, read from YAML, JSON and flags. No torch here: wrong flags answer at once."""

from __future__ import annotations

from onebit.recipe.defaults import default_settings
from onebit.recipe.flags import flag_names
from onebit.recipe.optimizer import OptimizerRecipe, ScheduleRecipe
from onebit.recipe.option_owners import changed_settings, refuse_clipping, refuse_unused, unused_settings
from onebit.recipe.override import METHOD_FIELDS, method_of, with_method
from onebit.recipe.reading import (
    DEFAULTS_FILE,
    METHODS_FILE,
    RECIPE_FOLDER,
    build_recipe,
    check_keys,
    merge,
    method_settings,
    method_with,
    methods,
    read_settings,
    recipe_names,
    recipe_path,
    take_alias,
)
from onebit.recipe.settings import (
    DESCRIPTIVE,
    ContinualRecipe,
    ModelRecipe,
    Recipe,
    flatten,
)
from onebit.recipe.translations.json_config import Translation, read_config, translate_config
from onebit.recipe.typed import flag_text
from onebit.recipe.warmup import refuse_long_warmup, shrink_warmup

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
    "Translation",
    "build_recipe",
    "changed_settings",
    "check_keys",
    "default_settings",
    "flag_names",
    "flag_text",
    "flatten",
    "merge",
    "method_of",
    "method_settings",
    "method_with",
    "methods",
    "read_config",
    "read_settings",
    "recipe_names",
    "recipe_path",
    "refuse_clipping",
    "refuse_long_warmup",
    "refuse_unused",
    "shrink_warmup",
    "take_alias",
    "translate_config",
    "unused_settings",
    "with_method",
]
