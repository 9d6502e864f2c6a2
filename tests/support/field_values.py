"""Values just inside and just outside the bounds of every field of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from onebit.common.fields import Bound
from onebit.recipe.sections import flag_types, owners

TYPES = flag_types()


def owner_of(flag: str) -> dict[str, str]:
    """The flag that chooses a model, an optimizer or a quantizer with a setting."""
    chosen_by, entries = owners().get(flag, ("", []))
    return {chosen_by: entries[0]} if chosen_by else {}


def kinds(hint: Any) -> Iterator[Any]:
    """The types of a union, without None."""
    args = get_args(hint)
    if get_origin(hint) in (Annotated, Literal, tuple, dict) or not args:
        yield hint
    else:
        for arg in args:
            yield from kinds(arg)


def ends(kind: Any) -> tuple[type, list[float], list[float]] | None:
    """The type of an interval, values just inside each end, and values just outside; None for another type."""
    bounds = [row for row in get_args(kind)[1:] if isinstance(row, Bound)] if get_origin(kind) is Annotated else []
    if not bounds or not bounds[0].expected.startswith("in "):
        return None
    (bound,), number = bounds, get_args(kind)[0]
    text = bound.expected.removeprefix("in ")
    inside: list[float] = []
    outside: list[float] = []
    for end, closed, out in zip(text[1:-1].split(","), (text[0] == "[", text[-1] == "]"), (-1, 1), strict=True):
        if math.isinf(value := float(end)):
            outside += [value] * (number is float and not closed)
        elif number is int:
            whole = int(value)
            inside.append(whole if closed else whole - out)
            outside.append(whole + out if closed else whole)
        else:
            inside.append(value if closed else math.nextafter(value, -out * math.inf))
            outside.append(math.nextafter(value, out * math.inf) if closed else value)
    return number, inside, outside


def wrong_values(hint: Any) -> list[Any]:
    """Values that no type of a union takes."""
    found: list[Any] = []
    names = list(kinds(hint))
    literals = [value for kind in names if get_origin(kind) is Literal for value in get_args(kind)]
    for kind in names:
        plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        if interval := ends(kind):
            found += [value for value in interval[2] if value not in literals]
        if plain is float:
            found += [math.nan] * bool(interval)
        if plain is int:
            found.append(1.5)
        if plain in (int, float, bool) or get_origin(kind) is Literal:
            found += ["neither"] if tuple in map(get_origin, names) else [[1], "neither"]
    return found


def right_values(hint: Any) -> list[Any]:
    found: list[Any] = []
    for kind in kinds(hint):
        interval = ends(kind)
        found += interval[1] if interval else [*get_args(kind)] if get_origin(kind) is Literal else []
        found += [True, False] if kind is bool else []
    return found
