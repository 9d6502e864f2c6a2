"""Settings of a run without a recipe: rules by model, data set, method, quantizers and optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from onebit.models.settings import Custom
from onebit.quantizers.quantizer_table import INPUT_QUANTIZERS
from onebit.recipe.reading import DEFAULTS_FILE, merge, read_shipped
from onebit.recipe.settings import Recipe


def default_settings(recipe: Recipe, *, method: str | None = None, given: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of all matching rules of defaults.yaml; later rules override earlier ones.

    Args:
        recipe: the requested settings; model, quantizers and data set choose the rules.
        method: the requested method.
        given: names of the requested flags; the optimizer chooses rules only if it is one of them.

    Example:
        >>> default_settings(Recipe(dataset="cifar10"))["augmentation"]
        {'crop_padding': 4, 'flip': True}
    """
    inputs = recipe.model.input_quantizer
    facts = {
        "model": "own" if isinstance(recipe.model, Custom) else recipe.model.name,  # a file may be called resnet.py
        "dataset": recipe.dataset,
        "method": method or "any",
        "weights": "real" if recipe.model.weight_quantizer is None else "binary",
        "inputs": "real" if inputs is None else "binary" if INPUT_QUANTIZERS.entry(inputs).bits == 1 else "few",
        "last": "real" if recipe.model.weight_quantizer is None or recipe.model.real_last else "binary",
        "optimizer": recipe.optimizer.name if "optimizer.name" in given else "any",
    }
    settings: dict[str, Any] = {}
    for rule in read_shipped(DEFAULTS_FILE):
        when = rule["when"].items()
        if all(any(fnmatchcase(facts[fact], pattern) for pattern in patterns) for fact, patterns in when):
            settings = merge(settings, rule["set"])
    return settings
