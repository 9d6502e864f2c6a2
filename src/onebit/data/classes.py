"""Compares the class names of a net with those of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onebit.data.mask_folder import UNNAMED
from onebit.data.splits import Dataset
from onebit.errors import UsageError


def refuse_other_classes(data: Dataset, classes: Sequence[str] | None, *, source: str) -> None:
    """UsageError if `classes`, those of the net `source`, are not those of the data; None: they are unknown."""
    if classes is not None and list(classes) != list(data.classes):
        there, here = ", ".join(classes), ", ".join(data.classes)
        raise UsageError(f"{source}: was trained on the classes {there}; {data.name} {data.directory} has {here}")


def named_as(data: Dataset, classes: Sequence[str] | None) -> Dataset:
    """Masks whose two classes have no names, with those of a net; a note says which value is which. Else `data`."""
    unnamed = data.test.labels.ndim > 1 and data.classes == UNNAMED
    if not unnamed or classes is None or len(classes) != len(UNNAMED) or tuple(classes) == UNNAMED:
        return data
    values = ", ".join(f"{value} is {name}" for value, name in zip(UNNAMED, classes, strict=True))
    note = f"without classes.txt, the masks mean: {values}"
    return replace(data.noted(note), classes=tuple(classes))
