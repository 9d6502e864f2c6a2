"""Numbers and names as a reader sees them, the same in pictures and on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

MISSING = "–"


def printable(text: Any, *, limit: int = 200) -> str:
    """One line of visible characters: everything else becomes `?`, and what is longer than `limit` ends in `…`."""
    line = "".join(c if c.isprintable() else "?" for c in str(text)[: limit + 1])
    return line if len(line) <= limit else line[: limit - 1] + "…"


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n − 1); None for a single value, whose spread is unknown.

    Example:
        >>> mean_sd([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def over_runs(accuracies: Sequence[float]) -> dict[str, Any]:
    """What several runs reached, as JSON tells it: mean accuracy and error, sd (None for one run), n, and each."""
    mean, sd = mean_sd(accuracies)
    return {"accuracy": mean, "error": 1 - mean, "sd": sd, "n": len(accuracies), "accuracies": list(accuracies)}


def share(values: Sequence[float]) -> str:
    """An index from 0 to 1 as `0.7999`, several as `0.7999 ± 0.0012`: mean and standard deviation."""
    mean, sd = mean_sd(values)
    return f"{mean:.4f}" + ("" if sd is None else f" ± {sd:.4f}")


def spread(values: Sequence[float]) -> dict[str, Any]:
    """What several runs reached in an index, as JSON tells it: mean, sd (None for one run), n, and each."""
    mean, sd = mean_sd(values)
    return {"mean": mean, "sd": sd, "n": len(values), "values": list(values)}


def percent(values: Sequence[float], *, digits: int = 2) -> str:
    """Fractions as `98.70 %`, several as `98.70 ± 0.05 %`: mean and standard deviation."""
    mean, sd = mean_sd(values)
    spread = "" if sd is None else f" ± {100 * sd:.{digits}f}"
    return f"{100 * mean:.{digits}f}{spread} %"


def duration(values: Sequence[float]) -> str:
    """Seconds as `4.2 s`, `12.5 min` or `3.1 h`, several as `12.5 ± 0.3 min`."""
    mean, sd = mean_sd(values)
    unit, seconds = time_unit(mean)
    spread = "" if sd is None else f" ± {sd / seconds:,.1f}"
    return f"{mean / seconds:,.1f}{spread} {unit}"


def time_unit(seconds: float) -> tuple[str, float]:
    """(unit, seconds in it) that a time of this length is best told in."""
    if seconds < 300:
        return "s", 1.0
    return ("min", 60.0) if seconds < 3 * 3600 else ("h", 3600.0)


def number_range(values: Sequence[float]) -> str:
    """`250`, or `12–250` when they differ."""
    low, high = f"{min(values):g}", f"{max(values):g}"
    return low if low == high else f"{low}–{high}"


def setting(value: Any) -> str:
    """A value of a recipe as its YAML file shows it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(setting, value)) + "]"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return printable(value, limit=1000)
