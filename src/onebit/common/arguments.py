"""Checks of the arguments of public functions: one line with what was given, what is expected, and how to fix it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from onebit.errors import UsageError, WrongTypeError, short


def described(value: object) -> str:
    """A value in a few words, for a message.

    Example:
        >>> described([1, 2]), described("mlp"), described(dict), described(None)
        ('list', "'mlp'", 'the class dict', 'None')
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return short(value)
    if isinstance(value, os.PathLike):
        return f"the path {os.fspath(value)!r}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"array {str(dtype).removeprefix('torch.')} {tuple(shape)}"
    return type(value).__name__


def check_kind(name: str, value: object, kind: Any, expected: str, ways: Mapping[str, str] | None = None) -> None:
    """Check the type of an argument.

    Args:
        name: of the argument; kind: the second argument of `isinstance`; expected: the same in words.
        ways: what to do instead, by the name of the given type or of one of its base classes.

    Raises:
        WrongTypeError: `value` is not an instance of `kind`.
    """
    if isinstance(value, kind):
        return
    way = next((ways[base.__name__] for base in type(value).__mro__ if base.__name__ in ways), None) if ways else None
    raise WrongTypeError(f"{name}: got {described(value)}, expected {expected}{f'; {way}' if way else ''}")


def check_path(path: object, expected: str, ways: Mapping[str, str] | None = None) -> None:
    """Check that the argument `path` is a path and not empty; `expected` and `ways` are those of `check_kind`."""
    check_kind("path", path, (str, os.PathLike), expected, ways)
    if not os.fspath(path):  # type: ignore[call-overload]  # which pathlib takes for the current folder
        raise UsageError(f"path: got '', expected {expected}")


def check_number(name: str, value: Any, *, whole: bool = False, least: float | None = None) -> None:
    """Check that an argument is a number, and at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise WrongTypeError(f"{name}: got {described(value)}, expected a {'whole ' if whole else ''}number")
    if least is not None and not float(value) >= least:
        raise UsageError(f"{name} must be {least:g} or more, got {value}")


def positive(value: float) -> bool:
    """Above zero, and finite."""
    return math.isfinite(value) and value > 0


def need(name: str, value: Any, holds: bool, expected: str) -> None:
    """Refuse the value of a setting with a UsageError if `holds` is false."""
    if not holds:
        raise UsageError(f"{name} must be {expected}, got {value!r}")
