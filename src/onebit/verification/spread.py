"""Differences of real outputs, measured against the range that each of them has.

Two values are equal up to rounding if they differ by at most 1e-4 of the range of that output over the samples plus
1e-6 of its largest magnitude, which float32 rounds by 6e-8. With fewer than 8 samples, which have no usable range,
the largest magnitude stands for the range where it is more.
"""

from __future__ import annotations

import numpy as np

OF_RANGE = 1e-4
OF_MAGNITUDE = 1e-6
FEW = 8
"""Samples below which the largest magnitude may stand for the range."""


class Spread:
    """Differences between two outputs (N, K, …), batch by batch; each k of axis 1 has its own range."""

    def __init__(self) -> None:
        self.count = 0
        self.low = self.high = self.largest = np.zeros(0)  # (K,)
        self.squares = self.total = self.error = np.zeros(0)
        self.size = 0  # values of each k
        self._suspects: list[tuple[np.ndarray, np.ndarray]] = []  # numbers of samples, their differences (n, K)

    def add(self, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Add a batch of packed outputs and of torch's; the samples that may be `apart` in the end, bool (n,)."""
        if not len(ours):
            return np.zeros(0, np.bool_)
        columns = ours.shape[1] if ours.ndim > 1 else 1
        expected = theirs.reshape(len(ours), columns, -1).astype(np.float64)
        apart = ours.reshape(expected.shape) - expected
        low, high = expected.min(axis=(0, 2)), expected.max(axis=(0, 2))
        first = self.count == 0
        zero = np.zeros(columns) if first else 0
        self.low, self.high = (low, high) if first else (np.minimum(self.low, low), np.maximum(self.high, high))
        difference = np.abs(apart).max(axis=2)
        self.largest = difference.max(axis=0) if first else np.maximum(self.largest, difference.max(axis=0))
        self.squares, self.total, self.error = (
            (zero if first else before) + values.sum(axis=(0, 2))
            for before, values in (
                (self.squares, np.square(expected)),
                (self.total, expected),
                (self.error, np.square(apart)),
            )
        )
        self.size += expected.shape[0] * expected.shape[2]
        # the tolerance only grows with further samples: what is within it now stays so
        beyond = (difference > self._tolerance(range_only=True)).any(axis=1)
        if beyond.any():
            self._suspects.append((self.count + np.flatnonzero(beyond), difference[beyond]))
        self.count += len(ours)
        return np.asarray(beyond)

    @property
    def _scale(self) -> np.ndarray:
        """Range of each k, (K,)."""
        span = self.high - self.low
        return np.maximum(span, self._magnitude) if self.count < FEW else span

    @property
    def _magnitude(self) -> np.ndarray:
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def _tolerance(self, *, range_only: bool = False) -> np.ndarray:
        scale = self.high - self.low if range_only else self._scale
        return OF_RANGE * scale + OF_MAGNITUDE * self._magnitude

    def apart(self) -> np.ndarray:
        """The samples that differ by more than rounding, bool (N,)."""
        found = np.zeros(self.count, np.bool_)
        for numbers, differences in self._suspects:
            found[numbers] = (differences > self._tolerance()).any(axis=1)
        return found

    @property
    def relative_difference(self) -> float:
        """The largest difference divided by the range."""
        scale = self._scale
        parts = np.divide(self.largest, scale, out=np.where(self.largest > 0, np.inf, 0.0), where=scale > 0)
        return float(parts.max(initial=0.0))

    @property
    def r2(self) -> float | None:
        """1 - Σ(ours - theirs)² / Σ(theirs - mean)²; None if theirs never varies."""
        error = float(self.error.sum())
        if error == 0:
            return 1.0
        varies = float((self.squares - np.square(self.total) / max(self.size, 1)).sum())
        return 1 - error / varies if varies > 1e-15 * float(self.squares.sum()) else None
