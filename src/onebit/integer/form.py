"""A value of the exact net in terms of values of the integer net."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

import numpy as np


@dataclass(frozen=True, eq=False)
class Form:
    """min(max(Σ scale · value + shift, low), high) per channel, which is computed when a value is needed.

    terms: name of a value of the integer net -> scale, (C,) float64.
    shift: (C,) float64.
    """

    terms: dict[str, np.ndarray]
    shift: np.ndarray
    low: float = -inf
    high: float = inf

    @staticmethod
    def of(name: str, channels: int, scale: float = 1.0) -> Form:
        """`scale` times one value."""
        return Form({name: np.full(channels, scale)}, np.zeros(channels))

    @property
    def clipped(self) -> bool:
        """Whether it has a bound."""
        return self.low > -inf or self.high < inf

    @property
    def term(self) -> tuple[str, np.ndarray] | None:
        """The only value and its scale; None with several values or bounds."""
        return next(iter(self.terms.items())) if len(self.terms) == 1 and not self.clipped else None

    @property
    def plain(self) -> tuple[str, float] | None:
        """(value, scale) if it is one value times one positive number."""
        if self.term is None or self.shift.any():
            return None
        name, scale = self.term
        return (name, float(scale[0])) if scale[0] > 0 and (scale == scale[0]).all() else None

    def scaled(self, scale: np.ndarray, shift: np.ndarray) -> Form:
        """scale · x + shift. With bounds, `scale` is one positive number and there is no shift."""
        terms = {name: factor * scale for name, factor in self.terms.items()}
        low, high = (bound * float(scale[0]) for bound in (self.low, self.high)) if self.clipped else (-inf, inf)
        return Form(terms, self.shift * scale + shift, low, high)

    def between(self, low: float, high: float) -> Form:
        """min(max(x, low), high)."""
        return replace(self, low=min(max(self.low, low), high), high=min(max(self.high, low), high))

    def plus(self, other: Form) -> Form:
        """The sum of two forms without bounds."""
        terms = dict(self.terms)
        for name, scale in other.terms.items():
            terms[name] = terms[name] + scale if name in terms else scale
        return Form(terms, self.shift + other.shift)
