"""Checks of arguments and settings, and values in words."""

from __future__ import annotations

import math
import os
from typing import Any

from onebit.errors import UsageError, short


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


def positive(value: float) -> bool:
    """Above zero, and finite."""
    return math.isfinite(value) and value > 0


def need(name: str, value: Any, holds: bool, expected: str) -> None:
    """Refuse the value of a setting with a UsageError if `holds` is false."""
    if not holds:
        raise UsageError(f"{name} must be {expected}, got {value!r}")
