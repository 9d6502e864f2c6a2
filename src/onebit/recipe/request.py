"""The recipe of a training: a file or defaults, a method over it, and flags over both."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from onebit.common.tables import resolve
from onebit.errors import UsageError
from onebit.recipe.defaults import default_settings
from onebit.recipe.options import TABLES, declared
from onebit.recipe.override import method_of, with_method
from onebit.recipe.own_names import ARGUMENTS, is_own, short_name
from onebit.recipe.reading import build_recipe, merge, method_settings, read_settings, recipe_path
from onebit.recipe.settings import LONGEST_NAME, Recipe

TASKS = {"permuted-mnist": "mnist-permuted", "image": None}
"""Task -> the recipe that says how it is learned; None for the images as they are."""


class RecipeRequest(NamedTuple):
    """A recipe, and what was understood in another way than it was written."""

    recipe: Recipe
    notes: tuple[str, ...] = ()


def request_recipe(
    flags: Mapping[str, str], source: Path | None = None, *, method: str | None = None, task: str | None = None
) -> RecipeRequest:
    """Recipe file or defaults, then the method in place of that of the recipe, then the flags.

    Args:
        flags: fields of a recipe with their values.
        source: a recipe; None for the defaults that suit the flags.
        method, task: names of `methods()` and `TASKS`.

    Raises:
        UsageError: a flag of another optimizer or model than the recipe's; see also `build_recipe`.
    """
    name = None if task is None else resolve(TASKS, task, kind="task")
    learning = None if name is None else recipe_path(name)
    notes: tuple[str, ...] = ()
    # a model of the user's own takes no coding from the defaults or from the model that it replaces
    own = {"model.coding": "auto"} if is_own(flags.get("model.name", "")) else {}
    if source is None and learning is None:
        recipe = build_recipe(_defaults(flags, method), own | dict(flags))
    else:
        settings = _of_file(source, learning, method, flags)
        file = build_recipe(settings)
        recipe = build_recipe(settings, dict(flags) if file.model.is_own else own | dict(flags))
        if any(name != "seed" for name, _, _ in recipe.changed_from(file)):
            # results that were measured with the file do not hold for this training
            recipe = dataclasses.replace(recipe, measured="")
        if "epochs" in flags and "schedule.warmup" not in flags:
            full, recipe = recipe.schedule.warmup, recipe.with_warmup_of(file.epochs)
            if recipe.schedule.warmup < full:
                notes = (f"--epochs {recipe.epochs:g} shrinks schedule.warmup to {recipe.schedule.warmup:.3g}",)
    if method is not None and recipe.continual.tasks and "continual.own" not in flags:
        recipe = dataclasses.replace(recipe, continual=dataclasses.replace(recipe.continual, own=method))
    refuse_foreign(recipe, flags)
    return RecipeRequest(recipe, notes)


def refuse_foreign(recipe: Recipe, names: Iterable[str]) -> None:
    """Refuse options that belong to another optimizer, quantizer or model than those of a recipe.

    Args:
        names: of flags.

    Raises:
        UsageError: the first of them, with what it belongs to.
    """
    values = recipe.values()
    for name in names:
        part, _, option = name.partition(".")
        found = declared(part).get(option) if part in TABLES else None
        owners = found.entries if found else ("a model of your own",)
        fits = values[found.chosen_by] in owners if found else recipe.model.is_own or not name.startswith(ARGUMENTS)
        if not fits:
            raise UsageError(f"{name} belongs to {' and '.join(owners)}")


def _defaults(flags: Mapping[str, str], method: str | None) -> dict[str, Any]:
    """The settings of a training without a file."""
    row = {} if method is None else method_settings(method, optimizer=flags.get("optimizer.name"))
    what = build_recipe(row, flags)
    name = "-".join(filter(None, (Path(what.dataset).name, short_name(what.model.name), method)))
    settings = default_settings(what, method=method, given=list(flags))
    return merge(settings | {"name": name[:LONGEST_NAME]}, row)


def _of_file(
    source: Path | None, learning: Path | None, method: str | None, flags: Mapping[str, str]
) -> dict[str, Any]:
    """The settings of a recipe, or of the recipe of a task; another method, if one is named, replaces its own."""
    settings = read_settings(source or learning)  # type: ignore[arg-type]  # one of them is there
    if source is not None and learning is not None:
        settings = merge(settings, {"continual": read_settings(learning)["continual"], "measured": ""})
    if method is None and learning is None:
        return settings
    recipe = build_recipe(settings)
    if method is not None:
        settings = with_method(recipe, method, flags=flags, optimizer=flags.get("optimizer.name"))
    # the file may compare its tasks with the very method that learns them now
    others = [name for name in recipe.continual.against if name != (method or method_of(recipe))]
    return merge(settings, {"continual": {"against": others}})
