"""How far two executions of a net agree: the counts, what follows from them, and how they read."""

from __future__ import annotations

from dataclasses import dataclass, field

from onebit.packed.certificate import counted_differing

TIED = 1e-5
"""Two logits are equal up to rounding if they differ by at most this fraction of the largest logit."""
MOST_CHANGED = 1 / 200
"""Fraction of labels, or of samples, that may change where rounding decides a sign inside of the net."""
MOST_ROUNDED = 1e-3
"""Largest difference of logits, as a fraction of their range, that rounding in the preprocessing explains where the net
takes no signs."""


def most_changed(count: int) -> float:
    """How many of `count` samples rounding may change without a look at each: of ten or more at least one."""
    return max(float(count >= 10), MOST_CHANGED * count)


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
        return (self.trained_mismatches or 0) <= most_changed(self.count)

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
        differ = counted_differing(
            self.trained_mismatches, "labels differ" if self.compared != "values" else "outputs differ"
        )
        if self.trained_r2 is not None and not self.as_trained:
            differ += f" (R² {_r2_text(self.trained_r2)})"
        way_out = "" if self.as_trained else f": {self.coding} is not the preprocessing of the training"
        doubt = f"; {self.doubt}" if self.doubt else ""
        return f"; as trained {right}{differ}{way_out}{doubt}"


def _r2_text(value: float) -> str:
    """Six digits, never rounded up to 1."""
    return "above 0.999999" if 0.999999 < value < 1 else f"{value:.6g}"
