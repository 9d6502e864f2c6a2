"""The recipe of a run: a file or the defaults, overridden by a method, overridden by flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onebit.common.custom_names import is_custom, short_name
from onebit.common.tables import resolve
from onebit.models.settings import Custom
from onebit.recipe.defaults import default_settings
from onebit.recipe.override import method_of, with_method
from onebit.recipe.reading import build_recipe, merge, method_settings, read_settings, recipe_path
from onebit.recipe.sections import refuse_foreign
from onebit.recipe.settings import MAX_NAME_LENGTH, Recipe, flatten

TASKS = {"permuted-mnist": "mnist-permuted", "image": None}
"""Task -> the recipe with its continual settings; None for the plain images."""


def request_recipe(
    flags: Mapping[str, str], source: Path | None = None, *, method: str | None = None, task: str | None = None
) -> Recipe:
    """Build the recipe of a command: file or defaults, then the method, then the flags.

    Fewer epochs than a file has shorten its warm-up in proportion.

    Args:
        flags: fields of a recipe with their values.
        source: a recipe; None for the defaults that suit the flags.
        method, task: names of `methods()` and `TASKS`.

    Raises:
        UsageError: a flag of another optimizer or model than the recipe's; see also `build_recipe`.
    """
    name = None if task is None else resolve(TASKS, task, kind="task")
    learning = None if name is None else recipe_path(name)
    # a custom model takes no coding from the defaults or from the model that it replaces
    coding = {"model.coding": "auto"} if is_custom(flags.get("model.name", "")) else {}
    if source is None and learning is None:
        recipe = build_recipe(_defaults(flags, method), coding | dict(flags))
    else:
        settings = _of_file(source, learning, method, flags)
        file = build_recipe(settings)
        recipe = build_recipe(settings, dict(flags) if isinstance(file.model, Custom) else coding | dict(flags))
        if any(name != "seed" for name, _, _ in recipe.changed_from(file)):
            # results that were measured with the file do not hold for this run
            recipe = dataclasses.replace(recipe, measured="")
        if "epochs" in flags and "schedule.warmup" not in flags:
            recipe = recipe.with_warmup_of(file.epochs)
    if method is not None and recipe.continual.tasks and "continual.own" not in flags:
        recipe = dataclasses.replace(recipe, continual=dataclasses.replace(recipe.continual, own=method))
    refuse_foreign(flags, recipe.settings())
    return recipe


def origins(
    recipe: Recipe, flags: Mapping[str, str], source: Path | None, *, method: str | None = None, task: str | None = None
) -> list[tuple[str, Any, str]]:
    """(flag name, value, where it comes from) of each setting of a recipe that `request_recipe` made of the rest."""
    layers: dict[str, Mapping[str, Any]] = {}
    if method is not None:
        layers[f"method {method}"] = method_settings(method, optimizer=flags.get("optimizer.name"))
    if task is not None and (learning := TASKS[task]) is not None:
        layers[f"task {task}"] = {"continual": read_settings(recipe_path(learning))["continual"]}
    if source is not None:
        layers[f"recipe {source.stem}"] = read_settings(source)
    layers["defaults.yaml"] = default_settings(recipe, method=method, given=list(flags))
    names: dict[str, Any] = {
        "model": {"name": recipe.model.name, "weight_quantizer": recipe.model.weight_quantizer},
        "optimizer": {"name": recipe.optimizer.name},
    }
    read = {label: (flatten(given), build_recipe(merge(names, given)).values()) for label, given in layers.items()}
    read["default"] = (recipe.values(), build_recipe(names).values() | Recipe().values())

    def origin(name: str, value: Any) -> str:
        fitting = (label for label, (given, values) in read.items() if name in given and values.get(name) == value)
        return "flag" if name in flags else next(fitting, "derived")  # as a warm-up that --epochs shortens

    return [(name, value, origin(name, value)) for name, value in flatten(recipe.settings()).items()]


def _defaults(flags: Mapping[str, str], method: str | None) -> dict[str, Any]:
    """The settings of a run without a file."""
    row = {} if method is None else method_settings(method, optimizer=flags.get("optimizer.name"))
    what = build_recipe(row, flags)
    name = "-".join(filter(None, (Path(what.dataset).name, short_name(what.model.name), method)))
    settings = default_settings(what, method=method, given=list(flags))
    return merge(settings | {"name": name[:MAX_NAME_LENGTH]}, row)


def _of_file(
    source: Path | None, learning: Path | None, method: str | None, flags: Mapping[str, str]
) -> dict[str, Any]:
    """The settings of a recipe, or of the recipe of a task, with another method if one is named."""
    settings = read_settings(source or learning)  # type: ignore[arg-type]  # one of them is there
    if source is not None and learning is not None:
        settings = merge(settings, {"continual": read_settings(learning)["continual"], "measured": ""})
    if method is None and learning is None:
        return settings
    recipe = build_recipe(settings)
    if method is not None:
        settings = with_method(recipe, method, flags=flags, optimizer=flags.get("optimizer.name"))
    # no comparison of a method with itself
    others = [name for name in recipe.continual.against if name != (method or method_of(recipe))]
    return merge(settings, {"continual": {"against": others}})
