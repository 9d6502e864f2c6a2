"""Compares the class names of a net with those of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onebit.data.mask_folder import UNNAMED
from onebit.data.splits import Dataset
from onebit.errors import UsageError

SHOWN = 6
"""Number of names that an error shows."""
LONGEST = 30
"""Number of characters of a name that it shows."""


def refuse_other_classes(data: Dataset, classes: Sequence[str] | None, *, source: str) -> None:
    """Refuse data whose labels mean something else than those of a net.

    Args:
        data: the data set.
        classes: those of the net; None if unknown.
        source: the name of the net in the message.

    Raises:
        UsageError: other names, or the same ones in another order.
    """
    if classes is None or list(classes) == list(data.classes):
        return
    there, here = classes_in_short(classes, data.classes)
    where = f" from {data.directory}" if data.directory else ""
    raise UsageError(f"{source}: was trained on the classes {there}; {data.name}{where} has {here}")


def named_as(data: Dataset, classes: Sequence[str] | None) -> Dataset:
    """Masks whose two classes have no names, with those of a net; a note says which value is which. Else `data`.

    Args:
        data: the data set.
        classes: those of the net; None if unknown.
    """
    unnamed = data.test.labels.ndim > 1 and data.classes == UNNAMED
    if not unnamed or classes is None or len(classes) != len(UNNAMED) or tuple(classes) == UNNAMED:
        return data
    values = ", ".join(f"{value} is {name}" for value, name in zip(UNNAMED, classes, strict=True))
    note = f"without classes.txt, the masks mean: {values}"
    return replace(data.noted(note), classes=tuple(classes))


def classes_in_short(one: Sequence[str], other: Sequence[str]) -> tuple[str, str]:
    """Describe two different lists of class names, each by a short text around the first difference.

    Example:
        >>> classes_in_short(["cat", "dog"], ["boat", "cat"])
        ('cat, dog', 'boat, cat')
    """
    pairs = zip(one, other, strict=False)
    first = next((i for i, (here, there) in enumerate(pairs) if here != there), min(len(one), len(other)))
    start = 0 if first < SHOWN else first
    return _part(one, start), _part(other, start)


def _part(names: Sequence[str], start: int) -> str:
    shown = [name if len(name) <= LONGEST else f"{name[:LONGEST]}…" for name in names[start : start + SHOWN]]
    if len(shown) == len(names):
        return ", ".join(shown)
    return ", ".join(["…"] * (start > 0) + shown + ["…"] * (start + SHOWN < len(names))) + f" ({len(names):,} in all)"
