"""The model and the optimizer of a recipe: sections whose name chooses the class of their settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from onebit.common.custom_names import is_custom
from onebit.common.entries import Table
from onebit.common.fields import field_types
from onebit.common.tables import did_you_mean
from onebit.errors import UsageError, short
from onebit.models.settings import MODELS, Custom, Mlp, Model
from onebit.optim.settings import OPTIMIZERS, Adam, Optimizer
from onebit.quantizers.quantizer_table import WEIGHT_QUANTIZERS
from onebit.recipe.settings import Recipe, flatten

CHOICES: dict[Any, Table[Any]] = {Model: MODELS, Optimizer: OPTIMIZERS}
"""Class of a section -> the table of the names that it takes."""
ARGUMENTS = "model.arguments"
"""Field with the arguments of a custom model."""
CUSTOM = "a custom model"
_CHOSEN = {"model.name": Mlp.name, "model.weight_quantizer": Mlp.weight_quantizer, "optimizer.name": Adam.name}
"""The settings of `owners` in a recipe that names none."""


def own_types(kind: Any) -> dict[str, tuple[Any, type, list[str]]]:
    """Name -> (type, class of the first entry, names of the entries) of each setting that not all of a section have."""
    found: dict[str, tuple[Any, type, list[str]]] = {}
    for name, entry in CHOICES[kind].entries().items() if kind in CHOICES else ():
        for option, hint in field_types(entry.settings).items():
            if option not in field_types(kind):
                found.setdefault(option, (hint, entry.settings, []))[2].append(name)
    return found


def flag_types(kind: Any = Recipe, prefix: str = "") -> dict[str, Any]:
    """`seed`, `optimizer.lr`, …: every field that is a flag, with its type."""
    found: dict[str, Any] = {}
    for name, hint in field_types(kind).items():
        part = dataclasses.is_dataclass(hint)
        found |= flag_types(hint, f"{prefix}{name}.") if part else {prefix + name: hint}
    return found | {prefix + name: hint for name, (hint, _, _) in own_types(kind).items()}


def owners() -> dict[str, tuple[str, list[str]]]:
    """Name of each setting that belongs to some entries -> (the setting that chooses one, the names of the entries)."""
    found = {ARGUMENTS: ("model.name", [CUSTOM])}
    for part, kind in (("model", Model), ("optimizer", Optimizer)):
        found |= {f"{part}.{option}": (f"{part}.name", names) for option, (_, _, names) in own_types(kind).items()}
    for name, entry in WEIGHT_QUANTIZERS.entries().items():
        found |= {f"optimizer.{option}": ("model.weight_quantizer", [name]) for option in entry.of_optimizer}
    return found


def foreign(names: Iterable[str], settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Those of the names that belong to other models, optimizers or quantizers -> the entries that they belong to.

    Args:
        names: of flags.
        settings: a tree, which names the model, the optimizer and the quantizer.
    """
    chosen, known, found = _CHOSEN | flatten(settings), owners(), {}
    for name in names:
        chosen_by, entries = known.get(ARGUMENTS if name.startswith(ARGUMENTS) else name, ("", []))
        entry = str(chosen.get(chosen_by))
        if chosen_by and (CUSTOM if is_custom(entry) else entry) not in entries:
            found[name] = entries
    return found


def refuse_foreign(values: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise UsageError for the first of the values, by the names of flags, that is `foreign` and not null."""
    for name, entries in foreign([name for name, value in values.items() if value is not None], settings).items():
        raise UsageError(f"{name} belongs to {' and '.join(entries)}")


def without_foreign(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that are `foreign`."""
    parts = {part: values for part, values in settings.items() if isinstance(values, Mapping)}
    dropped = foreign([f"{part}.{name}" for part, values in parts.items() for name in values], settings)
    return {**settings} | {
        part: {name: value for name, value in values.items() if f"{part}.{name}" not in dropped}
        for part, values in parts.items()
    }


def build(kind: Any, settings: Any, *, prefix: str = "") -> Any:
    """A tree of dataclasses from a tree of settings; missing fields have their defaults."""
    if not isinstance(settings, Mapping):
        raise UsageError(f"{prefix[:-1] or 'recipe'}: expected fields by name, got {short(settings)}")
    known = list(own_types(kind))
    if kind in CHOICES:
        name = str(settings.get("name", kind.name))
        kind = Custom if kind is Model and is_custom(name) else CHOICES[kind].entry(name).settings
    types, values = field_types(kind), {}
    for name, value in settings.items():
        if name not in types:
            raise UsageError(f"unknown field {prefix}{name!s}{did_you_mean(str(name), {*types, *known})}")
        part = types[name]
        values[name] = build(part, value, prefix=f"{prefix}{name}.") if dataclasses.is_dataclass(part) else value
    return kind(**values)
