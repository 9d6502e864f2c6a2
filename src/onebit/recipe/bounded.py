"""YAML and JSON of strangers: size, depth and length are bounded before a value is made of them.

PyYAML takes minutes for a long number, gigabytes for a few nested anchors, and a tag for a call.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from onebit.common.files import read_regular
from onebit.errors import UsageError

MOST_BYTES = 100_000
"""Of a file; the longest recipe that ships has 3,400."""
MOST_DEPTH = 20
MOST_PARTS = 5_000
"""Keys, values and brackets; a complete recipe has 300."""
LONGEST_TEXT = 2_000
"""Characters of one value; what was measured with a recipe takes 400."""
LONGEST_NUMBER = 40
"""Characters of a number, in any notation; one of thousands of digits is slow to read and fits nowhere."""
_FIRST = frozenset("0123456789+-.")
_NUMERIC = frozenset("0123456789+-._:eExXaAbBcCdDfF")


def read_yaml(path: Path) -> Any:
    """The value in a YAML file; JSON is YAML, too.

    Raises:
        UsageError: unreadable, not YAML, or beyond one of the bounds; one line that names the file.
    """
    try:
        text = _text(path)
        check_yaml(text, where=f"{path}, ")
        return checked_tree(yaml.safe_load(text), where=f"{path}: ")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not valid YAML or JSON") from None
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: not valid YAML or JSON ({error})") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UsageError: unreadable, not JSON, or beyond one of the bounds; one line that names the file.
    """
    try:
        return checked_tree(json.loads(_text(path)), where=f"{path}: ")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}, line {getattr(error, 'lineno', 1)}: not valid JSON") from None


def _text(path: Path) -> str:
    try:
        return read_regular(path, largest=MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None


def check_yaml(text: str, *, where: str = "") -> None:
    """Refuse what YAML can hide in a few lines, before any of it becomes a value.

    Raises:
        UsageError: nested too deeply, an anchor, a tag, or a value that is too long. yaml.YAMLError: not YAML.
    """
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        place = f"{where}line {event.start_mark.line + 1}"  # type: ignore[union-attr]  # each event has one
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if count > MOST_PARTS:
            raise UsageError(f"{place}: more than {MOST_PARTS:,} keys and values")
        if depth > MOST_DEPTH:
            raise UsageError(f"{place}: nested more than {MOST_DEPTH} deep")
        if getattr(event, "anchor", None) is not None:
            raise UsageError(f"{place}: anchors (&) and aliases (*) are not read: write the value in full")
        if getattr(event, "tag", None) is not None:
            raise UsageError(f"{place}: tags (!) are not read: write a plain value")
        if isinstance(event, yaml.ScalarEvent):
            numeric = event.implicit[0] and event.value[:1] in _FIRST and _NUMERIC.issuperset(event.value)
            if len(event.value) > (LONGEST_NUMBER if numeric else LONGEST_TEXT):
                raise UsageError(f"{place}: a value of {len(event.value):,} characters, too long for a recipe")


def checked_tree(value: Any, *, where: str = "", depth: int = 0) -> Any:
    """A value made of mappings, lists, texts and numbers, each within its bounds.

    Raises:
        UsageError: it is not.
    """
    if depth > MOST_DEPTH:
        raise UsageError(f"{where}nested more than {MOST_DEPTH} deep")
    if isinstance(value, dict):
        for item in (*value, *value.values()):
            checked_tree(item, where=where, depth=depth + 1)
    elif isinstance(value, list):
        for item in value:
            checked_tree(item, where=where, depth=depth + 1)
    elif isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            raise UsageError(f"{where}a value of {len(value):,} characters, too long for a recipe")
    elif value is not None and not isinstance(value, (int, float)):
        raise UsageError(f"{where}a {type(value).__name__} ({value}), expected a plain value: put it in quotes")
    return value
