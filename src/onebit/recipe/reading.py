"""Recipes read from YAML, JSON and flags."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onebit.common.custom_names import is_custom
from onebit.common.tables import did_you_mean, resolve
from onebit.errors import UsageError, short
from onebit.recipe.sections import build, refuse_foreign, without_foreign
from onebit.recipe.settings import Recipe, flatten

RECIPE_FOLDER = Path(__file__).parent.parent / "recipes"
METHODS_FILE = RECIPE_FOLDER / "methods.yaml"
DEFAULTS_FILE = RECIPE_FOLDER / "defaults.yaml"
RUN_RECIPE = "recipe.yaml"
"""The recipe in a run folder, which may hold options of an optimizer that a flag has replaced."""
NO_OPTIONS: dict[str, Any] = {"weight_options": None, "input_options": None}
ANY_OPTIMIZER = ("latent_clip", "lr_scale")
"""Settings of latents that a method keeps with any optimizer."""


def recipe_names() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.yaml") if path not in (METHODS_FILE, DEFAULTS_FILE))


def methods() -> dict[str, dict[str, Any]]:
    """Method name -> its settings, which reset the arguments of quantizers of another method."""
    rows = read_shipped(METHODS_FILE)
    return {name: merge({"model": NO_OPTIONS}, row) for name, row in rows.items()}


@functools.cache
def read_shipped(path: Path) -> Any:
    """The content of a shipped YAML file, read once; do not change it."""
    import yaml  # only recipes need it: packed nets run without

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def method_settings(name: str, *, optimizer: str | None = None) -> dict[str, Any]:
    """The settings of a method.

    Args:
        name: of the method.
        optimizer: the requested optimizer; if it is not the method's, it keeps its own settings.

    Raises:
        UnknownNameError: no such method.
    """
    row: dict[str, Any] = resolve(methods(), name, kind="method")
    of_method = row["optimizer"]
    if optimizer is None or of_method.get("name") in (None, optimizer):
        return row
    return {**row, "optimizer": {key: of_method[key] for key in ANY_OPTIMIZER if key in of_method}}


def recipe_path(name: str) -> Path:
    """The file of a recipe: a shipped name, a YAML or JSON file, or a run folder.

    Raises:
        UsageError: neither.
    """
    if name in recipe_names():
        return RECIPE_FOLDER / f"{name}.yaml"
    for path in (Path(name) / RUN_RECIPE, Path(name)):
        if os.path.isfile(path):  # does not raise for a name that is too long
            return path
    raise UsageError(f"unknown recipe or file {name!r}{did_you_mean(name, recipe_names())}")


def read_settings(path: Path) -> dict[str, Any]:
    """The keys and values of a recipe file; JSON is YAML, too.

    A file with `extends: NAME` holds the differences from another recipe, without its descriptions.

    Raises:
        UsageError: unreadable, not a mapping, or a setting of another model, optimizer or quantizer than it names.
    """
    from onebit.recipe.yaml_loader import read_yaml  # only recipes need yaml: packed nets run without

    settings = read_yaml(path)
    if not isinstance(settings, dict):
        raise UsageError(f"{path}: expected a mapping of fields, got {short(settings)}")
    base, whole = settings.pop("extends", None), settings
    if base is not None:
        inherited = read_settings(recipe_path(str(base)))
        undescribed = dict.fromkeys(("summary", "reference", "measured"), "")  # describe the other recipe
        whole = merge(inherited | undescribed, settings)
    if path.name != RUN_RECIPE:
        refuse_foreign(flatten(settings), whole)
    return whole


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Trees of settings merged; those of `over` replace those of `base`."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def build_recipe(settings: Mapping[str, Any], flags: Mapping[str, Any] = {}) -> Recipe:
    """A recipe from settings, with flags that override them.

    Settings of other models, optimizers or quantizers than the named ones are dropped: a recipe that another one
    extends, or that a flag changed, may bring them.

    Args:
        settings: tree of fields, as `read_settings` returns it.
        flags: values by flag name, such as `{"optimizer.lr": "0.01", "model.name": "mlp"}`.

    Raises:
        UsageError: an unknown field or flag, a value of the wrong type, or one out of bounds.
    """
    for name, value in flags.items():
        tree: Any = value
        for part in reversed(name.split(".")):
            tree = {part: tree}
        settings = merge(settings, tree)
    model = settings.get("model")
    if isinstance(model, Mapping) and is_custom(str(model.get("name"))):
        settings = merge({"model": {"coding": "auto"}}, settings)
    recipe: Recipe = build(Recipe, without_foreign(settings))
    return recipe
