"""A method laid over a recipe: what methods have a say in becomes that of the new one, all else stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onebit.recipe.defaults import default_settings
from onebit.recipe.reading import build_recipe, flag_names, merge, method_settings, methods
from onebit.recipe.settings import Recipe, flatten

_COMMON = (
    "model.weight_quantizer",
    "model.input_quantizer",
    "model.weight_options",
    "model.input_options",
    "model.value",
    "model.activation",
    "model.init",
    "loss",
    "label_smoothing",
)


def _is_of_methods(field: str) -> bool:
    # the number of parts that a batch is computed in depends on the machine
    return field in _COMMON or (field.startswith("optimizer.") and field != "optimizer.accumulate")


METHOD_FIELDS = tuple(filter(_is_of_methods, flag_names()))
"""The settings that belong to methods, whether or not a method sets them."""

TELLING = (
    "model.weight_quantizer",
    "model.input_quantizer",
    "model.activation",
    "optimizer.name",
    "optimizer.latent_clip",
    "optimizer.clip_grad_value",
)
"""What tells methods apart; rates may be tuned, and real weights have no latents to clip."""


def method_of(recipe: Recipe) -> str | None:
    """The method that a recipe is of: what it says of `TELLING` stands there. None where it is of none.

    Example:
        >>> method_of(Recipe())
        'binaryconnect'
    """
    values = recipe.values()
    told = [field for field in TELLING if recipe.model.weight_quantizer or field != "optimizer.latent_clip"]
    fitting = {}
    for name, row in methods().items():
        said = {field: value for field, value in flatten(row).items() if field in told}
        if all(values[field] == value for field, value in said.items()):
            fitting[name] = len(said)
    return max(fitting, key=lambda name: fitting[name], default=None)


def with_method(
    recipe: Recipe, name: str, *, flags: Sequence[str] = (), optimizer: str | None = None
) -> dict[str, Any]:
    """The settings of a recipe with a method in place of its own; of that very method, it stays as it is.

    The `METHOD_FIELDS` are those of a training without a recipe: the method's, else those of defaults.yaml that suit
    net, data and method, else those of every recipe. A last layer that the recipe says nothing of gets the BatchNorm
    that ±1 weights need. What was measured, where the settings come from and the summary tell of another training.

    Args:
        name: of the method.
        flags: what will lie over it, which chooses the defaults.
        optimizer: the optimizer that was asked for, see `method_settings`.

    Raises:
        UnknownNameError: no such method.
    """
    row = method_settings(name, optimizer=optimizer)
    own = method_of(recipe)
    settings = recipe.settings()
    if own == name:
        return settings
    kept = _fields(settings, of_methods=False)
    asked = build_recipe(merge(kept, row), flags)
    given = [] if optimizer is None else ["optimizer.name"]
    laid = merge(merge(kept, _fields(default_settings(asked, method=name, given=given), of_methods=True)), row)
    if recipe.model.last_norm is None:
        laid["model"]["last_norm"] = default_settings(asked).get("model", {}).get("last_norm")
    told = recipe.name.removesuffix(f"-with-{own}")
    return laid | {"name": f"{told}-with-{name}", "summary": "", "reference": "", "measured": ""}


def _fields(settings: Mapping[str, Any], *, of_methods: bool) -> dict[str, Any]:
    """Those of some settings that are `METHOD_FIELDS`, or those that are not."""
    chosen: dict[str, Any] = {}
    for part, value in settings.items():
        if isinstance(value, Mapping):
            chosen[part] = {key: item for key, item in value.items() if _is_of_methods(f"{part}.{key}") is of_methods}
        elif _is_of_methods(part) is of_methods:
            chosen[part] = value
    return chosen
