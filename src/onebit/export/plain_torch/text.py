"""Pieces of Python text, laid out as ruff does it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

WIDTH = 120


def quoted(text: str) -> str:
    """A string literal, in the quotes that need fewer escapes."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + text.replace("\\", "\\\\").replace(quote, f"\\{quote}") + quote


def plain(text: str) -> str:
    """Text for a docstring."""
    return text.replace("\\", "/").replace('"', "'").strip()


def listing(start: str, items: Sequence[str], end: str, *, indent: str) -> str:
    """`start`, the items and `end` in one line, or one line for each item if that is too long."""
    line = f"{indent}{start}{', '.join(items)}{end}"
    if columns(line) <= WIDTH:
        return line
    return "\n".join([indent + start, *(f"{indent}    {item}," for item in items), indent + end])


def call(function: str, arguments: Sequence[str], *, indent: str) -> str:
    """A call in one line, with its arguments in the next, or with one line for each."""
    line = f"{indent}{function}({', '.join(arguments)})"
    inner = f"{indent}    {', '.join(arguments)}"
    if columns(line) <= WIDTH:
        return line
    if columns(inner) <= WIDTH:
        return f"{indent}{function}(\n{inner}\n{indent})"
    return listing(f"{function}(", arguments, ")", indent=indent)


def columns(text: str) -> int:
    """Columns that a text takes at most: letters of some scripts are two wide."""
    return sum(1 if unicodedata.east_asian_width(letter) in ("Na", "H", "N") else 2 for letter in text)
