"""Numbers and names as text, the same in pictures and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onebit.errors import escaped, shortened

MISSING = "–"


def printable(text: Any, *, limit: int = 200) -> str:
    """A text with invisible characters escaped and the middle left out if it is longer than `limit`."""
    return shortened(escaped(str(text)), limit)


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n − 1); None for a single value, whose standard deviation is unknown.

    Example:
        >>> mean_sd([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def over_runs(accuracies: Sequence[float]) -> dict[str, Any]:
    """Accuracies of several runs for JSON: mean accuracy and error, sd (None for one run), n, and each value."""
    mean, sd = mean_sd(accuracies)
    return {"accuracy": mean, "error": 1 - mean, "sd": sd, "n": len(accuracies), "accuracies": list(accuracies)}


def mean_and_sd(values: Sequence[float]) -> dict[str, Any]:
    """Any measure of several runs for JSON: mean, sd (None for one run), n, and each value."""
    mean, sd = mean_sd(values)
    return {"mean": mean, "sd": sd, "n": len(values), "values": list(values)}


def plus_minus(values: Sequence[float], form: str, *, scale: float = 1.0) -> str:
    """`mean ± sd` of `scale` times the values in a number format, `mean` alone for a single value."""
    mean, sd = mean_sd(values)
    return f"{scale * mean:{form}}" + ("" if sd is None else f" ± {f'{scale * sd:{form}}'.strip()}")


def share(values: Sequence[float]) -> str:
    """An index from 0 to 1 as `0.7999`, several as `0.7999 ± 0.0012`."""
    return plus_minus(values, ".4f")


def percent(values: Sequence[float]) -> str:
    """Fractions as `98.70 %`, several as `98.70 ± 0.05 %`."""
    return plus_minus(values, ".2f", scale=100) + " %"


def number_range(values: Sequence[float]) -> str:
    """`250`, or `12–250` if they differ."""
    low, high = f"{min(values):g}", f"{max(values):g}"
    return low if low == high else f"{low}–{high}"
