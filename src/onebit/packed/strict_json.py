"""Strict parsing of JSON from untrusted files: anything unexpected is a FormatError."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, NoReturn

from onebit.common.tables import did_you_mean
from onebit.errors import FormatError, short

_LONGEST_TEXT = 200
_MOST_DIGITS = 20  # 64-bit numbers; Python's own limit of 4300 digits raises ValueError


def parse_json(what: str, text: bytes | str) -> Any:
    """Parse JSON in UTF-8; FormatError for anything else, duplicate keys, NaN, huge integers and deep nesting."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")  # json would also accept UTF-16 and UTF-32
        return json.loads(text, object_pairs_hook=_pairs, parse_int=_integer, parse_constant=_constant)
    except FormatError as error:
        raise FormatError(f"{what} {error}") from None
    except RecursionError:
        raise FormatError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise FormatError(f"{what} is not JSON in UTF-8: {error}") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise FormatError(f"has the key {short(key)} twice")
        result[key] = value
    return result


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise FormatError(f"has a number of {len(digits)} digits")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise FormatError(f"has the number {name}")


def check_fields(what: str, value: object, names: Collection[str], *, optional: Collection[str] = ()) -> dict[str, Any]:
    """`value` as a dict with the fields `names`, and no others but some of `optional`, or FormatError."""
    if not isinstance(value, dict):
        raise FormatError(f"{what} is {short(value)}, expected an object")
    for name in value:
        if name not in names and name not in optional:
            raise FormatError(f"{what} has the unknown field {short(name)}{did_you_mean(name, [*names, *optional])}")
    for name in names:
        if name not in value:
            raise FormatError(f"{what} lacks the field {name!r}")
    return value


def check_text(what: str, text: object, *, longest: int = _LONGEST_TEXT) -> str:
    """`text`, or FormatError: a file must not send long text or control characters to a terminal."""
    if not isinstance(text, str) or len(text) > longest or not text.isprintable():
        raise FormatError(f"{what} is {short(text)}, expected printable text of at most {longest:,} characters")
    return text
