"""Strict parsing of JSON from untrusted files: anything unexpected is a FormatError."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from onebit.errors import FormatError, short

_MAX_DIGITS = 20  # a 64-bit number has fewer; Python stops at 4300


def parse_object(what: str, text: bytes | str) -> dict[str, Any]:
    """A JSON object in UTF-8; FormatError for anything else, duplicate keys, NaN, huge integers and deep nesting."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")  # json would also accept UTF-16 and UTF-32
        found = json.loads(text, object_pairs_hook=_pairs, parse_int=_integer, parse_constant=_constant)
    except FormatError as error:
        raise FormatError(f"{what} {error}") from None
    except RecursionError:
        raise FormatError(f"{what} is nested too deeply") from None
    except (ValueError, TypeError) as error:
        raise FormatError(f"{what} is not JSON in UTF-8: {error}") from None
    if not isinstance(found, dict):
        raise FormatError(f"{what} is {short(found)}, expected an object")
    return found


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise FormatError(f"has the key {short(key)} twice")
        result[key] = value
    return result


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise FormatError(f"has a number of {len(digits)} digits")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise FormatError(f"has the number {name}")
