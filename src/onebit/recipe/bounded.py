"""YAML and JSON from unknown sources: size, depth and length are checked before any value is built.

PyYAML takes minutes for a long number, gigabytes for a few nested anchors, and a tag for a call.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onebit.common.files import read_regular
from onebit.errors import UsageError

MOST_BYTES = 100_000
"""Largest file; the longest recipe that ships has 3,400."""
MOST_DEPTH = 20
MOST_PARTS = 5_000
"""Keys, values and brackets; a complete recipe has 300."""
LONGEST_TEXT = 2_000
"""Characters of one value; what was measured with a recipe takes 400."""
LONGEST_NUMBER = 40
"""Characters of a number, in any notation; one of thousands of digits is slow to read and fits nowhere."""


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    try:
        return checked_tree(json.loads(read_text(path)), where=f"{path}: ")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}, line {getattr(error, 'lineno', 1)}: not valid JSON") from None


def read_text(path: Path) -> str:
    """The text of a file of at most MOST_BYTES, or UsageError."""
    try:
        return read_regular(path, largest=MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None


def checked_tree(value: Any, *, where: str = "", depth: int = 0) -> Any:
    """A value made of mappings, lists, texts and numbers; UsageError unless each is within its bounds."""
    if depth > MOST_DEPTH:
        raise UsageError(f"{where}nested more than {MOST_DEPTH} deep")
    if isinstance(value, (dict, list)):
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            checked_tree(item, where=where, depth=depth + 1)
    elif isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            raise UsageError(f"{where}a value of {len(value):,} characters, too long for a recipe")
    elif value is not None and not isinstance(value, (int, float)):
        raise UsageError(f"{where}a {type(value).__name__} ({value}), expected a plain value: put it in quotes")
    return value
