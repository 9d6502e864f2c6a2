"""YAML and JSON from unknown sources, within bounds on size, depth and length.

PyYAML takes minutes for a long number, gigabytes for a few nested anchors, and a tag for a call.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from onebit.common.files import read_regular
from onebit.errors import UsageError

MAX_BYTES = 100_000
"""Largest file; the longest shipped recipe has 3,400 bytes."""
MAX_DEPTH = 20
MAX_PARTS = 5_000
"""Keys, values and brackets; a complete recipe has 300."""
MAX_TEXT_LENGTH = 2_000
"""Characters of one value; the results of a recipe take 400."""
MAX_NUMBER_LENGTH = 40
"""Characters of a number, in any notation; one of thousands of digits is slow to read."""
_FIRST = frozenset("0123456789+-.")
_NUMERIC = frozenset("0123456789+-._:eExXaAbBcCdDfF")


def read_yaml(path: Path) -> Any:
    """The value in a YAML or JSON file; UsageError for one of another format or out of bounds."""
    try:
        text = read_regular(path, largest=MAX_BYTES).decode("utf-8-sig")
        # JSON is YAML but for tabs between its tokens
        loader = _BoundedLoader(text.expandtabs() if path.suffix == ".json" else text)
        loader.where = f"{path}, "
        return loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not valid YAML or JSON") from None
    except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: not valid YAML or JSON ({error})") from None


class _BoundedLoader(yaml.SafeLoader):
    """Checks the bounds event by event, before anything becomes a value."""

    where = ""
    depth = count = 0

    def get_event(self) -> Any:
        event: Any = super().get_event()
        self.count += 1
        self.depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if refusal := self._refusal(event):
            raise UsageError(f"{self.where}line {event.start_mark.line + 1}: {refusal}")
        return event

    def _refusal(self, event: Any) -> str | None:
        if self.count > MAX_PARTS:
            return f"more than {MAX_PARTS:,} keys and values"
        if self.depth > MAX_DEPTH:
            return f"nested more than {MAX_DEPTH} deep"
        if getattr(event, "anchor", None) is not None:
            return "expected no anchors (&) and aliases (*)"
        if getattr(event, "tag", None) is not None:
            return "expected no tags (!)"
        if isinstance(event, yaml.ScalarEvent):
            numeric = event.implicit[0] and event.value[:1] in _FIRST and _NUMERIC.issuperset(event.value)
            if len(event.value) > (MAX_NUMBER_LENGTH if numeric else MAX_TEXT_LENGTH):
                return f"a value of {len(event.value):,} characters, too long for a recipe"
        return None
