"""The certificate of a packed net: what was compared, with counts. It does not depend on the time of day."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from onebit.errors import FormatError, short
from onebit.packed.strict_json import COUNT, FLAG, SIZE, TEXT, check_fields, check_record

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LATER: dict[str, Any] = {
    **{"tied": 0, "images": None, "compared": "labels"},
    **{"trained_mismatches": None, "trained_correct": None},
    **{"activations": None, "calibration": None, "model_correct": None},
}
"""Fields that a file leaves out where they have these defaults."""
NOT_CERTIFIED = "not certified: nothing was compared with the trained net"
COMPARED = {"labels": "labels differ", "multi-label": "labels differ", "values": "outputs differ by more than rounding"}
"""What was compared -> what is counted as a mismatch, in words."""
_CORRECT = ("correct", "trained_mismatches", "trained_correct", "model_correct")
_CERTIFICATE = {
    **dict.fromkeys(("onebit", "dataset", "split", "weights", "compared"), TEXT),
    **dict.fromkeys(("recipe", "source"), TEXT._replace(optional=True)),
    **dict.fromkeys(("count", "label_mismatches", "tied"), COUNT),
    **dict.fromkeys(("seed", "images", "calibration", "activations", *_CORRECT), COUNT._replace(optional=True)),
    "max_logit_difference": SIZE,
    "bit_exact": FLAG,
}
PROOFS = "every integer", "within one", "float"
"""How a layer was compared, see `LayerProof`."""


def counted_differing(count: int, what: str = "differ") -> str:
    """How many differ, in words.

    Example:
        >>> counted_differing(1_000, "labels differ"), counted_differing(1, "labels differ")
        ('1,000 labels differ', '1 label differs')
    """
    if count == 1:
        what = what.replace("s differ", " differ").replace("differ", "differs")
    return f"{count:,} {what}"


@dataclass(frozen=True, kw_only=True)
class LayerProof:
    """How one layer was compared.

    Args:
        name: name of the value in the packed net.
        proof: "every integer" (every possible sum was compared), "within one" (of a rounding of several values, every
            possible weighted sum) or "float" (the values on the images were compared).
        integers: number of integers or values that were compared.
        mismatches: number of them with another result than in the trained net. A rounding has them near a tie, where
            the result is the next integer, or for "within one" may be.
    """

    name: str
    proof: str
    integers: int
    mismatches: int

    def __post_init__(self) -> None:
        check_record("layer", self, {"name": TEXT, "proof": TEXT, "integers": COUNT, "mismatches": COUNT})
        relations = {"proof": self.proof in PROOFS, "mismatches": self.mismatches <= self.integers}
        check_record("layer", self, relations)

    def __str__(self) -> str:
        what = {"every integer": "integers, all that can occur", "within one": "weighted sums, all that can occur"}
        differ = (
            f"{self.mismatches:,} may differ by 1" if self.proof == "within one" else counted_differing(self.mismatches)
        )
        return f"{self.integers:,} {what.get(self.proof, 'signs on the images')}: {differ}"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Agreement of a packed net with the trained net it came from, on stated images.

    Args:
        onebit: version of onebit that packed and compared.
        dataset: name of the data set.
        split: "train", "validation" or "test"; "" for your own data.
        count: number of images (samples) compared; for segmentation, here and below, pixels; for several labels per
            sample, the labels.
        weights: the test mode that was packed: "binary", or "sample" for one random draw.
        seed: of that draw, else None.
        correct: images that the packed net classifies correctly; None without labels.
        label_mismatches: images to which the two nets give different labels.
        tied: mismatches that rounding decides: pixels whose two labels are equally likely in both nets, and in a net
            that was trained with activations of few bits, samples with an integer that float32 rounds otherwise.
        max_logit_difference: largest |difference| between two logits.
        bit_exact: every logit is equal.
        source: sha256 of the checkpoint, in hexadecimal, or None.
        recipe: name of the recipe, or None.
        layers: the proof of each layer.
        images: number of images that were compared, evenly spread over the split; None for all.
        compared: "labels", the largest logit of each sample; "multi-label", the sign of each logit; "values", the
            outputs, where a mismatch is a sample that differs by more than rounding.
        trained_mismatches: mismatches with the pipeline of the training, with its own preprocessing; None if the net
            was compared only with the model behind the preprocessing that was packed.
        trained_correct: labels that are correct in that pipeline; None without it or without labels.
        activations: bits of the activations if they were rounded after the training; else None.
        calibration: number of training images that their ranges were found on, evenly spread over the split.
        model_correct: for such a net, labels that are correct in torch, with real activations; None without labels.
    """

    onebit: str
    dataset: str
    split: str
    count: int
    weights: str
    label_mismatches: int
    max_logit_difference: float
    bit_exact: bool
    seed: int | None = None
    correct: int | None = None
    source: str | None = None
    recipe: str | None = None
    layers: tuple[LayerProof, ...] = ()
    tied: int = 0
    images: int | None = None
    compared: str = "labels"
    trained_mismatches: int | None = None
    trained_correct: int | None = None
    activations: int | None = None
    calibration: int | None = None
    model_correct: int | None = None

    def __post_init__(self) -> None:
        check_record("certificate", self, _CERTIFICATE)
        rounded = self.activations is not None
        relations = {
            "split": self.split in ("train", "validation", "test", ""),
            "compared": self.compared in COMPARED,
            "weights": self.weights in ("binary", "sample"),
            "seed": (self.seed is not None) == (self.weights == "sample"),
            "label_mismatches": self.label_mismatches <= self.count,
            "tied": self.tied <= self.label_mismatches,
            "activations": self.activations in (None, 8, 4, 2) and (rounded or self.model_correct is None),
            "calibration": (self.calibration is not None) == rounded,
            "bit_exact": not (self.bit_exact and (self.max_logit_difference or self.label_mismatches)),
            "source": self.source is None or _SHA256.fullmatch(self.source) is not None,
        }
        check_record("certificate", self, relations)
        check_record("certificate", self, {name: (getattr(self, name) or 0) <= self.count for name in _CORRECT})

    def __str__(self) -> str:
        return self.in_words("labels")

    def in_words(self, counted: str) -> str:
        """What was compared, with the result; `counted` names what `count` counts."""
        correct = "" if self.correct is None else f"{self.correct:,} correct with packed weights, "
        if self.activations is not None:
            correct = f"{correct[:-2] or 'packed weights'} and {self.activations}-bit activations"
            if self.model_correct is not None:
                correct += f" ({self.model_correct:,} in torch, with real activations)"
            correct += ", "
        tied = f" ({self.tied:,} of them decided by rounding)" if self.tied else ""
        calibrated = "" if self.calibration is None else f"; ranges of {self.calibration:,} training images"
        what = f"{self.dataset} {self.split} {counted}" if self.split else f"{counted} of {self.dataset}"
        return (
            f"{self.count:,} {what}: {correct}{counted_differing(self.label_mismatches, COMPARED[self.compared])} "
            f"from torch{tied}, largest logit difference {self.max_logit_difference:.3g}{calibrated}"
        )

    @property
    def packing(self) -> str:
        """The flags of `onebit pack` that decide what was packed; "" for the signs of a trained net alone."""
        flags = [] if self.seed is None else [f"--weights {self.weights} --seed {self.seed}"]
        if self.activations is not None:
            flags.append(f"--activations {self.activations} --calibration {self.calibration}")
        return " ".join(flags)

    @property
    def against(self) -> str:
        """Whether the net was compared with the training pipeline, or only with the model on the same inputs."""
        if self.trained_mismatches is None:
            return "compared with the model on the same inputs, not with the training pipeline"
        correct = "" if self.trained_correct is None else f"{self.trained_correct:,} correct, "
        return f"compared with the training pipeline: {correct}{counted_differing(self.trained_mismatches)}"

    @property
    def claims(self) -> dict[str, object]:
        """The fields that every machine reproduces: all except the version and those that depend on torch's rounding.

        These are logits, signs that were compared only on images, pixels with tied labels, and labels of the pipeline
        of the training.
        """
        fields = self.to_json()
        for name in ("onebit", "max_logit_difference", "bit_exact", "trained_mismatches", "trained_correct"):
            fields.pop(name, None)
        fields["label_mismatches"] -= fields.pop("tied", 0)
        fields["layers"] = [layer if layer[1] != "float" else layer[:2] for layer in fields["layers"]]
        return fields

    def to_json(self) -> dict[str, Any]:
        """A JSON object; inverse of `from_json`. To stay small, each layer is a list of its four fields."""
        fields = dataclasses.asdict(self)
        for name, default in _LATER.items():
            if fields[name] == default:
                del fields[name]
        return {**fields, "layers": [list(dataclasses.astuple(layer)) for layer in self.layers]}

    @staticmethod
    def from_json(value: object) -> Certificate:
        """The certificate of a JSON object; FormatError for unknown, missing, wrong or contradictory fields."""
        whole = {**_LATER, **value} if isinstance(value, dict) else value
        fields = check_fields("certificate", whole, [field.name for field in dataclasses.fields(Certificate)])
        names, rows = [field.name for field in dataclasses.fields(LayerProof)], fields["layers"]
        if not isinstance(rows, list) or any(not isinstance(row, list) or len(row) != len(names) for row in rows):
            raise FormatError(f"certificate layers is {short(rows)}, expected lists of {', '.join(names)}")
        layers = [LayerProof(**dict(zip(names, row, strict=True))) for row in rows]
        return Certificate(**{**fields, "layers": tuple(layers)})
