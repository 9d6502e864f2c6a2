"""Recipes read from YAML, JSON and flags."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args

import yaml

from onebit.common.aliases import spelled_out
from onebit.common.tables import did_you_mean, resolve
from onebit.errors import UsageError
from onebit.recipe.bounded import read_yaml
from onebit.recipe.settings import Recipe, flatten
from onebit.recipe.typed import build, field_types

RECIPE_FOLDER = Path(__file__).parent.parent / "recipes"
METHODS_FILE = RECIPE_FOLDER / "methods.yaml"
DEFAULTS_FILE = RECIPE_FOLDER / "defaults.yaml"
NAMED_PARTS = ("model", "optimizer", "schedule")
"""Parts that `--model NAME` picks by name while `--model.widths ...` sets an option."""

NO_OPTIONS: dict[str, Any] = {"weight_options": None, "input_options": None}
ANY_OPTIMIZER = ("latent_clip", "lr_scale")
"""What a method says of its latents, whichever optimizer moves them."""

OPTION_FIELDS = ("model.weight_options", "model.input_options")
"""Fields that hold arguments by name: `--model.weight_options.temperature 1e-10`."""


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
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def method_settings(name: str, *, optimizer: str | None = None) -> dict[str, Any]:
    """The part of a recipe that a method sets.

    Args:
        name: of the method.
        optimizer: the optimizer that was asked for; where it is not that of the method, it brings its own settings.

    Raises:
        UnknownNameError: no such method.
    """
    row: dict[str, Any] = resolve(methods(), name, kind="method")
    own = row["optimizer"]
    if optimizer is None or own.get("name") in (None, optimizer):
        return row
    return {**row, "optimizer": {key: own[key] for key in ANY_OPTIMIZER if key in own}}


def recipe_path(name: str) -> Path:
    """The file of a recipe: a name that ships, or a path to a YAML or JSON file.

    Raises:
        UsageError: neither.
    """
    if name in recipe_names():
        return RECIPE_FOLDER / f"{name}.yaml"
    path = Path(name)
    if os.path.isfile(path / "recipe.yaml"):  # os.path: a name too long for a file is no error there
        return path / "recipe.yaml"
    if path.suffix in (".yaml", ".yml", ".json") or os.path.exists(name):
        if not os.path.isfile(name):
            raise UsageError(f"{name}: no such recipe file")
        return path
    raise UsageError(f"unknown recipe {name!r}{did_you_mean(name, recipe_names())}")


def read_settings(path: Path, *, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys and values of a recipe file (JSON is YAML too), every key checked against the dataclasses.

    A file with `extends: NAME` holds what differs from another recipe; what was measured with that one is left out.

    Args:
        extending: the files that led here by their `extends`.

    Raises:
        UsageError: unreadable, not a mapping, an unknown field, or recipes that extend each other in a circle.
    """
    settings = read_yaml(path)
    base = settings.pop("extends", None) if isinstance(settings, dict) else None
    check_keys(settings, Recipe, source=str(path))
    if base is None:
        return settings
    if path in extending:
        raise UsageError(f"{path}: extends itself, by way of {extending[-1]}")
    inherited = read_settings(recipe_path(str(base)), extending=(*extending, path))
    return merge(inherited | {"measured": ""}, settings)


def check_keys(settings: Any, kind: type, *, source: str, prefix: str = "") -> None:
    """Walk nested settings against a tree of dataclasses.

    Raises:
        UsageError: a part that must be a mapping is not, or a key that no field has.
    """
    if not isinstance(settings, Mapping):
        where = f"{prefix[:-1]!r} must hold" if prefix else "a recipe is"
        raise UsageError(f"{source}: {where} a mapping of fields, got {settings!r}")
    parts = _fields(kind)
    for key, value in settings.items():
        if key not in parts:
            inside = next((part for part, held in parts.items() if held is not None and key in _fields(held)), None)
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
    return found


def flag_names() -> list[str]:
    """`seed`, `optimizer.lr`, …: every field that is a flag."""
    return list(flatten(dataclasses.asdict(Recipe())))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings `over` laid on `base`."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def build_recipe(settings: Mapping[str, Any], flags: Sequence[str] = ()) -> Recipe:
    """A recipe from checked settings with flags laid over them.

    Args:
        settings: nested fields, as `read_settings` returns them.
        flags: `["--optimizer.lr", "0.01", "--model", "mlp"]`.

    Raises:
        UsageError: an unknown flag, a value of the wrong type, or one out of range.
    """
    check_keys(settings, Recipe, source="recipe")
    meant, flags = take_alias(flags)
    model = merge(spelled_out(settings.get("model", {})), meant.get("model", {}))
    settings = {**settings, "model": spelled_out(model)}
    return build(Recipe, _with_flags(settings, flags))


def _with_flags(settings: Mapping[str, Any], flags: Sequence[str]) -> dict[str, Any]:
    """Settings with checked flags laid over them; of a flag that is given twice the last one counts.

    Raises:
        UsageError: a flag without a value, or a word that belongs to none.
    """
    settings = dict(settings)
    words = iter(flags)
    for word in words:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--"):
            raise UsageError(f"unrecognized arguments: {' '.join([word, *words])}")
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise UsageError(f"{flag}: expected one argument")
        *parts, last = flag[2:].split(".")
        part = settings
        for name in parts:
            part[name] = dict(part.get(name) or {})
            part = part[name]
        part[last] = value
    return settings


def take_alias(flags: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The settings that `--model NAME` stands for, and the flags without it: an alias is taken once, however often
    they pass through here.

    A name that is also one of our own (`alexnet`) chooses the net alone; `spelled_out` adds what nobody set.

    Example:
        >>> take_alias(["--model", "vgg_cifar10", "--epochs", "3"])
        ({'model': {'name': 'vgg_small', 'weight_quantizer': None, 'input_quantizer': None}}, ['--epochs', '3'])
    """
    flags = _checked_flags(flags)
    meant: dict[str, Any] = {}
    kept: list[str] = []
    i = 0
    while i < len(flags):
        flag, equals, value = flags[i].partition("=")
        i += 1
        if flag == "--model.name" and (equals or i < len(flags)):
            if not equals:
                value, i = flags[i], i + 1
            model = spelled_out({"name": value})
            meant = merge(meant, {"model": {"name": value} if model["name"] == value else model})
        else:
            kept.append(flags[i - 1])
    return meant, kept


def _checked_flags(flags: Sequence[str]) -> list[str]:
    """Flags with `--model NAME` spelled `--model.name NAME`, each known; a switch without a value is true.

    Raises:
        UsageError: an unknown flag.
    """
    known = flag_names()
    checked = []
    for flag, following in zip_longest(flags, flags[1:], fillvalue="--"):
        if flag.startswith("--"):
            name, equals, value = flag[2:].partition("=")
            name = f"{name}.name" if name in NAMED_PARTS else name.replace("-", "_")
            if name not in known and name.rpartition(".")[0] not in OPTION_FIELDS:
                raise UsageError(f"unknown option --{name}{did_you_mean(f'--{name}', [f'--{flag}' for flag in known])}")
            if not equals and following.startswith("--") and _is_switch(name):
                equals, value = "=", "true"
            flag = f"--{name}{equals}{value}"
        checked.append(flag)
    return checked


def _is_switch(name: str) -> bool:
    """Whether a field is true or false."""
    kind: Any = Recipe
    *parts, last = name.split(".")
    if ".".join(parts) in OPTION_FIELDS:
        return False
    for part in (*parts, last):
        kind = field_types(kind)[part]
    return bool in (kind, *get_args(kind))
