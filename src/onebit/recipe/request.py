"""The recipe of a training: a file or defaults, a method over it, and flags over both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from onebit.common.tables import resolve
from onebit.errors import UsageError
from onebit.recipe.defaults import default_settings
from onebit.recipe.option_owners import changed_settings, refuse_clipping, refuse_unused, unused_settings
from onebit.recipe.override import method_of, with_method
from onebit.recipe.own_names import is_own, short_name
from onebit.recipe.reading import build_recipe, merge, method_settings, read_settings, recipe_path, split_alias
from onebit.recipe.settings import LONGEST_NAME, Recipe
from onebit.recipe.translations.binarynet import BinaryNetFlags
from onebit.recipe.translations.json_config import read_config, translate_config
from onebit.recipe.warmup import refuse_long_warmup, shrink_warmup

QUANTIZERS = ("weight_quantizer", "input_quantizer")
TASKS = {"permuted-mnist": "mnist-permuted", "image": None}
"""Task -> the recipe that says how it is learned; None for the images as they are."""


class RecipeRequest(NamedTuple):
    """A recipe, and what was understood in another way than it was written."""

    recipe: Recipe
    notes: tuple[str, ...] = ()


class _Base(NamedTuple):
    """The settings before the flags are applied.

    settings: of a file or of defaults.yaml.
    implied: settings that the name of a model or method implies; they win over `settings`.
    file: the recipe as its file has it; None without a file.
    """

    settings: dict[str, Any]
    implied: dict[str, Any]
    file: Recipe | None
    method: str | None
    notes: tuple[str, ...]


def request_recipe(
    flags: BinaryNetFlags, source: Path | None = None, *, method: str | None = None, task: str | None = None
) -> RecipeRequest:
    """Recipe file, JSON configuration or defaults, then the method in place of that of the recipe, then the flags.

    Args:
        flags: fields of a recipe with their values, and what else changes the file.
        source: a recipe or JSON configuration; None for the defaults that suit the flags.
        method, task: names of `methods()` and `TASKS`.
    """
    implied, values = split_alias(flags.settings)
    implied = merge(implied, {"model": flags.net}) if flags.net else implied
    name = None if task is None else resolve(TASKS, task, kind="task")
    learning = None if name is None else recipe_path(name)
    if source is None and learning is None:
        base = _of_defaults(flags, method, implied, values)
    else:
        base = _of_file(source, learning, method, task, implied, values)
    recipe = flags.with_momentum(build_recipe(merge(base.settings, base.implied), values))
    return _finished(recipe, base, list(values))


def _of_defaults(flags: BinaryNetFlags, method: str | None, implied: dict[str, Any], values: dict[str, Any]) -> _Base:
    """A training without a file."""
    optimizer, notes = values.get("optimizer.name"), tuple[str, ...]()
    row = {} if method is None else method_settings(method, optimizer=optimizer)
    implied = merge(implied, row)
    of_sgd = flags.of_sgd
    if of_sgd and optimizer is None and implied.get("optimizer", {}).get("name") is None:
        settings = default_settings(build_recipe(implied, values), method=method, given=list(values))
        if build_recipe(settings).optimizer.name == "adam":
            values["optimizer.name"] = "sgd"
            meaning = "trains with SGD, as in the scripts that this flag comes from; --optimizer adam keeps Adam"
            notes = (f"{of_sgd[0]} without --optimizer {meaning}",)
    what = build_recipe(implied, values)
    settings = default_settings(what, method=method, given=list(values))
    name = filter(None, (Path(what.dataset).name, short_name(flags.model or what.model.name), method))
    settings["name"] = "-".join(name)[:LONGEST_NAME]
    return _Base(settings, implied, None, method, notes)


def _of_file(
    source: Path | None,
    learning: Path | None,
    method: str | None,
    task: str | None,
    implied: dict[str, Any],
    values: dict[str, Any],
) -> _Base:
    """A recipe or JSON configuration, or the recipe of a task, with another method if one is named."""
    optimizer, notes = values.get("optimizer.name"), tuple[str, ...]()
    config = None if source is None else read_config(source)
    if config is not None:
        translation = translate_config(config, source=str(source), method=method, task=task)
        method, notes = translation.method, translation.notes
        settings = merge(method_settings(method, optimizer=optimizer), translation.settings)
    else:
        settings = read_settings(source or learning)  # type: ignore[arg-type]  # one of them is there
    if source is not None and learning is not None:
        settings = merge(settings, {"continual": read_settings(learning)["continual"], "measured": ""})
    recipe = build_recipe(settings)
    if recipe.model.is_own and is_own(implied.get("model", {}).get("name", "")):
        implied = merge(implied, {"model": {"coding": recipe.model.coding}})  # its code at another place
    if method is not None and config is None:
        settings = with_method(recipe, method, flags=values, optimizer=optimizer)
        # the quantizers of --method win over those of an alias
        implied = merge(implied, {"model": {key: settings["model"][key] for key in QUANTIZERS}})
    else:
        # a file without quantizers has those of a recipe, whichever net --model puts in its place
        settings = merge({"model": {key: getattr(recipe.model, key) for key in QUANTIZERS}}, settings)
    if method is not None or learning is not None:
        # the file may compare its tasks with the very method that learns them now
        others = [name for name in recipe.continual.against if name != (method or method_of(recipe))]
        settings = merge(settings, {"continual": {"against": others}})
    return _Base(settings, implied, recipe, method, notes)


def _finished(recipe: Recipe, base: _Base, given: Sequence[str]) -> RecipeRequest:
    """The recipe with what follows from its method and epochs; settings that would have no effect are refused.

    Args:
        given: names of the flags.
    """
    method, file, notes = base.method, base.file, base.notes
    if method is not None and recipe.continual.tasks and "continual.own" not in given:
        recipe = dataclasses.replace(recipe, continual=dataclasses.replace(recipe.continual, own=method))
    if file is not None and any(name != "seed" for name, _, _ in recipe.changed_from(file)):
        # results that were measured with the file do not hold for this training
        recipe = dataclasses.replace(recipe, measured="")
    binary = method is not None and method_settings(method)["model"]["weight_quantizer"] is not None
    if binary and recipe.model.weight_quantizer is None:
        raise UsageError(f"--method {method} has binary weights, but model.weight_quantizer is null: leave one out")
    if file is not None and "epochs" in given and "schedule.warmup" not in given:
        full, recipe = recipe.schedule.warmup, shrink_warmup(recipe, epochs=file.epochs)
        if recipe.schedule.warmup < full:
            shorter = f"from {full:g} to {recipe.schedule.warmup:.3g} epochs"
            notes = (*notes, f"schedule.warmup shrinks with --epochs {recipe.epochs:g}, {shorter}")
    refuse_long_warmup(recipe)
    refuse_clipping(recipe)
    refuse_unused(recipe, given)
    if file is not None:
        # a file is complete, and flags may have changed it: its settings without effect are a note
        in_file = set(changed_settings(file)) - set(given)
        notes = (*notes, *unused_settings(recipe, [name for name in changed_settings(recipe) if name in in_file]))
    return RecipeRequest(recipe, notes)
