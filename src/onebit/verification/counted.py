"""How far two executions of a net differ in one output: in labels, in several labels per sample, or in values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onebit.data import VOID
from onebit.errors import UsageError
from onebit.packed import PackedNet, Quantize, Requantize, Sign
from onebit.verification.spread import Spread

TIED = 1e-5
"""Two logits are equal up to rounding if they differ by at most this fraction of the largest logit."""
MOST_CHANGED = 1 / 200
"""Fraction of labels, or of samples, that may change where rounding decides a sign inside of the net."""
MOST_ROUNDED = 1e-3
"""Largest difference of logits, as a fraction of their range, that rounding in the preprocessing explains where the net
takes no signs."""


Decided = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Agreement:
    """Counts of two executions of a net: torch in float32 with binary weights, and the packed net.

    count: number of samples (images) compared; for segmentation, here and below, pixels; for several labels per sample,
        the labels.
    label_mismatches: images to which the two give different labels; for values, samples whose outputs differ by more
        than rounding, see `onebit.verification.spread`.
    max_logit_difference: largest |difference| between two outputs.
    bit_exact: every output is equal.
    tied: mismatches that rounding explains. Pixels whose two labels are tied in both nets: their logits differ by at
        most `TIED` times the largest logit; among millions of pixels, rounding decides a few. Where the net takes signs
        of real values, samples in which one near 0 has another sign; where it was trained to round to integers, samples
        in which an integer near a tie is rounded otherwise, and tied labels of any kind. See
        `onebit.verification.ties`. For values, if signs of real sums are inside of the net, also at most
        `MOST_CHANGED` of the samples.
    correct: correct labels of the packed net; None without labels.
    trained_mismatches: labels, or samples, in which the packed net differs from the model as trained, with its own
        preprocessing.
    trained_correct: correct labels of that model. Both are None if it was not given.
    own_model: the model is not one of onebit's, so it may have been trained with another preprocessing.
    compared: "labels" (the largest logit), "multi-label" (the sign of each logit), or "values".
    through_model: the model ran behind the packed preprocessing. If not, only the pipeline of the training was
        compared: the mismatches are those with it, and where `as_trained`, rounding explains them.
    relative_difference: for values, the largest difference divided by the range of that output in torch.
    r2, trained_r2: for values, 1 - Σ(packed - torch)² / Σ(torch - mean)²; 1 if they are equal.
    error, trained_error: for values, mean squared difference from the targets.
    coding: what stands for the preprocessing of the packed net, for messages.
    outputs: for a net with several outputs, the agreement of each; above are the samples in which any of them differs.
    trained_difference: for labels, the largest difference of a logit from that of the model as trained, divided by its
        range; None where the net takes signs, or rounds to integers, which rounding may change.
    integers, signs: the net rounds to integers of few bits; takes signs of real values.
    model_correct: correct labels of torch; None without labels.
    """

    count: int
    label_mismatches: int
    max_logit_difference: float
    bit_exact: bool
    tied: int = 0
    correct: int | None = None
    trained_mismatches: int | None = None
    trained_correct: int | None = None
    own_model: bool = field(default=False, compare=False)
    compared: str = "labels"
    through_model: bool = True
    relative_difference: float | None = None
    r2: float | None = None
    trained_r2: float | None = None
    error: float | None = None
    trained_error: float | None = None
    coding: str = field(default="InputCoding", compare=False)
    outputs: dict[str, Agreement] = field(default_factory=dict, hash=False)
    trained_difference: float | None = field(default=None, compare=False)
    integers: bool = field(default=False, compare=False)
    signs: bool = field(default=False, compare=False)
    model_correct: int | None = field(default=None, compare=False)

    @property
    def equal_labels(self) -> int:
        return self.count - self.label_mismatches

    @property
    def ok(self) -> bool:
        """Whether the two agree: rounding explains every mismatch, also those with the model as trained."""
        equal = self.label_mismatches == self.tied and self.as_trained
        return equal and all(output.ok for output in self.outputs.values())

    @property
    def as_trained(self) -> bool:
        """Whether rounding can explain the labels that differ from those of the model as trained."""
        return (self.trained_mismatches or 0) <= max(1, MOST_CHANGED * self.count)

    @property
    def doubt(self) -> str:
        """Why the preprocessing may be wrong though the labels agree, such as a mean that is a little off; or ""."""
        apart = self.trained_difference or 0
        if not self.as_trained or apart <= MOST_ROUNDED:
            return ""
        return (
            f"the logits differ from those of the model as trained by up to {100 * apart:.2g} % of their range, more "
            f"than rounding explains: check the numbers of {self.coding}"
        )

    def __str__(self) -> str:
        text = f"{self.equal_labels:,} of {self.count:,} equal ({self._difference})"
        if self.tied and self.through_model:
            pixels = "; {:,} tied pixels, decided by rounding"
            inside = f"; in {{:,}} rounding decides {'an integer' if self.integers else 'a sign'}"
            text += (inside if self.integers or self.signs or self.compared == "values" else pixels).format(self.tied)
        if self.correct is not None:
            text += f"; {self.correct:,} correct"
        if self.error is not None:
            text += f"; mean squared error {self.error:.4g}"
        text += "".join(f"; {name}: {output._counts}" for name, output in self.outputs.items())
        return text + self._against_training

    @property
    def _counts(self) -> str:
        """The counts of one of several outputs."""
        correct = "" if self.correct is None else f", {self.correct:,} correct"
        error = "" if self.error is None else f", mean squared error {self.error:.4g}"
        return f"{self.equal_labels:,} equal ({self._difference}){correct}{error}"

    @property
    def _difference(self) -> str:
        if self.bit_exact:
            return "bit for bit"
        if self.compared != "values":
            return f"logits differ by at most {self.max_logit_difference:.2g}"
        text = f"outputs differ by at most {self.max_logit_difference:.2g}"
        if self.relative_difference is not None:
            text += f", {self.relative_difference:.2g} of their range"
        return text if self.r2 is None else f"{text}, R² {_r2_text(self.r2)}"

    @property
    def _against_training(self) -> str:
        if self.trained_mismatches is None:
            return "; nothing was compared with the training pipeline (trained=…)" if self.own_model else ""
        right = "" if self.trained_correct is None else f"{self.trained_correct:,} correct, "
        if self.trained_error is not None:
            right = f"mean squared error {self.trained_error:.4g}, "
        differ = "labels differ" if self.compared != "values" else "outputs differ"
        if self.trained_r2 is not None and not self.as_trained:
            differ += f" (R² {_r2_text(self.trained_r2)})"
        way_out = "" if self.as_trained else f": {self.coding} is not the preprocessing of the training"
        doubt = f"; {self.doubt}" if self.doubt else ""
        return f"; as trained {right}{self.trained_mismatches:,} {differ}{way_out}{doubt}"


def _r2_text(value: float) -> str:
    """Six digits, never rounded up to 1."""
    return "above 0.999999" if 0.999999 < value < 1 else f"{value:.6g}"


def decided_inside(packed: PackedNet) -> dict[str, Any]:
    """What rounding may decide inside of a net, by the names that it has in `Agreement`."""
    kinds: dict[str, Any] = {"signs": Sign, "integers": (Quantize, Requantize)}
    return {name: any(isinstance(node, kind) for node in packed.nodes) for name, kind in kinds.items()}


class OutputCounts:
    """Counts the differences of one output of two nets, batch by batch.

    Args:
        alone: it is the only output, so that without targets vectors and maps of logits have labels.
        signs: signs of real sums are inside of the net, so rounding may decide one.
        integers: the net rounds to integers.
    """

    def __init__(self, *, alone: bool, signs: bool, integers: bool = False) -> None:
        self.alone, self.signs, self.integers = alone, signs, integers
        self.kind = ""
        self.difference, self.bit_exact = 0.0, True
        self.count = self.mismatches = self.tied = self.correct = self.trained_mismatches = self.trained_correct = 0
        self.model_correct = 0
        self.with_targets = self.with_trained = False
        self.differs: list[np.ndarray] = []  # bool (n,) of each batch
        self.trained_differs: list[np.ndarray] = []
        self.decided: list[np.ndarray] = []  # bool (n,) of each batch, for values
        self.values, self.trained_values = Spread(), Spread()
        self.zero_or_one = True
        self.errors, self.trained_errors = [0.0, 0], [0.0, 0]

    def add(
        self,
        ours: np.ndarray,
        theirs: np.ndarray,
        targets: np.ndarray | None,
        as_trained: np.ndarray | None,
        decided: Decided,
    ) -> None:
        """Count a batch: outputs (n, …) of the packed net, of the model and of the model as trained, and targets.

        Args:
            decided: tells of chosen samples, bool (n,), which of them differ because rounding decides an integer.
        """
        if not self.kind:
            self.kind = self._kind_of(ours, targets)
            self.with_targets, self.with_trained = targets is not None, as_trained is not None
        if len(ours):
            self.difference = max(self.difference, float(np.abs(ours.astype(np.float64) - theirs).max()))
        self.bit_exact = self.bit_exact and bool((ours == theirs).all())
        if self.kind == "labels":
            self._add_labels(ours, theirs, targets, as_trained, decided)
            if as_trained is not None and not (self.signs or self.integers):
                self.trained_values.add(ours, as_trained)
            return
        apart = self.values.add(ours, theirs)
        if as_trained is not None:
            self.trained_values.add(ours, as_trained)
        differs = None if targets is None else (ours > 0) != (theirs > 0)
        by_rounding = decided(apart if differs is None else apart | _any_of(differs))
        self.decided.append(by_rounding)
        if targets is not None and differs is not None:
            self._add_paired(ours, theirs, _alike(ours, targets), as_trained, differs, by_rounding)

    def _kind_of(self, ours: np.ndarray, targets: np.ndarray | None) -> str:
        """ "labels", or "paired" for values and for several labels per sample, which the targets tell apart."""
        shape = ours.shape[1:]
        if targets is None:
            return "labels" if self.alone and len(shape) in (1, 3) and shape[0] > 1 else "paired"
        floats = targets.dtype.kind == "f"
        labels = len(shape) > 0 and shape[0] > 1 and targets.shape[1:] == shape[1:] and not floats
        if not labels and ours.size != targets.size:
            raise UsageError(
                f"got targets {targets.dtype} {_batch(targets)} for outputs {_batch(ours)}, expected integer labels "
                f"{_batch(ours, without=1)}, or targets of the shape of the outputs"
            )
        return "labels" if labels else "paired"

    def _add_labels(
        self,
        ours: np.ndarray,
        theirs: np.ndarray,
        targets: np.ndarray | None,
        as_trained: np.ndarray | None,
        decided: Decided,
    ) -> None:
        predicted, expected = ours.argmax(axis=1), theirs.argmax(axis=1)
        truth = predicted if targets is None else targets
        known = np.ones(predicted.shape, np.bool_) if truth.ndim < 3 else truth != VOID
        if targets is not None and (wrong := (truth < 0) | (truth >= ours.shape[1])).any() and (wrong & known).any():
            raise UsageError(
                f"got the label {int(truth[wrong & known][0])}, expected 0 to {ours.shape[1] - 1}: the net has "
                f"{ours.shape[1]} logits"
            )
        differs = (predicted != expected) & known
        self.count += int(np.count_nonzero(known))
        self.mismatches += int(np.count_nonzero(differs))
        if differs.any():
            tied = np.zeros_like(differs)
            if theirs.ndim > 2 or self.integers:
                apart = np.maximum(_margin(theirs, predicted), _margin(ours, expected))
                tied = apart <= TIED * np.abs(theirs).max()
            by_rounding = decided(_any_of(differs & ~tied))
            self.tied += int(np.count_nonzero(differs & (tied | _along(by_rounding, differs))))
        self.correct += int(np.count_nonzero((predicted == truth)[known]))
        self.model_correct += int(np.count_nonzero((expected == truth)[known]))
        self.differs.append(_any_of(differs))
        if as_trained is not None:
            trained = as_trained.argmax(axis=1)
            changed = (predicted != trained) & known
            self.trained_mismatches += int(np.count_nonzero(changed))
            self.trained_correct += int(np.count_nonzero((trained == truth)[known]))
            self.trained_differs.append(_any_of(changed))

    def _add_paired(
        self,
        ours: np.ndarray,
        theirs: np.ndarray,
        targets: np.ndarray,
        as_trained: np.ndarray | None,
        differs: np.ndarray,
        by_rounding: np.ndarray,
    ) -> None:
        """Errors of values, and counts of labels as if each output were one, as long as every target is 0 or 1."""
        _add_error(self.errors, ours, targets)
        if as_trained is not None:
            _add_error(self.trained_errors, as_trained, targets)
        self.zero_or_one = self.zero_or_one and bool(((targets == 0) | (targets == 1)).all())
        truth = targets > 0.5
        self.count += truth.size
        self.mismatches += int(np.count_nonzero(differs))
        tied = np.maximum(np.abs(ours), np.abs(theirs)) <= TIED * np.abs(theirs).max(initial=0)
        self.tied += int(np.count_nonzero(differs & (tied | _along(by_rounding, differs))))
        self.correct += int(np.count_nonzero((ours > 0) == truth))
        self.model_correct += int(np.count_nonzero((theirs > 0) == truth))
        self.differs.append(_any_of(differs))
        if as_trained is not None:
            changed = (as_trained > 0) != (ours > 0)
            self.trained_mismatches += int(np.count_nonzero(changed))
            self.trained_correct += int(np.count_nonzero((as_trained > 0) == truth))
            self.trained_differs.append(_any_of(changed))

    def result(self) -> Agreement:
        """The counts of all batches."""
        if self.kind == "labels" or (self.with_targets and self.zero_or_one):
            return Agreement(
                self.count,
                self.mismatches,
                self.difference,
                self.bit_exact,
                self.tied,
                integers=self.integers,
                signs=self.signs,
                correct=self.correct if self.with_targets else None,
                model_correct=self.model_correct if self.with_targets else None,
                trained_mismatches=self.trained_mismatches if self.with_trained else None,
                trained_correct=self.trained_correct if self.with_trained and self.with_targets else None,
                compared="labels" if self.kind == "labels" else "multi-label",
                trained_difference=self.trained_values.relative_difference
                if self.with_trained and not (self.signs or self.integers)
                else None,
            )
        differs = self.samples_apart()
        count, mismatches = len(differs), int(np.count_nonzero(differs))
        tied = int(np.count_nonzero(differs & np.concatenate(self.decided)))
        if self.signs and mismatches <= max(1, MOST_CHANGED * count):
            tied = mismatches
        return Agreement(
            count,
            mismatches,
            self.difference,
            self.bit_exact,
            tied,
            integers=self.integers,
            trained_mismatches=int(np.count_nonzero(self.trained_samples_apart())) if self.with_trained else None,
            compared="values",
            relative_difference=self.values.relative_difference,
            r2=self.values.r2,
            trained_r2=self.trained_values.r2 if self.with_trained else None,
            error=_mean(self.errors) if self.with_targets else None,
            trained_error=_mean(self.trained_errors) if self.with_targets and self.with_trained else None,
        )

    def samples_apart(self) -> np.ndarray:
        """The samples with a mismatch, bool (N,)."""
        return self._apart(self.differs, self.values)

    def trained_samples_apart(self) -> np.ndarray:
        """The samples with a mismatch with the model as trained, bool (N,)."""
        return self._apart(self.trained_differs, self.trained_values)

    def _apart(self, labels: list[np.ndarray], values: Spread) -> np.ndarray:
        by_labels = self.kind == "labels" or (self.with_targets and self.zero_or_one)
        return np.concatenate(labels) if by_labels else values.apart()


def joint(outputs: dict[str, OutputCounts]) -> Agreement:
    """The agreement of several outputs: counts of samples, and the counts of each output."""
    parts = {name: counts.result() for name, counts in outputs.items()}
    apart = np.logical_or.reduce([counts.samples_apart() for counts in outputs.values()])
    unexplained = [
        counts.samples_apart() for name, counts in outputs.items() if parts[name].label_mismatches > parts[name].tied
    ]
    broken = np.logical_or.reduce(unexplained) if unexplained else np.zeros_like(apart)
    labeled = [part for part in parts.values() if part.correct is not None and part.count == len(apart)]
    [only] = labeled if len(labeled) == 1 else [None]
    trained = None
    if all(counts.with_trained for counts in outputs.values()):
        changed = np.logical_or.reduce([counts.trained_samples_apart() for counts in outputs.values()])
        trained = int(np.count_nonzero(changed))
    return Agreement(
        len(apart),
        int(np.count_nonzero(apart)),
        max(part.max_logit_difference for part in parts.values()),
        all(part.bit_exact for part in parts.values()),
        int(np.count_nonzero(apart & ~broken)),
        correct=None if only is None else only.correct,
        model_correct=None if only is None else only.model_correct,
        trained_mismatches=trained,
        trained_correct=None if only is None else only.trained_correct,
        compared="values",
        outputs=parts,
    )


def _alike(ours: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Targets in the shape of the outputs: (N,) for (N, 1), or back."""
    if targets.size != ours.size:
        raise UsageError(f"got targets {_batch(targets)} for outputs {_batch(ours)}, expected the same shape")
    return targets.reshape(ours.shape).astype(np.float64)


def _batch(array: np.ndarray, *, without: int | None = None) -> str:
    """The shape of a batch, as in (N, 10)."""
    sides = [str(side) for axis, side in enumerate(array.shape) if axis and axis != without]
    return f"(N, {', '.join(sides)})" if sides else "(N,)"


def _along(samples: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One number per sample (n,), for each of their labels (n, …)."""
    return samples.reshape(-1, *[1] * (labels.ndim - 1))


def _any_of(differs: np.ndarray) -> np.ndarray:
    """Whether anything differs in each sample: bool (n, …) -> (n,)."""
    found = np.asarray(differs.reshape(len(differs), -1).any(axis=1))
    return found


def _add_error(total: list[float], outputs: np.ndarray, targets: np.ndarray) -> None:
    total[0] += float(np.square(outputs.astype(np.float64) - targets).sum())
    total[1] += targets.size


def _mean(total: list[float]) -> float:
    return total[0] / total[1]


def _margin(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Largest logit minus the logit of a label: (N, K, h, w) and (N, h, w) -> (N, h, w)."""
    return logits.max(axis=1) - np.take_along_axis(logits, labels[:, np.newaxis], axis=1)[:, 0]
