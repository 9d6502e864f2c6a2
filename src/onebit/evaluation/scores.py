"""Scores of an evaluation: loss, metrics, and for classification correct predictions, entropy, calibration, IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from onebit.common.tables import resolve
from onebit.data import confusion_matrix, mask_facts, pixel_score
from onebit.errors import DataError, UsageError
from onebit.evaluation.calibration import calibration_error, confidence_gaps
from onebit.evaluation.losses import LOSSES, Loss, per_sample
from onebit.evaluation.metrics import Metric, Sums, added, is_classification, task_of, values_of


@dataclass(frozen=True)
class Score:
    """Counts of one evaluation, summed before they are divided; a part of a split may have none.

    weights: the test mode: latent, binary, mean, sample, ensemble:N, packed, or real for a net without binary layers.
    bn: the BatchNorm statistics, "trained" (those of the net, which `fit` leaves as they fit the weights that ship) or
        "reestimate".
    loss: mean over samples; of an ensemble always the cross-entropy.
    entropy: of softmax(logits) in nats, mean over samples; for an ensemble, the entropy of its mean prediction.
    gaps: sums per confidence bin for the calibration error, see `confidence_gaps`.
    confusion: for masks (each pixel is a sample), counts by true and predicted class, see `confusion_matrix`.
    sums: of each metric, see `onebit.evaluation.metrics.Metric`.

    Only a classification has `correct`, `entropy` and `gaps`, and what follows from them: accuracy, error, ece.
    """

    weights: str
    bn: str
    correct: int | None
    count: int
    loss: float
    entropy: float | None = None
    gaps: tuple[float, ...] = field(default=(), repr=False)
    confusion: tuple[tuple[int, ...], ...] | None = None
    sums: Mapping[str, Sums] = field(default_factory=dict, repr=False)

    @property
    def metrics(self) -> dict[str, float]:
        """The value of each metric, by name."""
        return values_of(self.sums)

    @property
    def accuracy(self) -> float:
        """Share of correct predictions; UsageError for what is no classification."""
        if self.correct is None:
            raise UsageError("only a classification has an accuracy: see loss and metrics")
        return self.correct / self.count

    @property
    def error(self) -> float:
        return 1 - self.accuracy

    @property
    def ece(self) -> float:
        """Expected calibration error, a fraction; see `calibration_error`. Raises as `accuracy`."""
        return calibration_error(self.gaps, self.count) if self.gaps else self.accuracy

    @property
    def mean_iou(self) -> float | None:
        """For masks, the Jaccard index averaged over classes; else None."""
        return None if self.confusion is None else pixel_score(self.confusion).mean_iou

    def as_dict(self) -> dict[str, Any]:
        # the others have another form, or are left out
        names = ("weights", "bn", "correct", "count", "loss", "entropy")
        values = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.correct is not None:
            values |= {"accuracy": self.accuracy, "error": self.error, "ece": self.ece}
        values |= {"metrics": self.metrics} if self.sums else {}
        return values if self.confusion is None else values | mask_facts(self.confusion)

    def __str__(self) -> str:
        of = f"{self.weights} weights, BatchNorm {self.bn}"
        metrics = "".join(f"  {name} {value:.4f}" for name, value in self.metrics.items())
        if self.correct is None:
            return f"loss {self.loss:.4f}{metrics} ({self.count:,} samples; {of})"
        return f"{100 * self.accuracy:.2f} % ({self.correct:,} of {self.count:,}; {of}){metrics}"


def score_logits(logits: Tensor, labels: Tensor, *, loss: str | Loss, weights: str, bn: str) -> Score:
    """Counts, mean loss, entropy and calibration of the given logits; for masks, each pixel is a sample."""
    masked = labels.dim() == 3
    logits, labels = per_sample(logits, labels)
    correct = int((logits.argmax(dim=1) == labels).sum())
    mean_loss = float(resolve(LOSSES, loss, kind="loss")(logits, labels))
    entropy, gaps = confidence_gaps(logits.float().cpu(), labels.cpu())
    confusion = None
    if masked:
        counts = confusion_matrix(labels.cpu(), logits.argmax(dim=1).cpu(), classes=logits.shape[1])
        confusion = tuple(map(tuple, counts.tolist()))
    return Score(weights, bn, correct, len(labels), mean_loss, entropy, gaps, confusion)


def score_outputs(
    outputs: Any,
    targets: Any,
    *,
    count: int,
    loss: str | Loss,
    metrics: Mapping[str, Metric],
    weights: str,
    bn: str,
) -> Score:
    """The score of outputs of any task: tensors, or tuples or dicts of tensors that the loss and the metrics take.

    Args:
        count: number of samples.
    """
    function = resolve(LOSSES, loss, kind="loss")
    task = task_of(loss)
    if task == "multi-label" and not 0 <= float(targets.min()) <= float(targets.max()) <= 1:
        raise DataError("multi-label: got targets outside of 0 to 1")
    if is_classification(task, outputs, targets):
        score = score_logits(outputs, targets, loss=function, weights=weights, bn=bn)
    else:
        score = Score(weights, bn, None, count, float(function(outputs, targets)))
    sums = {name: tuple(metric.sums(outputs, targets).tolist()) for name, metric in metrics.items()}
    return replace(score, sums=sums) if sums else score


def whole_score(parts: Sequence[Score | None]) -> Score:
    """The score of a split from those of its parts; None is a part without images."""
    counted = [part for part in parts if part is not None]
    first, count = counted[0], sum(part.count for part in counted)
    if len(counted) == 1:
        return first

    def total(name: str, *, mean: bool = False) -> Any:
        values = [getattr(part, name) for part in counted]
        if values[0] is None:
            return None
        return sum(v * part.count for v, part in zip(values, counted, strict=True)) / count if mean else sum(values)

    confusion = first.confusion
    if confusion is not None:
        confusion = tuple(map(tuple, np.sum(np.array([part.confusion for part in counted]), axis=0).tolist()))
    return replace(
        first,
        correct=total("correct"),
        count=count,
        loss=total("loss", mean=True),
        entropy=total("entropy", mean=True),
        gaps=tuple(map(sum, zip(*(part.gaps for part in counted), strict=True))),
        confusion=confusion,
        sums=added([part.sums for part in counted]),
    )
