"""Values of a recipe file or of flags, as the types that the dataclasses name."""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import re
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import PurePath
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from onebit.errors import UsageError
from onebit.recipe.options import Part, declared, field_types, with_own

Kind = TypeVar("Kind")

_NULLS = ("null", "Null", "NULL", "~")
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_POINT = re.compile(r"\.(?=inf|nan)")


_OTHER: Any = object()
"""What a reader answers to a value of another type."""


class _WrongTypeError(Exception):
    """Names of the types that were expected, and the value that is of none of them."""


def build(kind: type[Kind], settings: Mapping[str, Any], *, prefix: str = "") -> Kind:
    """A dataclass of nested settings; what they leave out has its default.

    Args:
        kind: a tree of dataclasses whose fields are of the types of `field_types`.
        settings: field name -> value as YAML reads it, or the text of a flag.

    Raises:
        UsageError: a value of another type, with the name of its field; whatever the dataclass raises.

    Example:
        >>> build(OptimizerRecipe, {"lr": "1e-3"}).lr
        0.001
    """
    settings = with_own(settings)
    hints = types_of(kind, settings.get("name"))
    values = {}
    for name, value in settings.items():
        if dataclasses.is_dataclass(part := hints[name]):
            values[name] = build(part, value, prefix=f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            values[name] = _field(value, hints[name], typed, name=prefix + name)
    return kind(**values)


def _field(value: Any, hint: Any, read: Callable[[Any, Any], Any], *, name: str) -> Any:
    try:
        return read(value, hint)
    except _WrongTypeError as error:
        expected, got = error.args
        raise UsageError(f"{name}: expected {expected}, got {'null' if got is None else str(got)[:100]}") from None


def types_of(kind: Any, chosen: Any = None) -> dict[str, Any]:
    """Name -> type of the fields of a dataclass, and of the options of a part for the `chosen` entry."""
    if not issubclass(kind, Part):
        return field_types(kind)
    return {name: found.option.kind for name, found in declared(kind.PART, chosen).items()} | field_types(kind)


def typed(value: Any, hint: Any) -> Any:
    """A value as the first type of a union that takes it; text takes everything, so null and numbers come first.

    Raises:
        _WrongTypeError: none does.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in sorted(kinds, key=lambda kind: (kind is str, kind is not types.NoneType)):
        found = _READERS[get_origin(kind) or kind](value, kind)
        if found is not _OTHER:
            return found
    names = [(get_origin(kind) or kind).__name__ for kind in kinds if kind is not types.NoneType]
    raise _WrongTypeError(" or ".join(names), value)


def flag_text(value: Any) -> str:
    """A setting as a user types it after its flag; `typed` reads it back.

    Example:
        >>> flag_text(20.0), flag_text((8, 4)), flag_text("adam"), flag_text(None)
        ('20', '[8, 4]', 'adam', 'null')
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)


def argument(value: Any) -> Any:
    """The value of an argument whose type nobody knows here: text that reads as null, a truth or a number is one."""
    if isinstance(value, str):
        for reader in (_none, _bool, _int, _float):
            found = reader(value, None)
            if found is not _OTHER:
                return found
    return value


def argument_of(value: Any, hint: Any, default: Any, *, name: str) -> Any:
    """The value of an argument of a function of the user's own: text becomes what the signature says.

    Args:
        hint: its type, None where nobody says; then the type of the `default` counts.
        name: for the message.

    Example:
        >>> argument_of("64,32", list[int], (), name="model.widths")
        [64, 32]
    """
    if hint is None and isinstance(default, (bool, int, float, str, tuple, list)):
        hint = int | float if type(default) is int else type(default)
    return _field(value, hint, _as_hinted, name=name)


def _as_hinted(value: Any, hint: Any) -> Any:
    """A value as any type of a signature; one that text cannot say, such as a class, is left to the function."""
    origin = get_origin(hint) or hint
    if origin is Literal:
        found = [choice for choice in get_args(hint) if str(choice) == str(value)]
        if not found:
            raise _WrongTypeError(" or ".join(map(repr, get_args(hint))), value)
        return found[0]
    if origin in (Union, types.UnionType):
        kinds = sorted(get_args(hint), key=lambda kind: (kind is str, kind is not types.NoneType))
        for kind in kinds:
            with suppress(_WrongTypeError):
                return _as_hinted(value, kind)
        names = [getattr(kind, "__name__", str(kind)) for kind in get_args(hint) if kind is not types.NoneType]
        raise _WrongTypeError(" or ".join(names), value)
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        items = _loaded(f"[{value}]" if isinstance(value, str) and value[:1] not in "[(" else value)
        if isinstance(items, str) and items[:1] == "(":
            items = _loaded(f"[{items[1:].removesuffix(')')}]")
        if not isinstance(items, (list, tuple)):
            raise _WrongTypeError("a list", value)
        each = [kind for kind in get_args(hint) if kind is not ...]
        if len(each) > 1 and len(each) != len(items):
            raise _WrongTypeError(f"{len(each)} values", value)
        each = each if len(each) > 1 else (each or [None]) * len(items)
        made = [_as_hinted(item, kind) for item, kind in zip(items, each, strict=True)]
        return tuple(made) if origin is tuple else made
    if origin in (bool, int, float, str, dict, types.NoneType):
        made = _READERS[origin](value, dict[str, Any] if origin is dict else hint)
        if made is _OTHER:
            raise _WrongTypeError(origin.__name__, value)
        return made
    loaded = _loaded(value) if isinstance(value, str) and value[:1] in "[{" else value
    return argument(loaded)


def _none(value: Any, kind: Any) -> Any:
    return None if value is None or value in _NULLS else _OTHER


def _bool(value: Any, kind: Any) -> Any:
    found = _BOOLS.get(value.lower()) if isinstance(value, str) else value
    return found if isinstance(found, bool) else _OTHER


def _int(value: Any, kind: Any) -> Any:
    found = int(value) if isinstance(value, str) and _INTEGER.fullmatch(value) else value
    return found if type(found) is int else _OTHER


def _float(value: Any, kind: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return _OTHER
    if isinstance(value, str):  # YAML 1.1 takes 1e-3 for text, and has a point before inf and nan
        value = _POINT.sub("", value.lower())
    try:
        return float(value)
    except (ValueError, OverflowError):
        return _OTHER


def _str(value: Any, kind: Any) -> Any:
    return str(value) if isinstance(value, (str, PurePath)) else _OTHER


def _tuple(value: Any, kind: Any) -> Any:
    bare = isinstance(value, str) and value and value[0] not in "[{"
    found = _loaded(f"[{value}]" if bare else value)  # a flag needs no brackets: 784,100,10
    item = get_args(kind)[0]
    return tuple(typed(each, item) for each in found) if isinstance(found, (list, tuple)) else _OTHER


def _dict(value: Any, kind: Any) -> Any:
    found = _loaded(value)
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        return _OTHER
    if get_args(kind)[1] is object:  # their types are not known yet
        return found
    return {key: argument(each) for key, each in found.items()}


def _loaded(value: Any) -> Any:
    """The list or mapping in a text."""
    if not isinstance(value, str):
        return value
    import yaml

    from onebit.recipe.yaml_loader import load_yaml

    try:
        return load_yaml(value)
    except (UsageError, yaml.YAMLError, ValueError, RecursionError):
        return value


_READERS: dict[Any, Callable[[Any, Any], Any]] = {
    types.NoneType: _none,
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    tuple: _tuple,
    dict: _dict,
}
