"""Predictive entropy and calibration error, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

BINS = 15
"""Number of bins of equal width in confidence (Guo et al. 2017, section 4: M = 15)."""
ROWS = 65_536
"""Predictions per chunk: all pixels of a segmentation at once would take gigabytes."""


def confidence_gaps(logits: Any, labels: Any) -> tuple[float, tuple[float, ...]]:
    """Mean predictive entropy, and the sums per bin for `calibration_error`.

    The entropy of p = softmax(logits) is −Σ p·ln p, in nats, from 0 (sure) to ln(classes). Bin m of BINS holds the
    predictions with a confidence max p in ((m − 1)/BINS, m/BINS]; its gap is the sum of 1{correct} − max p over them.
    Gaps of the parts of a split add up to those of the split.

    Args:
        logits: (N, classes); for an ensemble, the logarithms of its mean probabilities.
        labels: (N,) integers.

    Returns:
        (entropy, the gap of each bin).
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    entropy, gaps = 0.0, np.zeros(BINS)
    for start in range(0, len(labels), ROWS):
        part, truth = logits[start : start + ROWS].astype(np.float64), labels[start : start + ROWS]
        with np.errstate(invalid="ignore"):  # a net that diverged has NaN as entropy and as error
            part -= part.max(axis=1, keepdims=True)
            p = np.exp(part)
            total = p.sum(axis=1, keepdims=True)
            p /= total
            # ln p = logit − ln Σ; where p is 0 its logit may be −∞, and p·ln p is 0
            entropy -= float(np.multiply(p, part - np.log(total), where=p != 0, out=np.zeros_like(p)).sum())
            chosen = part.argmax(axis=1)
            confidence = p[np.arange(len(p)), chosen]
            bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        gaps += np.bincount(bins, weights=(chosen == truth) - confidence, minlength=BINS)
    return entropy / max(len(labels), 1), tuple(map(float, gaps))


def calibration_error(gaps: Sequence[float], count: int) -> float:
    """Expected calibration error (ECE): Σ_m |B_m|/N · |accuracy(B_m) − confidence(B_m)|, a fraction 0–1.

    Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599, equation 3.

    Args:
        gaps: sum over all N predictions, for each bin. count: N.
    """
    return sum(map(abs, gaps)) / count
