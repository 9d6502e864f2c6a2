"""How far two executions of a net differ in one output: in labels, in several labels per sample, or in values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onebit.data import VOID
from onebit.data.mask_scores import check_mask_classes
from onebit.errors import UsageError
from onebit.packed import PackedNet, Quantize, Requantize, Sign
from onebit.verification.outcome import TIED, Agreement, most_changed
from onebit.verification.spread import Spread

Decided = Callable[[np.ndarray], np.ndarray]


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
        if targets is not None and ours.ndim == 4:
            check_mask_classes(ours.shape[1])
        predicted, expected = ours.argmax(axis=1), theirs.argmax(axis=1)
        truth = predicted if targets is None else targets
        known = np.ones(predicted.shape, np.bool_) if targets is None or truth.ndim < 3 else truth != VOID
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
        if self._by_labels:
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
        if self.signs and mismatches <= most_changed(count):
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
        return np.concatenate(labels) if self._by_labels else values.apart()

    @property
    def _by_labels(self) -> bool:
        """Whether labels count. Targets 0 and 1 may also be values, so where only rounding may differ, values count."""
        if self.kind == "labels":
            return True
        several = self.with_targets and self.zero_or_one
        return several and (self.signs or self.integers or not self.values.apart().any())


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
