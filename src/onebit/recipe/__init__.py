"""Recipes: every setting of a run, read from YAML, JSON and flags. Imports no torch, so wrong flags fail at once."""

from onebit.recipe.defaults import default_settings as default_settings
from onebit.recipe.flags import flag_names as flag_names, flag_text as flag_text
from onebit.recipe.override import method_of as method_of, with_method as with_method
from onebit.recipe.reading import (
    build_recipe as build_recipe,
    merge as merge,
    method_settings as method_settings,
    methods as methods,
    read_settings as read_settings,
    recipe_names as recipe_names,
    recipe_path as recipe_path,
)
from onebit.recipe.settings import (
    DESCRIPTIVE as DESCRIPTIVE,
    ContinualRecipe as ContinualRecipe,
    Recipe as Recipe,
    flatten as flatten,
)
