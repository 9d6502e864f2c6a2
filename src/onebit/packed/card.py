"""The card of a packed net: what it is and how it was made. The certificate is the evidence."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Annotated

from onebit.common.fields import Bound, within
from onebit.common.record import Record, Text, Whole, printable
from onebit.errors import shortened

MAX_CARD_TEXT_LENGTH = 1_000
ROUNDED = "activations rounded to {} bits after the training"
"""Ends the `method` of an integer net."""
_CardText = Annotated[str, printable(MAX_CARD_TEXT_LENGTH)]


@dataclass(frozen=True, kw_only=True)
class CardScore(Record):
    """The result in one test mode.

    Args:
        correct, count: predictions on the test split; for masks, pixels.
        reestimated: whether BatchNorm statistics were re-estimated for this mode.
        mean_iou: for masks, the mean intersection over union; else None.
    """

    correct: Whole
    count: Annotated[Whole, within("[1, inf)")]
    reestimated: bool = False
    mean_iou: Annotated[float, within("[0, 1]")] | None = None

    KIND = "card test"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(correct=self.correct <= self.count)

    def __str__(self) -> str:
        iou = "" if self.mean_iou is None else f", mean IoU {self.mean_iou:.4f}"
        again = ", BatchNorm re-estimated" if self.reestimated else ""
        return f"{100 * self.correct / self.count:.2f} % ({self.correct:,} of {self.count:,}{iou}{again})"


@dataclass(frozen=True, kw_only=True)
class Card(Record):
    """What a packed net is. Unknown fields are None.

    Args:
        summary: what the net is, in one line.
        dataset: name of the data set, as `onebit list datasets` has it.
        data: what the data are, and which copy of them.
        license: authors and terms of use of the data.
        method: how the binary net was trained.
        recipe: name of the recipe.
        reference: publications.
        command: trains the same net with this version of onebit.
        seed, epochs: of the training run.
        chosen_epoch, chosen_by: the epoch whose weights were packed, and why.
        test: the result in each test mode: "packed" for this file, the others for the trained net.

    Raises:
        FormatError: a field has the wrong type, or text that is too long or not printable.
    """

    summary: _CardText | None = None
    dataset: _CardText | None = None
    data: _CardText | None = None
    license: _CardText | None = None
    method: _CardText | None = None
    recipe: _CardText | None = None
    reference: _CardText | None = None
    command: _CardText | None = None
    seed: Whole | None = None
    epochs: Annotated[float, within("[0, 1e18]")] | None = None
    chosen_epoch: Whole | None = None
    chosen_by: _CardText | None = None
    test: Annotated[dict[Text, CardScore], Bound("at most 20 scores", lambda test: len(test) <= 20)] = field(
        default_factory=dict
    )

    KIND = "card"

    def __str__(self) -> str:
        """One line per known field."""
        facts = {item.name.replace("_", " "): getattr(self, item.name) for item in fields(self) if item.name != "test"}
        facts |= {f"test, {mode} weights": score for mode, score in self.test.items()}
        return "\n".join(f"{name}: {value}" for name, value in facts.items() if value is not None)

    def of_rounded(self, bits: int | None) -> Card:
        """The card of the integer net made from this one, whose accuracy is not known yet.

        Args:
            bits: of its activations; None if it rounds only values that this net rounds, too.
        """
        test = {mode: score for mode, score in self.test.items() if mode != "packed"}
        method = self.method
        if bits is not None:
            rounding = ROUNDED.format(bits)
            trained = shortened(method or "", MAX_CARD_TEXT_LENGTH - len(rounding) - 2)
            method = "; ".join(filter(None, (trained, rounding)))
        return replace(self, method=method, test=test)
