"""Scores of an evaluation: correct predictions, loss, entropy, calibration, and for masks the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from onebit.common.tables import resolve
from onebit.data import VOID, confusion_matrix, mask_facts, pixel_score
from onebit.errors import DataError
from onebit.evaluation.calibration import calibration_error, confidence_gaps
from onebit.evaluation.losses import LOSSES, Loss, per_sample


@dataclass(frozen=True)
class Score:
    """Counts of one evaluation, summed before they are divided; a part of a split may have none.

    weights: the test mode: latent, binary, mean, sample, ensemble:N, packed, or real for a net without binary layers.
    bn: the BatchNorm statistics, "trained" or "reestimate".
    loss: mean over samples.
    entropy: of softmax(logits) in nats, mean over samples; for an ensemble, the entropy of its mean prediction.
    gaps: sums per confidence bin for the calibration error, see `confidence_gaps`.
    top5: number of samples whose class is among the five largest logits; None if not counted.
    confusion: for masks (each pixel is a sample), counts by true and predicted class, see `confusion_matrix`.
    """

    weights: str
    bn: str
    correct: int
    count: int
    loss: float
    entropy: float
    gaps: tuple[float, ...] = field(repr=False)
    confusion: tuple[tuple[int, ...], ...] | None = None
    top5: int | None = field(default=None, repr=False)

    @property
    def accuracy(self) -> float:
        return self.correct / _some(self.count)

    @property
    def error(self) -> float:
        return 1 - self.accuracy

    @property
    def error5(self) -> float | None:
        """Share whose class is not among the five largest logits."""
        return None if self.top5 is None else 1 - self.top5 / _some(self.count)

    @property
    def ece(self) -> float:
        """Expected calibration error, a fraction; see `calibration_error`."""
        return calibration_error(self.gaps, _some(self.count))

    @property
    def mean_iou(self) -> float | None:
        """For masks, the Jaccard index averaged over classes; else None."""
        return None if self.confusion is None else pixel_score(self.confusion).mean_iou

    def as_dict(self) -> dict[str, Any]:
        values = {name: value for name, value in asdict(self).items() if name not in ("gaps", "confusion", "top5")}
        values |= {"accuracy": self.accuracy, "error": self.error, "ece": self.ece}
        return values if self.confusion is None else values | mask_facts(self.confusion)

    def __str__(self) -> str:
        counts = f"{self.correct:,} of {self.count:,}"
        return f"{100 * self.accuracy:.2f} % ({counts}; {self.weights} weights, BatchNorm {self.bn})"


def score_logits(logits: Tensor, labels: Tensor, *, loss: str | Loss, weights: str, bn: str) -> Score:
    """Counts, mean loss, entropy and calibration of the given logits; for masks, each pixel is a sample."""
    masked = labels.dim() > 1
    logits, labels = per_sample(logits, labels)
    correct = int((logits.argmax(dim=1) == labels).sum())
    mean_loss = float(resolve(LOSSES, loss, kind="loss")(logits, labels))
    entropy, gaps = confidence_gaps(logits.float().cpu(), labels.cpu())
    confusion = None
    if masked:
        counts = confusion_matrix(labels.cpu(), logits.argmax(dim=1).cpu(), classes=logits.shape[1])
        confusion = tuple(map(tuple, counts.tolist()))
    return Score(weights, bn, correct, len(labels), mean_loss, entropy, gaps, confusion)


def whole_score(parts: Sequence[Score | None]) -> Score:
    """The score of a split from those of its parts; None is a part without images.

    Raises:
        DataError: no part has a sample.
    """
    counted = [part for part in parts if part is not None]
    count = _some(sum(part.count for part in counted))
    if len(counted) == 1:
        return counted[0]
    loss, entropy = (sum(getattr(part, name) * part.count for part in counted) / count for name in ("loss", "entropy"))
    gaps = tuple(map(sum, zip(*(part.gaps for part in counted), strict=True)))
    confusion = None
    if counted[0].confusion is not None:
        confusion = tuple(map(tuple, np.sum(np.array([part.confusion for part in counted]), axis=0).tolist()))
    correct = sum(part.correct for part in counted)
    top5 = None if counted[0].top5 is None else sum(part.top5 or 0 for part in counted)
    return Score(counted[0].weights, counted[0].bn, correct, count, loss, entropy, gaps, confusion, top5)


def _some(count: int) -> int:
    """A number of samples to divide by; DataError if it is 0."""
    if not count:
        raise DataError(f"there is nothing to score: every pixel of the masks is void ({VOID})")
    return count
