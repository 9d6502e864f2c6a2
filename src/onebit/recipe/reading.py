"""Recipes read from YAML, JSON and flags."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onebit.common.aliases import spelled_out
from onebit.common.tables import did_you_mean, resolve
from onebit.errors import UsageError
from onebit.nets import net_names
from onebit.recipe.flags import Flags, flag_values
from onebit.recipe.options import Part, declared, with_own
from onebit.recipe.own_names import is_own
from onebit.recipe.settings import Recipe
from onebit.recipe.typed import build

RECIPE_FOLDER = Path(__file__).parent.parent / "recipes"
METHODS_FILE = RECIPE_FOLDER / "methods.yaml"
DEFAULTS_FILE = RECIPE_FOLDER / "defaults.yaml"
NO_OPTIONS: dict[str, Any] = {"weight_options": None, "input_options": None}
ANY_OPTIMIZER = ("latent_clip", "lr_scale")
"""Settings of latents that a method keeps with any optimizer."""


def recipe_names() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.yaml") if path not in (METHODS_FILE, DEFAULTS_FILE))


def methods() -> dict[str, dict[str, Any]]:
    """Method name -> the part of a recipe that it sets; arguments of the quantizers of another method are dropped."""
    rows = read_shipped(METHODS_FILE)
    return {name: merge({"model": NO_OPTIONS}, row) for name, row in rows.items()}


@functools.cache
def read_shipped(path: Path) -> Any:
    """The content of a YAML file that ships, read once; not to be changed."""
    import yaml  # only recipes need it: packed nets run without

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def method_settings(name: str, *, optimizer: str | None = None) -> dict[str, Any]:
    """The part of a recipe that a method sets.

    Args:
        name: of the method.
        optimizer: the requested optimizer; one other than the method's keeps its own settings.

    Raises:
        UnknownNameError: no such method.
    """
    row: dict[str, Any] = resolve(methods(), name, kind="method")
    own = row["optimizer"]
    if optimizer is None or own.get("name") in (None, optimizer):
        return row
    return {**row, "optimizer": {key: own[key] for key in ANY_OPTIMIZER if key in own}}


def method_with(field: str, value: str) -> str:
    """The end of an error message, `: use --method NAME`, for the first method that sets a field so; "" without one."""
    part, _, key = field.partition(".")
    fitting = (name for name, row in methods().items() if row.get(part, {}).get(key) == value)
    name = next(fitting, None)
    return "" if name is None else f": use --method {name}"


def recipe_path(name: str) -> Path:
    """The file of a recipe: a name that ships, or a path to a YAML or JSON file.

    Raises:
        UsageError: neither.
    """
    if name in recipe_names():
        return RECIPE_FOLDER / f"{name}.yaml"
    path = Path(name)
    if os.path.isfile(path / "recipe.yaml"):  # os.path: does not raise for a name that is too long
        return path / "recipe.yaml"
    if path.suffix in (".yaml", ".yml", ".json") or os.path.exists(name):
        if not os.path.isfile(name):
            raise UsageError(f"{name}: no such recipe file")
        return path
    if name in net_names():
        raise UsageError(
            f"{name} is a net that comes with onebit, not a recipe: onebit inspect {name} names its recipe"
        )
    raise UsageError(f"unknown recipe {name!r}{did_you_mean(name, recipe_names())}")


def read_settings(path: Path, *, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys and values of a recipe file (JSON is YAML too), every key checked against the dataclasses.

    A file with `extends: NAME` holds what differs from another recipe; what was measured with that one is left out.

    Args:
        extending: the files that led here by their `extends`.

    Raises:
        UsageError: unreadable, not a mapping, an unknown field, or recipes that extend each other in a circle.
    """
    from onebit.recipe.yaml_loader import read_yaml  # only recipes need yaml: packed nets run without

    settings = read_yaml(path)
    base = settings.pop("extends", None) if isinstance(settings, dict) else None
    check_keys(settings, Recipe, source=str(path))
    if base is None:
        return settings
    if path in extending:
        raise UsageError(f"{path}: extends itself, by way of {extending[-1]}")
    inherited = read_settings(recipe_path(str(base)), extending=(*extending, path))
    own = dict.fromkeys(("summary", "reference", "measured"), "")  # what they say is of the other recipe
    return merge(inherited | own, settings)


def check_keys(settings: Any, kind: type, *, source: str, prefix: str = "") -> None:
    """Walk nested settings against a tree of dataclasses.

    Raises:
        UsageError: a part that must be a mapping is not, or a key that no field has.
    """
    if not isinstance(settings, Mapping):
        where = f"{prefix[:-1]!r} must hold" if prefix else "a recipe is"
        raise UsageError(f"{source}: {where} a mapping of fields, got {settings!r}")
    parts = _fields(kind)
    for key, value in with_own(settings).items():
        if key not in parts:
            inside = next(
                (part for part, fields in parts.items() if fields is not None and key in _fields(fields)), None
            )
            meant = f"; did you mean {inside}.{key}?" if inside else did_you_mean(str(key), parts)
            raise UsageError(f"{source}: unknown field {prefix}{key!s}{meant}")
        if parts[key] is not None:
            check_keys(value, parts[key], source=source, prefix=f"{prefix}{key}.")  # type: ignore[arg-type]


def _fields(kind: type) -> dict[str, type | None]:
    """Field name -> its dataclass, or None for a plain value."""
    found: dict[str, type | None] = {}
    for item in dataclasses.fields(kind):
        factory = item.default_factory
        found[item.name] = factory if isinstance(factory, type) and dataclasses.is_dataclass(factory) else None
    return found | dict.fromkeys(declared(kind.PART)) if issubclass(kind, Part) else found


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with those of `over` in place of those of `base`."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def build_recipe(settings: Mapping[str, Any], flags: Flags = ()) -> Recipe:
    """A recipe from settings, with flags that override them.

    Args:
        settings: nested fields, as `read_settings` returns them.
        flags: `["--optimizer.lr", "0.01", "--model", "mlp"]`, or `{"optimizer.lr": "0.01", "model.name": "mlp"}`.

    Raises:
        UsageError: an unknown flag, a value of the wrong type, or one out of range.
    """
    check_keys(settings, Recipe, source="recipe")
    meant, values = split_alias(flag_values(flags))
    model = merge(spelled_out(settings.get("model", {})), meant.get("model", {}))
    settings = {**settings, "model": spelled_out(model)}
    for name, value in values.items():
        *parts, last = name.split(".")
        part = settings
        for key in parts:
            part[key] = dict(part.get(key) or {})
            part = part[key]
        part[last] = value
    check_keys(settings, Recipe, source="recipe")
    if is_own(str(settings["model"].get("name"))):
        settings["model"].setdefault("coding", "auto")
    return build(Recipe, settings)


def split_alias(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that the model of some flags stands for, and the flags without it.

    A name that is also one of our own (`resnet20`) chooses the net alone; `spelled_out` adds what nobody set.

    Args:
        values: of flags, by field.
    """
    rest = dict(values)
    name = rest.pop("model.name", None)
    if name is None:
        return {}, rest
    if is_own(name):  # the coding of the model that it replaces is not its own
        return {"model": {"name": name, "coding": "auto"}}, rest
    model = spelled_out({"name": name})
    return {"model": {"name": name} if model["name"] == name else model}, rest


def take_alias(flags: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """`split_alias` of a list of words.

    Example:
        >>> take_alias(["--model", "vgg_cifar10", "--epochs", "3"])
        ({'model': {'name': 'vgg_small', 'weight_quantizer': None, 'input_quantizer': None}}, ['--epochs', '3'])
    """
    meant, rest = split_alias(flag_values(flags))
    return meant, [word for name, value in rest.items() for word in (f"--{name}", value)]
