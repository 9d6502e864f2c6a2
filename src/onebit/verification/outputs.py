"""Counts how two executions of a net differ in one output: in labels, in several labels per sample, or in values."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from onebit.data import VOID
from onebit.data.mask_scores import check_mask_classes
from onebit.errors import UsageError
from onebit.packed import PackedNet
from onebit.packed.certificate import ROUNDING
from onebit.packed.grid import FLOAT32_EXACT
from onebit.verification.sites import last_shifts


class OutputCounts:
    """The counts of one output of a packed net, batch by batch.

    Args:
        ours, targets: of the first batch, which decide whether labels are compared, or values and several labels per
            sample.
    """

    def __init__(self, packed: PackedNet, name: str, ours: np.ndarray, targets: np.ndarray | None) -> None:
        products, shape = sum(node.weights > 0 for node in packed.nodes), ours.shape[1:]
        # the roundings of real layers add up like a random walk
        self.rounding = ROUNDING * (max(1, products) ** 0.5 if packed.promise == "real" else 1)
        self.exact = (packed.values[name].bound or FLOAT32_EXACT) < FLOAT32_EXACT  # an integer in both nets
        self.largest = np.abs(last_shifts(packed).get(name, np.zeros(1)))  # so far, (K,) or (1,)
        self.with_targets, self.zero_or_one = targets is not None, True
        self.difference, self.bit_exact = 0.0, True
        self.labels, self.samples = Counter[str](), Counter[str]()
        self.judged = self.beyond = 0
        if targets is None:
            self.are_labels = len(shape) in (1, 3) and shape[0] > 1 and len(packed.keyed) == 1
            return
        mapped = len(shape) > 0 and shape[0] > 1 and targets.shape[1:] == shape[1:]
        self.are_labels = mapped and targets.dtype.kind != "f"
        if not self.are_labels and ours.size != targets.size:
            raise UsageError(f"got targets {targets.dtype} {targets.shape} for outputs {ours.shape}")
        if self.are_labels and ours.ndim == 4:
            check_mask_classes(ours.shape[1])

    def apart(self, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """The samples, bool (n,), in which an output differs by more than `rounding` times the largest number so far.

        That is the largest logit or last shift; for values, of the channel.
        """
        if not len(ours):
            return np.zeros(0, np.bool_)
        columns = theirs.shape[1] if theirs.ndim > 1 else 1
        expected = theirs.reshape(len(theirs), columns, -1).astype(np.float64)
        found = np.abs(expected).max(axis=(0, 2))
        self.largest = np.maximum(self.largest, found)
        size = 0.0 if self.exact else self.largest.max() if self.are_labels else self.largest
        difference = np.abs(ours.reshape(expected.shape) - expected).max(axis=2)
        return np.asarray((difference > self.rounding * size).any(axis=1))

    def add(
        self, ours: np.ndarray, theirs: np.ndarray, as_trained: np.ndarray | None, targets: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Count a batch (n, …): outputs of the packed net, of the model and of the model as trained, and targets.

        Returns:
            The samples, bool (n,), in which the packed net differs from the model, and from the model as trained.
        """
        self.difference = max(self.difference, float(np.abs(ours.astype(np.float64) - theirs).max()))
        self.bit_exact = self.bit_exact and bool((ours == theirs).all())
        others = [theirs] if as_trained is None else [theirs, as_trained]
        apart = [self.apart(ours, other) for other in others]
        self.samples["count"] += len(ours)
        for name, found in zip(("label_mismatches", "trained_mismatches"), apart, strict=False):
            self.samples[name] += int(np.count_nonzero(found))
        if self.are_labels:
            apart = self._add_labels([outputs.argmax(axis=1) for outputs in (ours, *others)], targets, ours.shape[1])
        elif targets is not None:
            targets = targets.reshape(ours.shape)
            self.zero_or_one = self.zero_or_one and bool(((targets == 0) | (targets == 1)).all())
            self._add_labels([outputs > 0 for outputs in (ours, *others)], targets > 0.5, 2)
        return apart[0], apart[-1]

    def _add_labels(self, found: list[np.ndarray], targets: np.ndarray | None, classes: int) -> list[np.ndarray]:
        """Count labels; returns the samples in which the first ones differ from each of the others."""
        truth = found[0] if targets is None else targets
        masks = targets is not None and self.are_labels and truth.ndim == 3
        known = np.asarray(truth != VOID) if masks else np.ones(truth.shape, np.bool_)
        if (wrong := ((truth < 0) | (truth >= classes)) & known).any():
            raise UsageError(f"got the label {int(truth[wrong][0])}, expected 0 to {classes - 1}")
        self.labels["count"] += int(np.count_nonzero(known))
        for name, labels in zip(("correct", "model_correct", "trained_correct"), found, strict=False):
            self.labels[name] += int(np.count_nonzero((labels == truth) & known))
        differing = [(found[0] != other) & known for other in found[1:]]
        for name, differs in zip(("label_mismatches", "trained_mismatches"), differing, strict=False):
            self.labels[name] += int(np.count_nonzero(differs))
        return [differs.reshape(len(differs), -1).any(axis=1) for differs in differing]

    def judge(self, ours: np.ndarray, theirs: np.ndarray) -> None:
        """Count the samples of a batch whose outputs differ by more than rounding."""
        self.judged += len(ours)
        self.beyond += int(np.count_nonzero(self.apart(ours, theirs)))

    @property
    def other_labels(self) -> float:
        """The share of labels that differ, or of samples whose outputs differ by more than rounding if it is smaller.

        One of each is not counted.
        """
        parts = ((part["label_mismatches"] - 1) / max(1, part["count"]) for part in (self.labels, self.samples))
        return min(parts)

    def result(self) -> dict[str, Any]:
        """The fields of a certificate."""
        several = not self.are_labels and self.with_targets and self.zero_or_one
        compared = "labels" if self.are_labels else "multi-label" if several else "values"
        counts = dict(self.samples if compared == "values" else self.labels)
        if not self.with_targets:
            counts = {name: count for name, count in counts.items() if not name.endswith("correct")}
        return {"compared": compared, **counts}
