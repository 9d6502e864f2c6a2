"""Names of custom code: `package.module:Class` or `path/to/file.py:Class`. Imports none of it."""

from __future__ import annotations

import re
from typing import NamedTuple

from onebit.errors import UsageError

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class CustomName(NamedTuple):
    """The parts of `where:attribute`; `where` is the path of a .py file if `is_file`, else a dotted module."""

    where: str
    attribute: str
    is_file: bool


def is_custom(name: str) -> bool:
    """Whether a name is that of custom code, or of a file without a class, which `split_custom` refuses."""
    return ":" in name or name.endswith(".py")


def short_name(name: str) -> str:
    """A name without the file or module of its code."""
    return name.rpartition(":")[2] if is_custom(name) else name


def is_same_code(name: str | None, other: str | None) -> bool:
    """Whether two names mean the same class, which may have moved to another file."""
    classes = [short_name(one) for one in (name, other) if one is not None and is_custom(one)]
    return name == other or (len(classes) == 2 and classes[0] == classes[1])


def split_custom(name: str) -> CustomName:
    """Split the name of custom code.

    Example:
        >>> split_custom("nets/small.py:Net")
        CustomName(where='nets/small.py', attribute='Net', is_file=True)
    """
    where, _, attribute = name.rpartition(":")
    is_file = where.endswith(".py")
    if not (is_file or _DOTTED.fullmatch(where)) or not _DOTTED.fullmatch(attribute):
        raise UsageError(f"{name!r}: expected path/to/file.py:Class or package.module:Class")
    return CustomName(where, attribute, is_file)
