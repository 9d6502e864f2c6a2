"""Look up names in tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from onebit.errors import UnknownNameError

MAX_NAME_LENGTH = 100
"""Characters of a name that are compared with known names; the time grows quadratically."""


def did_you_mean(name: str, known: Iterable[str], *, or_all: bool = True) -> str:
    """The end of an error message: `; did you mean 'x'?`, or the list of known names if none is similar.

    Args:
        or_all: False for "" in place of the list.

    Example:
        >>> did_you_mean("sign_ste", ["ste_sign", "stochastic"])
        "; did you mean 'ste_sign'?"
    """
    import difflib

    known = sorted(known)
    folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name[:MAX_NAME_LENGTH].casefold(), folded, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {folded[near[0]]!r}?"
    return f"; known: {', '.join(known)}" if known and or_all else ""


def resolve(table: Mapping[str, Any], name: Any, *, kind: str) -> Any:
    """The entry of `table` for a name; any object that is not a string is returned unchanged.

    Args:
        name: a name in the table, or the object itself.
        kind: of the entries, for the message: "weight quantizer".
    """
    if not isinstance(name, str):
        return name
    refuse_unknown(table, name, kind=kind)
    return table[name]


def refuse_unknown(known: Collection[str], name: str, *, kind: str) -> None:
    """Raise UnknownNameError for a name that is not known; imports nothing that a name stands for."""
    if name not in known:
        page = f" (your own: {page})" if (page := getattr(known, "page", None)) else ""
        raise UnknownNameError(f"unknown {kind} {name!r}{did_you_mean(name, known)}{page}")
