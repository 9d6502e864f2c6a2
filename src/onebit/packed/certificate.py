"""The certificate of a packed net: what was compared with the trained net, and how many results differed."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated, Any

from onebit.common.fields import Bound, NotNegative, one_of
from onebit.common.record import Record, Text, Whole

Sha256 = Annotated[str, Bound("a sha256", lambda text: re.fullmatch(r"[0-9a-f]{64}", text) is not None)]
ROUNDING = 1e-5
"""Share of the largest number, or of the last addend: real numbers are equal up to rounding if they differ by less."""
PROMISES = {
    "exact": "integers throughout: each threshold gives the sign of the trained modules for every integer that can "
    "occur, and the outputs are equal, up to the rounding of a last scale or BatchNorm",
    "real": "real activations: no output differs by more than 1e-5·√L of the largest, with L layers of weights, so "
    "labels differ only at ties",
    "rounded": "signs or rounding after float sums: given the same inputs, each sign or integer equals torch's, unless "
    "the value before rounding lies within 1e-5 (of the largest value) of a rounding threshold; labels that differ are "
    "counted, at most 1 %",
}
"""What a certificate promises, see `PackedNet.promise`."""
NOT_CERTIFIED = "not certified: nothing was compared with the trained net"
COMPARED = {"labels": "labels differ", "multi-label": "labels differ", "values": "outputs differ by more than rounding"}
"""What was compared -> what counts as a mismatch."""


def number_differing(count: int, what: str = "differ") -> str:
    """A count of differences in words.

    Example:
        >>> number_differing(1_000, "labels differ"), number_differing(1, "labels differ")
        ('1,000 labels differ', '1 label differs')
    """
    if count == 1:
        what = what.replace("s differ", " differ").replace("differ", "differs")
    return f"{count:,} {what}"


@dataclass(frozen=True, kw_only=True)
class LayerProof(Record):
    """The comparison of one layer.

    Args:
        name: of the value in the packed net.
        proof: "every integer" (each integer that can occur was compared) or "float" (the values on the images were).
        integers: number of compared integers or values.
        mismatches: number of them whose result differs from the trained net's because of rounding.
    """

    name: Text
    proof: Annotated[str, one_of("every integer", "float")]
    integers: Whole
    mismatches: Whole

    KIND = "layer"

    def to_json(self) -> Any:
        """A list of the four fields, which is shorter than an object."""
        return list(super().to_json().values())

    @classmethod
    def from_json(cls, value: object, **apart: Any) -> LayerProof:
        """The inverse of `to_json`."""
        names = ("name", "proof", "integers", "mismatches")
        fits = isinstance(value, list) and len(value) == len(names)
        return super().from_json(dict(zip(names, value, strict=True)) if fits else value)  # type: ignore[call-overload]

    def __str__(self) -> str:
        what = "values on the images" if self.proof == "float" else "integers, all that can occur"
        return f"{self.integers:,} {what}: {number_differing(self.mismatches)}"


@dataclass(frozen=True, kw_only=True)
class Certificate(Record):
    """Agreement of a packed net with the trained net, on stated images.

    Args:
        onebit: version of onebit that packed and compared.
        dataset: name of the data set.
        split: "train", "validation" or "test"; "" for other data.
        count: number of compared images (samples); of pixels for segmentation, and of labels for several labels per
            sample, here and below.
        weights: the test mode that was packed: "binary", or "sample" for one random draw.
        seed: of the draw, else None.
        correct: images that the packed net classifies correctly; None without labels.
        label_mismatches: images that the two nets label differently.
        max_logit_difference: largest |difference| between two logits.
        bit_exact: whether all logits are equal.
        source: sha256 of the checkpoint, in hexadecimal, or None.
        recipe: name of the recipe, or None.
        layers: the proof of each layer.
        images: number of compared images, evenly spaced in the split; None for all.
        compared: "labels", the largest logit of each sample; "multi-label", the sign of each logit; "values", the
            outputs, where a mismatch is a sample that differs by more than `ROUNDING` of the largest one.
        trained_mismatches: mismatches with the training pipeline, including its preprocessing; None if the net was
            compared only with the model after the packed preprocessing.
        trained_correct: labels that the pipeline predicts correctly; None without it or without labels.
        activations: bits of the activations if they were rounded after the training; else None.
        calibration: number of training images, evenly spaced in the split, that set their ranges.
        inputs: names of the inputs, if there are several.
        sizes: of the compared images, such as "512×512", for a net that takes images of any size.
        model_correct: labels that torch predicts correctly, in an integer net with real activations; None without any.
        faults: what breaks the promise; empty for a certified net. Not stored.
    """

    onebit: Text
    dataset: Text
    split: Annotated[str, one_of("train", "validation", "test", "")]
    count: Whole
    weights: Annotated[str, one_of("binary", "sample")]
    label_mismatches: Whole
    max_logit_difference: NotNegative
    bit_exact: bool
    seed: Whole | None = None
    correct: Whole | None = None
    source: Sha256 | None = None
    recipe: Text | None = None
    layers: tuple[LayerProof, ...] = ()
    images: Whole | None = None
    compared: Annotated[str, one_of(*COMPARED)] = "labels"
    trained_mismatches: Whole | None = None
    trained_correct: Whole | None = None
    activations: Annotated[int, one_of(8, 4, 2)] | None = None
    calibration: Whole | None = None
    model_correct: Whole | None = None
    inputs: tuple[Text, ...] = ()
    sizes: tuple[Text, ...] = ()
    faults: tuple[str, ...] = ()

    KIND = "certificate"
    WRITTEN = ("seed", "correct", "source", "recipe", "layers")
    APART = ("faults",)

    @property
    def ok(self) -> bool:
        """Whether the nets agree as `PackedNet.promise` says."""
        return not self.faults

    def __str__(self) -> str:
        words = [self.in_words("samples" if self.compared == "values" else "labels")]
        if self.trained_mismatches is not None:
            words.append(self.against)
        return "; ".join([*words, *self.faults])

    def in_words(self, unit: str) -> str:
        """What was compared, with the result; `unit` names what `count` counts."""
        weights = "" if self.correct is None else f"{self.correct:,} correct with packed weights"
        if self.activations is not None:
            weights = f"{weights or 'packed weights'} and {self.activations}-bit activations"
        if self.model_correct not in (None, self.correct):
            weights += f" ({self.model_correct:,} in torch)"
        calibrated = "" if self.calibration is None else f"; ranges of {self.calibration:,} training images"
        unit = f"{unit} ({', '.join(self.inputs)})" if self.inputs else unit
        unit = f"{unit} (images of {' and '.join(self.sizes)})" if self.sizes else unit
        what = f"{self.dataset} {self.split} {unit}" if self.split else f"{unit} of {self.dataset}"
        differing = number_differing(self.label_mismatches, COMPARED[self.compared])
        return (
            f"{self.count:,} {what}: {weights}{weights and ', '}{differing} from torch, "
            f"largest logit difference {self.max_logit_difference:.3g}{calibrated}"
        )

    @property
    def packing(self) -> str:
        """The flags of `onebit pack` that decide what was packed; "" for the signs of a trained net alone."""
        flags = [] if self.seed is None else [f"--weights {self.weights} --seed {self.seed}"]
        if self.activations is not None:
            flags.append(f"--activations {self.activations} --calibration {self.calibration}")
        if self.sizes:
            flags.append("--sizes any")
        return " ".join(flags)

    @property
    def against(self) -> str:
        """Whether the net was compared with the training pipeline, or only with the model on the same inputs."""
        if self.trained_mismatches is None:
            return "compared with the model on the same inputs, not with the training pipeline"
        correct = "" if self.trained_correct is None else f"{self.trained_correct:,} correct, "
        return f"compared with the training pipeline: {correct}{number_differing(self.trained_mismatches)}"

    def as_dict(self) -> dict[str, Any]:
        """The stored fields by name."""
        fields = dataclasses.asdict(self)
        del fields["faults"]
        return fields
