"""Scores of an evaluation: loss, metrics, and for classification correct predictions, entropy, calibration, IoU."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onebit.data import class_scores, confusion_matrix, pixel_scores
from onebit.errors import UsageError

Sums = tuple[float, ...]
"""What a metric adds up."""
BINS = 15
"""Number of bins of equal width in confidence (Guo et al. 2017, section 4: M = 15)."""
MAX_CLASSES, MAX_STORED = 1000, 100
"""Largest number of classes whose confusions are counted, and stored in a result."""
ROWS = 65_536
"""Predictions per chunk: all pixels of a segmentation would take gigabytes."""


@dataclass(frozen=True)
class Score:
    """Counts of one evaluation, which are added over parts of a split and then divided.

    weights: the test mode: latent, binary, mean, sample, ensemble:N, packed, or real for a net without binary layers.
    bn: the BatchNorm statistics: "trained" (those of the net) or "reestimate".
    loss: mean over samples; of an ensemble always the cross-entropy.
    entropy: of softmax(logits) in nats, mean over samples; for an ensemble, the entropy of its mean prediction.
    gaps: sums per confidence bin for the calibration error, see `confidence_gaps`.
    confusion: of at most `MAX_CLASSES`, counts by true and predicted class, see `confusion_matrix`.
    masked: whether each pixel of a mask is a sample.
    sums: of each metric, see `onebit.evaluation.metrics.Metric`.
    unit: what `count` counts: samples, or tokens that a language model predicts.

    Only a classification has `correct`, `entropy` and `gaps`, and so accuracy, error and ece.
    """

    weights: str
    bn: str
    correct: int | None
    count: int
    loss: float
    entropy: float | None = None
    gaps: tuple[float, ...] = field(default=(), repr=False)
    confusion: tuple[tuple[int, ...], ...] | None = field(default=None, repr=False)
    masked: bool = field(default=False, repr=False)
    sums: Mapping[str, Sums] = field(default_factory=dict, repr=False)
    unit: str = field(default="samples", repr=False)

    @property
    def metrics(self) -> dict[str, float]:
        """The value of each metric, by name."""
        return values_of(self.sums)

    @property
    def accuracy(self) -> float:
        """Share of correct predictions; UsageError without a classification."""
        if self.correct is None:
            raise UsageError("only a classification has an accuracy")
        return self.correct / self.count

    @property
    def error(self) -> float:
        return 1 - self.accuracy

    @property
    def ece(self) -> float:
        """Expected calibration error, a fraction; see `calibration_error`. Raises as `accuracy`."""
        return calibration_error(self.gaps, self.count) if self.gaps else self.accuracy

    @property
    def classes(self) -> dict[str, Any]:
        """Scores of each class and their means, see `class_scores`, for masks `pixel_scores`; {} if not counted."""
        if self.confusion is None:
            return {}
        return pixel_scores(self.confusion) if self.masked else class_scores(self.confusion)

    @property
    def mean_iou(self) -> float | None:
        """For masks, the Jaccard index averaged over classes; else None."""
        return self.classes.get("mean_iou")

    def as_dict(self) -> dict[str, Any]:
        """The score as a result stores it."""
        names = ("weights", "bn", "correct", "count", "loss", "entropy")
        values = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.correct is not None:
            values |= {"accuracy": self.accuracy, "error": self.error, "ece": self.ece}
        values |= {"metrics": self.metrics} if self.sums else {}
        found = self.classes
        if len(self.confusion or ()) > MAX_STORED:
            del found["confusion"]
        return values | found

    def __str__(self) -> str:
        of = f"{self.weights} weights" + ", BatchNorm re-estimated" * (self.bn == "reestimate")
        metrics = "".join(f"  {name} {value:.4f}" for name, value in self.metrics.items())
        if self.correct is None:
            return f"loss {self.loss:.4f}{metrics} ({self.count:,} {self.unit}; {of})"
        return f"{100 * self.accuracy:.2f} % ({self.correct:,} of {self.count:,}; {of}){metrics}"


def confidence_gaps(logits: Any, labels: Any) -> tuple[int, float, tuple[float, ...]]:
    """Correct predictions, mean predictive entropy, and the sums per bin for `calibration_error`.

    The entropy of p = softmax(logits) is −Σ p·ln p, in nats, from 0 (sure) to ln(classes). Bin m of BINS holds the
    predictions with a confidence max p in ((m − 1)/BINS, m/BINS]; its gap is the sum of 1{correct} − max p over them.
    Gaps of the parts of a split add up to those of the split.

    Args:
        logits: (N, classes); for an ensemble, the logarithms of its mean probabilities.
        labels: (N,) integers.

    Returns:
        (correct predictions, entropy, the gap of each bin).
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    correct, entropy, gaps = 0, 0.0, np.zeros(BINS)
    for start in range(0, len(labels), ROWS):
        part, truth = logits[start : start + ROWS].astype(np.float64), labels[start : start + ROWS]
        with np.errstate(invalid="ignore"):  # a net that diverged has NaN as entropy and error
            part -= part.max(axis=1, keepdims=True)
            p = np.exp(part)
            total = p.sum(axis=1, keepdims=True)
            p /= total
            # ln p = logit − ln Σ; where p is 0 its logit may be −∞, and p·ln p is 0
            entropy -= float(np.multiply(p, part - np.log(total), where=p != 0, out=np.zeros_like(p)).sum())
            chosen = part.argmax(axis=1)
            confidence = p[np.arange(len(p)), chosen]
            bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        correct += int((chosen == truth).sum())
        gaps += np.bincount(bins, weights=(chosen == truth) - confidence, minlength=BINS)
    return correct, entropy / max(len(labels), 1), tuple(map(float, gaps))


def calibration_error(gaps: Sequence[float], count: int) -> float:
    """Expected calibration error (ECE): Σ_m |B_m|/N · |accuracy(B_m) − confidence(B_m)|, a fraction 0–1.

    Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599, equation 3.

    Args:
        gaps: sum over all N predictions, for each bin. count: N.
    """
    return sum(map(abs, gaps)) / count


def score_logits(logits: Any, labels: Any, *, loss: float, masked: bool, weights: str, bn: str) -> Score:
    """The score of logits (N, classes) and labels (N,), arrays; `masked` if these are the pixels of masks."""
    correct, entropy, gaps = confidence_gaps(logits, labels)
    confusion = None
    if logits.shape[1] <= MAX_CLASSES:
        counts = confusion_matrix(labels, logits.argmax(axis=1), classes=logits.shape[1])
        confusion = tuple(map(tuple, counts.tolist()))
    return Score(weights, bn, correct, len(labels), loss, entropy, gaps, confusion, masked)


def whole_score(parts: Sequence[Score | None]) -> Score:
    """The score of a split from those of its parts; None is a part without images."""
    scores = [part for part in parts if part is not None]
    first, count = scores[0], sum(part.count for part in scores)
    if len(scores) == 1:
        return first
    whole: dict[str, Any] = {"loss": sum(part.loss * part.count for part in scores) / count}
    if first.correct is not None:
        whole["correct"] = sum(part.correct or 0 for part in scores)
        whole["entropy"] = sum((part.entropy or 0) * part.count for part in scores) / count
    if first.confusion is not None:
        counts = np.sum(np.array([part.confusion for part in scores]), axis=0)
        whole["confusion"] = tuple(map(tuple, counts.tolist()))
    sums = {name: _added(part.sums[name] for part in scores) for name in first.sums}
    return replace(first, count=count, gaps=_added(part.gaps for part in scores), sums=sums, **whole)


def values_of(metrics: Mapping[str, Sums]) -> dict[str, float]:
    """The value of each metric from its sums over all samples."""
    of_sums = {"r2": _r2, "perplexity": lambda sums: math.exp(min(_quotient(sums), 700.0))}
    return {name: of_sums.get(name, _quotient)(sums) for name, sums in metrics.items()}


def _quotient(sums: Sums) -> float:
    return sums[0] / (sums[1] or math.nan)


def _r2(sums: Sums) -> float:
    """1 − Σ(y − t)² / Σ(t − mean t)², mean over columns; a constant column is 1 if every y equals it, else 0."""
    *columns, count = sums
    width, total = len(columns) // 3, 0.0
    for error, square, value in zip(*(columns[i * width : (i + 1) * width] for i in range(3)), strict=True):
        deviation = square - value * value / count
        constant = deviation <= 1e-15 * square  # zero but for rounding
        total += (0.0 if error > 0 else 1.0) if constant else 1 - error / deviation
    return total / width


def _added(rows: Iterable[Sums]) -> Sums:
    return tuple(map(sum, zip(*rows, strict=True)))
