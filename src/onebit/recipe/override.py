"""A method on top of a recipe: replaces the settings that belong to methods and keeps all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onebit.quantizers.quantizer_table import INPUT_QUANTIZERS
from onebit.recipe.defaults import default_settings
from onebit.recipe.reading import build_recipe, merge, method_settings, methods
from onebit.recipe.settings import Recipe, flatten

_METHOD_PARTS = (
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


def is_of_methods(field: str) -> bool:
    """Whether a setting belongs to methods, set by one or not."""
    # optimizer.accumulate depends on the machine
    return field in _METHOD_PARTS or (field.startswith("optimizer.") and field != "optimizer.accumulate")


IDENTIFYING = (
    "model.weight_quantizer",
    "model.input_quantizer",
    "model.activation",
    "optimizer.name",
    "optimizer.latent_clip",
    "optimizer.clip_grad_value",
)
"""Settings that identify a method. Rates may be tuned, and real weights have no latents to clip."""


def method_of(recipe: Recipe) -> str | None:
    """The method of a recipe or None: of those whose `IDENTIFYING` settings are all in it, the one with the most.

    Activations of few bits count as real ones.

    Example:
        >>> method_of(Recipe())
        'binaryconnect'
    """
    values = recipe.values()
    if INPUT_QUANTIZERS.entry(recipe.model.input_quantizer).bits > 1:
        values["model.input_quantizer"] = None
    compared = [field for field in IDENTIFYING if recipe.model.weight_quantizer or field != "optimizer.latent_clip"]
    fitting = {}
    for name, row in methods().items():
        settings = {field: value for field, value in flatten(row).items() if field in compared}
        if all(values[field] == value for field, value in settings.items()):
            fitting[name] = len(settings)
    return max(fitting, key=lambda name: fitting[name], default=None)


def with_method(
    recipe: Recipe, name: str, *, flags: Mapping[str, Any] = {}, optimizer: str | None = None
) -> dict[str, Any]:
    """The settings of a recipe with a method in place of its own; unchanged if it already uses that method.

    Settings that belong to methods are set as without a recipe: by the method, else by defaults.yaml for the net, the
    data and the method, else to the defaults. The last layer gets the BatchNorm that ±1 weights need unless the recipe
    decides about it. Summary, reference and measured results belong to the original recipe and are dropped.

    Args:
        name: of the method.
        flags: override the result and choose the defaults.
        optimizer: the requested optimizer, see `method_settings`.

    Raises:
        UnknownNameError: no such method.
    """
    row = method_settings(name, optimizer=optimizer)
    current = method_of(recipe)
    settings = recipe.settings()
    if current == name:
        return settings
    kept = _fields(settings, of_methods=False)
    requested = build_recipe(merge(kept, row), flags)
    given = [] if optimizer is None else ["optimizer.name"]
    defaults = default_settings(requested, method=name, given=given)
    found = merge(merge(kept, _fields(defaults, of_methods=True)), row)
    if recipe.model.last_norm is None:
        found["model"]["last_norm"] = default_settings(requested).get("model", {}).get("last_norm")
    plain_name = recipe.name.removesuffix(f"-with-{current}")
    return found | {"name": f"{plain_name}-with-{name}", "summary": "", "reference": "", "measured": ""}


def _fields(settings: Mapping[str, Any], *, of_methods: bool) -> dict[str, Any]:
    """The settings that belong to methods, or all others."""
    chosen: dict[str, Any] = {}
    for part, value in settings.items():
        if isinstance(value, Mapping):
            chosen[part] = {key: item for key, item in value.items() if is_of_methods(f"{part}.{key}") is of_methods}
        elif is_of_methods(part) is of_methods:
            chosen[part] = value
    return chosen
