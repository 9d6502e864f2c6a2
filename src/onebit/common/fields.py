"""Dataclasses whose fields are converted to their annotated types and checked against the bounds in these."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from pathlib import PurePath
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Union, get_args, get_origin

from onebit.errors import UsageError, short

_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_INTEGER = re.compile(r"[-+]?[0-9]{1,19}")
_POINT = re.compile(r"\.(?=inf|nan)")
_SEQUENCES = (list, tuple, collections.abc.Sequence, collections.abc.Iterable)


class Bound(NamedTuple):
    """Metadata of `Annotated`: the valid values of a type, in words and as a test."""

    expected: str
    holds: Callable[[Any], bool]


def within(interval: str) -> Bound:
    """The numbers in an interval.

    Example:
        >>> within("(0, 1]").holds(0), within("(0, 1]").holds(1), within("[2, inf)").expected
        (False, True, 'in [2, inf)')
    """
    low, high = map(float, interval[1:-1].split(","))
    above = operator.ge if interval[0] == "[" else operator.gt
    below = operator.le if interval[-1] == "]" else operator.lt
    return Bound(f"in {interval}", lambda value: above(value, low) and below(value, high))


def one_of(*values: object) -> Bound:
    """Only these values."""
    return Bound(" or ".join(map(repr, values)), values.__contains__)


Positive = Annotated[float, within("(0, inf)")]
NotNegative = Annotated[float, within("[0, inf)")]
Share = Annotated[float, within("[0, 1)")]
PositiveShare = Annotated[float, within("(0, 1]")]
Count = Annotated[int, within("[1, inf)")]
NotNegativeInt = Annotated[int, within("[0, inf)")]


class MismatchError(Exception):
    """A value does not fit; the text is what was expected."""


class Checked:
    """Base of a frozen dataclass, decorated by `checked`, that converts its fields to their types.

    Raises:
        UsageError: a value that its type does not take.
    """

    PART: ClassVar[str] = ""

    def __init__(self, *given: Any, **named: Any) -> None:
        kinds = dataclasses.fields(self)  # type: ignore[arg-type]  # each subclass is a dataclass
        values = dict(zip((kind.name for kind in kinds), given, strict=False)) | named
        for kind in kinds:
            if kind.name not in values and kind.default is MISSING and kind.default_factory is MISSING:
                raise TypeError(f"{type(self).__name__} lacks {kind.name!r}")
            default = kind.default if kind.default_factory is MISSING else kind.default_factory()
            vars(self)[kind.name] = values.pop(kind.name, default)
        for name in values:
            raise TypeError(f"{type(self).__name__} has no field {name!r}")
        self.__post_init__()

    def __post_init__(self) -> None:
        prefix = f"{self.PART}." if self.PART else ""
        for name, hint in field_types(type(self)).items():  # type: ignore[arg-type]  # a class is hashable
            vars(self)[name] = read(vars(self)[name], hint, name=prefix + name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"{type(self).__name__}.{name} cannot change: use dataclasses.replace")

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


if TYPE_CHECKING:
    from dataclasses import dataclass as checked
else:

    def checked(*, frozen: bool, **options: Any) -> Callable[[type], type]:
        """`dataclasses.dataclass` of a subclass of `Checked`, without methods whose code would slow down `--help`."""
        return dataclasses.dataclass(init=False, repr=False, eq=False, **options)


_annotations = functools.cache(functools.partial(inspect.get_annotations, eval_str=True))


@functools.cache
def field_types(kind: Any) -> dict[str, Any]:
    """Field -> its type, with its bounds."""
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):  # a third faster than `get_type_hints`
        hints |= _annotations(base)
    return {item.name: hints[item.name] for item in dataclasses.fields(kind) if item.init}


def descriptions(kind: type) -> dict[str, str]:
    """Field -> its description under `Args:` in the docstring of a dataclass and its bases; empty under
    python -OO."""
    documents = [inspect.cleandoc(vars(base).get("__doc__") or "") for base in reversed(kind.__mro__[:-1])]
    args = "\n".join(text.partition("Args:\n")[2].partition("\n\n")[0] for text in documents)
    rows = re.findall(r"^    (\w+): ((?:.|\n {5,})+)", args, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in rows}


def read(value: Any, hint: Any, *, name: str) -> Any:
    """Convert a value to a type and check its bounds; text becomes the number, bool, null or list that it spells.

    A union takes the first of its types that fits; `str`, which always fits, comes last. A type that text cannot spell,
    such as a class, takes any value.

    Args:
        name: for the message.

    Raises:
        UsageError: the value is of another type, or out of bounds.

    Example:
        >>> read("1e-3", float | None, name="lr"), read("64,32", tuple[int, ...], name="widths")
        (0.001, (64, 32))
    """
    try:
        return _read(value, hint, _READERS)
    except MismatchError as error:
        raise UsageError(f"{name}: expected {error}, got {short(value)}") from None


def argument(value: Any) -> Any:
    """A value of unknown type; text that spells null, a bool or a number becomes it."""
    return _read(value, None | bool | int | float | str, _READERS) if isinstance(value, str) else value


def read_exactly(value: Any, hint: Any) -> Any:
    """Check a value of JSON against a type; only lists become tuples, and objects what `from_json` makes of them.

    Raises:
        MismatchError: the value is of another type, or out of bounds.
    """
    return _read(value, hint, _EXACT)


_Readers = dict[Any, Callable[[Any], Any]]


def _read(value: Any, hint: Any, readers: _Readers) -> Any:
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin is Annotated:
        found = _read(value, args[0], readers)
        for bound in args[1:]:
            if not bound.holds(found):
                raise MismatchError(bound.expected)
        return found
    if origin in (Union, UnionType):
        return _first_of(value, args, readers)
    if origin is Literal:
        choices = [choice for choice in args if str(choice) == str(value)]
        return choices[0] if choices else _mismatch(" or ".join(map(str, args)))
    if origin in _SEQUENCES:
        kinds = args or (Any, ...)
        found = _sequence(readers[tuple](value), kinds if origin is tuple else (kinds[0], ...), readers)
        return tuple(found) if origin is tuple else found
    if origin is dict:
        key, item = args or (str, Any)
        return {_read(name, key, readers): _read(each, item, readers) for name, each in readers[dict](value).items()}
    make = getattr(origin, "from_json", None)
    return make(value) if make and not isinstance(value, origin) else readers.get(origin, readers[Any])(value)


def _mismatch(expected: str) -> Any:
    raise MismatchError(expected)


def _first_of(value: Any, kinds: tuple[Any, ...], readers: _Readers) -> Any:
    expected = []
    for kind in sorted(kinds, key=lambda kind: (kind is str, kind is not NoneType)):
        try:
            return _read(value, kind, readers)
        except MismatchError as error:  # noqa: PERF203
            expected.append(str(error))
    return _mismatch(" or ".join(name for name in dict.fromkeys(expected) if name != "null"))


def _sequence(values: Any, kinds: tuple[Any, ...], readers: _Readers) -> list[Any]:
    if kinds[-1:] == (...,):
        kinds = kinds[:1] * len(values)
    if len(kinds) != len(values):
        _mismatch(f"{len(kinds)} values")
    return [_read(value, kind, readers) for value, kind in zip(values, kinds, strict=True)]


def _list(value: Any) -> Any:
    if isinstance(value, str):
        parsed = _json(value)
        items = [item.strip() for item in value.strip("[]()").split(",") if item.strip()]
        value = parsed if isinstance(parsed, list) else items
    return value if isinstance(value, (list, tuple)) else _mismatch("a list")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _none(value: Any) -> None:
    if value is not None and value not in ("null", "Null", "NULL", "~"):
        _mismatch("null")


def _bool(value: Any) -> Any:
    found = _BOOLS.get(value.lower()) if isinstance(value, str) else value
    return found if isinstance(found, bool) else _mismatch("true or false")


def _int(value: Any) -> Any:
    found = int(value) if isinstance(value, str) and _INTEGER.fullmatch(value) else value
    whole = hasattr(found, "__index__") and not isinstance(found, bool)  # numpy's integers, too
    return operator.index(found) if whole else _mismatch("a whole number")


def _float(value: Any) -> Any:
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text, and writes .inf and .nan
        value = _POINT.sub("", value.lower())
    try:
        return _mismatch("a number") if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        return _mismatch("a number")


def _str(value: Any) -> Any:
    return str(value) if isinstance(value, (str, PurePath)) else _mismatch("text")


def _dict(value: Any) -> Any:
    if isinstance(value, str):  # {temperature: 1e-10}
        parsed = _json(value)
        pairs = [item.partition(":") for item in value.strip("{} ").split(",")] if value[:1] == "{" else []
        items = {key.strip(): text.strip() for key, _, text in pairs if key.strip()}
        value = parsed if isinstance(parsed, dict) else items or value
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        _mismatch("options by name")
    return value


def _exactly(kinds: type | tuple[type, ...], expected: str) -> Callable[[Any], Any]:
    return lambda value: value if isinstance(value, kinds) and type(value) is not bool else _mismatch(expected)


_READERS: _Readers = {NoneType: _none, bool: _bool, int: _int, float: _float, str: _str, tuple: _list, dict: _dict}
_READERS |= {Any: argument, object: lambda value: value}
_EXACT: _Readers = {
    NoneType: _exactly(NoneType, "null"),
    bool: lambda value: value if type(value) is bool else _mismatch("true or false"),
    int: _exactly(int, "a whole number"),
    float: _exactly((int, float), "a number"),
    str: _exactly(str, "text"),
    tuple: _exactly((list, tuple), "a list"),
    dict: _exactly(Mapping, "an object"),
    Any: lambda value: value,
}
