"""The card of a packed net: what it is and how it was made, for its reader. The certificate is the evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onebit.errors import short, shortened
from onebit.packed.strict_json import COUNT, FLAG, MOST_COUNT, Rule, check_fields, check_record, check_value

LONGEST_CARD_TEXT = 1_000
ROUNDED = "activations rounded to {} bits after the training"
"""The end of the method of an integer net."""
MOST_MODES = 20
_TEXTS = ("summary", "dataset", "data", "license", "method", "recipe", "reference", "chosen_by", "command")
_CARD = dict.fromkeys(_TEXTS, Rule(str, LONGEST_CARD_TEXT, optional=True)) | {
    "seed": Rule(int, MOST_COUNT, optional=True),
    "chosen_epoch": Rule(int, MOST_COUNT, optional=True),
    "epochs": Rule(float, MOST_COUNT, optional=True),
}
_SCORE = {
    "correct": COUNT,
    "count": Rule(int, MOST_COUNT, least=1),
    "reestimated": FLAG,
    "mean_iou": Rule(float, 1, optional=True),
}


@dataclass(frozen=True, kw_only=True)
class CardScore:
    """The result in one test mode.

    Args:
        correct, count: predictions on the test split; for masks, pixels.
        reestimated: whether BatchNorm statistics were re-estimated for this mode.
        mean_iou: for masks, the mean intersection over union; else None.
    """

    correct: int
    count: int
    reestimated: bool = False
    mean_iou: float | None = None

    def __post_init__(self) -> None:
        check_record("card test", self, _SCORE)
        check_record("card test", self, {"correct": self.correct <= self.count})

    def __str__(self) -> str:
        iou = "" if self.mean_iou is None else f", mean IoU {self.mean_iou:.4f}"
        again = ", BatchNorm re-estimated" if self.reestimated else ""
        return f"{100 * self.correct / self.count:.2f} % ({self.correct:,} of {self.count:,}{iou}{again})"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a packed net is. Every field is optional: what is not known is None.

    Args:
        summary: what the net is, in one line.
        dataset: name of the data set, as `onebit list datasets` has it.
        data: what the data are, and which copy of them.
        license: authors and terms of use of the data.
        method: how the net was trained to be binary.
        recipe: name of the recipe.
        reference: what was published about it.
        command: what trains the same net with this version of onebit; `str` adds how an integer net is packed.
        seed, epochs: of the training.
        chosen_epoch, chosen_by: the epoch whose weights were packed, and why.
        test: the result in each test mode. "packed" is that of this file, the others are of the trained net.

    Raises:
        FormatError: a field of another type, text that is too long or has control characters.
    """

    summary: str | None = None
    dataset: str | None = None
    data: str | None = None
    license: str | None = None
    method: str | None = None
    recipe: str | None = None
    reference: str | None = None
    command: str | None = None
    seed: int | None = None
    epochs: float | None = None
    chosen_epoch: int | None = None
    chosen_by: str | None = None
    test: Mapping[str, CardScore] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_record("card", self, _CARD)
        check_record("card", self, {"test": isinstance(self.test, Mapping) and len(self.test) <= MOST_MODES})
        for mode in self.test:
            check_value("card test mode", mode)

    def __str__(self) -> str:
        """The known fields in plain words, a line each."""
        data = ": ".join(filter(None, (self.dataset, self.data)))
        terms, named = "license of the data", {"recipe": self.recipe, "reference": self.reference}
        facts = {"summary": self.summary, "data": data, terms: self.license, "method": self.method, **named}
        lines = [f"{name}: {text}" for name, text in facts.items() if text]
        for mode, score in sorted(self.test.items(), key=lambda item: item[0] != "packed"):
            lines.append(f"test, {mode} weights{' (this file)' if mode == 'packed' else ' (trained net)'}: {score}")
        epoch = f"chosen epoch {self.chosen_epoch}" if self.chosen_epoch is not None else ""
        if epoch and self.chosen_by:
            epoch += f" ({self.chosen_by})"
        training = [
            "" if self.epochs is None else f"{self.epochs:g} epoch{'s' * (self.epochs != 1)}",
            epoch,
            "" if self.seed is None else f"seed {self.seed}",
        ]
        if any(training):
            lines.append(f"training: {', '.join(filter(None, training))}")
        if self.command:
            lines.append(f"command: {self.command}")
        return "\n".join(lines)

    def of_rounded(self, bits: int | None) -> Card:
        """The card of the integer net of this one: another net, of which no accuracy is known yet.

        Args:
            bits: of its activations; None if only values were rounded that this net rounds, too.
        """
        test = {mode: score for mode, score in self.test.items() if mode != "packed"}
        method = self.method
        if bits is not None:
            rounding = ROUNDED.format(bits)
            trained = shortened(method or "", LONGEST_CARD_TEXT - len(rounding) - 2)
            method = "; ".join(filter(None, (trained, rounding)))
        return dataclasses.replace(self, method=method, test=test)

    def to_json(self) -> dict[str, Any]:
        """A JSON object of the known fields; inverse of `from_json`."""
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "test"}
        known = {name: value for name, value in fields.items() if value is not None}
        if self.test:
            known["test"] = {mode: _known(dataclasses.asdict(score)) for mode, score in self.test.items()}
        return known

    @staticmethod
    def from_json(value: object) -> Card:
        """The card of a JSON object; FormatError for unknown or wrong fields."""
        fields = check_fields("card", value, (), optional=[item.name for item in dataclasses.fields(Card)])
        for name, item in fields.items():
            check_value(f"card {name}", item, item is not None)  # what is not known is left out
        test = fields.get("test", {})
        if isinstance(test, dict):
            test = {mode: _score(mode, score) for mode, score in test.items()}
        return Card(**{**fields, "test": test})


def _score(mode: str, value: object) -> CardScore:
    what = f"card test {short(mode)}"
    return CardScore(**check_fields(what, value, ("correct", "count"), optional=("reestimated", "mean_iou")))


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a score that are not at their defaults."""
    return {name: value for name, value in fields.items() if value is not None and value is not False}
