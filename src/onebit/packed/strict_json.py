"""Strict parsing of JSON from untrusted files: anything unexpected is a FormatError."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, NoReturn

from onebit.common.tables import did_you_mean
from onebit.errors import FormatError, short

LONGEST_TEXT = 200
MOST_COUNT = 2**63 - 1
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
    except (ValueError, TypeError) as error:
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


_KINDS = {bool: "true or false,", int: "a whole number", float: "a number"}


class Rule(NamedTuple):
    """What a field of a record holds: a bool, a number from `least` to `most`, or a text of up to `most` characters.

    Text is printable: a file must not send long text or control characters to a terminal.
    """

    kind: type
    most: float
    least: float = 0
    optional: bool = False

    def holds(self, value: object) -> bool:
        """Whether a value keeps the rule."""
        if value is None:
            return self.optional
        if isinstance(value, str):
            return self.kind is str and len(value) <= self.most and value.isprintable()
        fits = type(value) in (self.kind, int if self.kind is float else self.kind)
        return fits and self.least <= value <= self.most  # type: ignore[operator]

    def __str__(self) -> str:
        if self.kind is str:
            return f"printable text of at most {self.most:,} characters"
        return f"{_KINDS[self.kind]} from {self.least} to {self.most}"


TEXT = Rule(str, LONGEST_TEXT)
FLAG = Rule(bool, 1)
COUNT = Rule(int, MOST_COUNT)
SIZE = Rule(float, sys.float_info.max)


def check_record(what: str, record: object, rules: Mapping[str, Rule | bool]) -> None:
    """FormatError unless each field of a record keeps its rule, or what a bool says of it beside the others is true."""
    for name, rule in rules.items():
        check_value(f"{what} {name}", getattr(record, name), rule)


def check_value(what: str, value: object, rule: Rule | bool = TEXT) -> None:
    """FormatError unless a value keeps a rule, see `check_record`."""
    if not (rule if isinstance(rule, bool) else rule.holds(value)):
        raise FormatError(f"{what} is {short(value)}, expected {rule or 'another one beside the other fields'}")
