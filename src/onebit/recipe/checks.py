"""How a setting is checked by itself."""

from __future__ import annotations

import math
from typing import Any

from onebit.errors import UsageError


def positive(value: float) -> bool:
    """Above zero, and a number."""
    return math.isfinite(value) and value > 0


def need(name: str, value: Any, holds: bool, expected: str) -> None:
    """Refuse the value of a field that does not hold what it must.

    Raises:
        UsageError: what was got and what is expected.
    """
    if not holds:
        raise UsageError(f"{name} must be {expected}, got {value!r}")
