"""The choice of the next token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated

import numpy as np

from onebit.common.fields import Checked, checked, within
from onebit.common.record import Whole
from onebit.errors import UsageError

_FIRST = 256
"""Tokens that are sorted first; all are if these are too few for `top_p`."""


@checked(frozen=True)
class Sampling(Checked):
    """How the next token is drawn, in the order of the options, as in transformers.

    Args:
        temperature: divides the logits; 0 for the most probable token.
        top_k: the number of most probable tokens that remain; 0 for all.
        top_p: the most probable tokens that together have this probability remain.
        min_p: tokens with this share of the largest probability remain.
        repetition_penalty: logits of tokens of the text are divided by it if positive, else multiplied (Keskar et al.
            2019, arXiv:1909.05858).
        seed: the same seed gives the same tokens, with any number of threads.

    Raises:
        UsageError: a number out of bounds.
    """

    temperature: Annotated[float, within("[0, 1000]")] = 0.0
    top_k: Annotated[int, within("[0, 1e9]")] = 0
    top_p: Annotated[float, within("[0, 1]")] = 1.0
    min_p: Annotated[float, within("[0, 1]")] = 0.0
    repetition_penalty: Annotated[float, within("[0.01, 100]")] = 1.0
    seed: Whole = 0

    @cached_property
    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def choose(self, logits: np.ndarray, tokens: Sequence[int]) -> int:
        """The next token after `tokens`; logits: (vocabulary,)."""
        if not np.isfinite(logits).all():
            raise UsageError("the net gives logits that are not finite")
        if self.repetition_penalty != 1 and len(tokens):
            logits, seen = logits.copy(), np.unique(tokens)
            by = np.where(logits[seen] > 0, 1 / self.repetition_penalty, self.repetition_penalty)
            logits[seen] *= by.astype(np.float32)
        if self.temperature == 0 or self.top_k == 1:
            return int(logits.argmax())
        scaled = (logits - logits.max()) / np.float32(self.temperature)
        order = _largest(scaled, self.top_k) if 0 < self.top_k < len(scaled) else None
        scaled = scaled if order is None else scaled[order]
        weights = np.exp(scaled.astype(np.float64))
        if self.top_p < 1:
            first = _largest(weights, _FIRST) if order is None and len(weights) > _FIRST else np.arange(len(weights))
            if weights[first].sum() < self.top_p * weights.sum():
                first = np.arange(len(weights))
            sorted_ = first[np.argsort(-weights[first], kind="stable")]
            before = np.cumsum(weights[sorted_]) - weights[sorted_]
            kept = sorted_[before < max(self.top_p, 1e-9) * weights.sum()]
            order, weights = kept if order is None else order[kept], weights[kept]
        weights = np.where(weights >= self.min_p * weights.max(), weights, 0)
        totals = np.cumsum(weights)
        chosen = int(np.searchsorted(totals, self._generator.random() * totals[-1], side="right"))
        return chosen if order is None else int(order[chosen])


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """The places of the largest values, in order; of equal ones the first."""
    if count >= len(values):
        return np.argsort(-values, kind="stable")
    least = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > least)
    places = np.concatenate([above, np.flatnonzero(values == least)[: count - len(above)]])
    return places[np.argsort(-values[places], kind="stable")]
