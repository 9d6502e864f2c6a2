"""The YAML loader of recipes: PyYAML's safe loader within the bounds of `onebit.recipe.bounded`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from onebit.errors import UsageError
from onebit.recipe.bounded import LONGEST_NUMBER, LONGEST_TEXT, MOST_DEPTH, MOST_PARTS, checked_tree, read_text

_FIRST = frozenset("0123456789+-.")
_NUMERIC = frozenset("0123456789+-._:eExXaAbBcCdDfF")


def read_yaml(path: Path) -> Any:
    """The value in a YAML file; JSON is YAML, too."""
    try:
        return checked_tree(load_yaml(read_text(path), where=f"{path}, "), where=f"{path}: ")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not valid YAML or JSON") from None
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: not valid YAML or JSON ({error})") from None


class _BoundedLoader(yaml.SafeLoader):
    """Refuses what YAML can hide in a few lines, event by event, before any of it becomes a value."""

    where = ""
    depth = count = 0

    def get_event(self) -> Any:
        event: Any = super().get_event()
        place = f"{self.where}line {event.start_mark.line + 1}"
        self.count += 1
        self.depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if self.count > MOST_PARTS:
            raise UsageError(f"{place}: more than {MOST_PARTS:,} keys and values")
        if self.depth > MOST_DEPTH:
            raise UsageError(f"{place}: nested more than {MOST_DEPTH} deep")
        if getattr(event, "anchor", None) is not None:
            raise UsageError(f"{place}: anchors (&) and aliases (*) are not read: write the value in full")
        if getattr(event, "tag", None) is not None:
            raise UsageError(f"{place}: tags (!) are not read: write a plain value")
        if isinstance(event, yaml.ScalarEvent):
            numeric = event.implicit[0] and event.value[:1] in _FIRST and _NUMERIC.issuperset(event.value)
            if len(event.value) > (LONGEST_NUMBER if numeric else LONGEST_TEXT):
                raise UsageError(f"{place}: a value of {len(event.value):,} characters, too long for a recipe")
        return event


def load_yaml(text: str, *, where: str = "") -> Any:
    """The value of a YAML text; UsageError beyond the bounds, yaml.YAMLError for other text."""
    loader = _BoundedLoader(text)
    loader.where = where
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
