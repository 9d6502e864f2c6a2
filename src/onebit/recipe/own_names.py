"""Models of the user's own in a recipe: `package.module:Class` or `path/to/file.py:Class`. Nothing is imported here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import PurePath
from typing import NamedTuple

from onebit.errors import UsageError

OWN_FIELDS = (
    *("name", "weight_quantizer", "input_quantizer", "weight_options", "input_options"),
    *("value", "init", "coding", "real_first", "real_last"),
)
"""Fields of the model that say how to binarize one of the user's own; other `--model.NAME` are its arguments."""
ARGUMENTS = "model.arguments"
"""Field of a recipe with the arguments of a custom model."""
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class OwnName(NamedTuple):
    """The parts of `where:attribute`; `is_file`: `where` is the path of a .py file, else a dotted module."""

    where: str
    attribute: str
    is_file: bool


def is_own(name: str) -> bool:
    """Whether a model's name is one of the user's own code; also a file without a class, which is refused as such."""
    return ":" in name or name.endswith(".py")


def short_name(name: str) -> str:
    """A model's name without the place of its code."""
    return name.rpartition(":")[2] if is_own(name) else name


def split_own(name: str) -> OwnName:
    """The parts of the name of a custom model.

    Example:
        >>> split_own("nets/small.py:Net")
        OwnName(where='nets/small.py', attribute='Net', is_file=True)
    """
    where, _, attribute = name.rpartition(":")
    is_file = where.endswith(".py")
    if not (is_file or _DOTTED.fullmatch(where)) or not _DOTTED.fullmatch(attribute):
        near = f"; did you mean {where}.py:{attribute}?" if "/" in where and not PurePath(where).suffix else ""
        raise UsageError(f"model {name!r}: expected path/to/file.py:Class or package.module:Class{near}")
    return OwnName(where, attribute, is_file)


def own_of_words(words: Sequence[str]) -> bool:
    """Whether a command line names a custom model with `--model` or `-a`."""
    pairs = zip_longest(words, words[1:], fillvalue="")
    return any(
        is_own(after) if word in ("--model", "-a", "--model.name") else word.startswith("--model=") and is_own(word)
        for word, after in pairs
    )
