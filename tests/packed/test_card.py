"""The card of a packed net: stored, shown, and refused when it is hostile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onebit.errors import FormatError
from onebit.packed import Card, CardScore, PackedNet, dumps, loads
from onebit.packed.card import MAX_CARD_TEXT_LENGTH, ROUNDED
from support.hostile_files import assert_refused, join, split
from support.packed_nets import make_packed_mlp

CARD = Card(
    summary="a small net",
    dataset="mnist",
    data="handwritten digits",
    license="LeCun, Cortes, Burges; CC BY-SA 3.0",
    method="binaryconnect: weights sign, inputs real; optimizer adam",
    recipe="mnist-fast",
    reference="none",
    command="onebit train mnist-fast --seed 3",
    seed=3,
    epochs=0.5,
    chosen_epoch=1,
    chosen_by="validation error",
    test={
        "latent": CardScore(correct=9_700, count=10_000, reestimated=True),
        "packed": CardScore(correct=9_800, count=10_000, mean_iou=0.25),
    },
)


def with_card(card: object) -> bytes:
    """A file that is sound but for its card."""
    header, graph, tensors = split(dumps(make_packed_mlp((3, 2))))
    return join(header, graph | {"card": card}, tensors)


def test_a_card_survives_the_file_and_costs_its_text() -> None:
    net = make_packed_mlp((3, 2))
    data = dumps(replace(net, card=CARD))
    assert loads(data).card == CARD
    assert loads(dumps(net)).card is None
    assert dumps(replace(loads(data), card=None)) == dumps(net)  # files without one have the bytes of before
    assert loads(with_card({"seed": 3})).card == Card(seed=3)
    assert loads(with_card({})).card == Card()


def test_the_card_of_a_rounded_net_is_no_longer_than_a_file_takes() -> None:
    long = replace(CARD, method="m" * MAX_CARD_TEXT_LENGTH).of_rounded(8)
    assert len(long.method or "") == MAX_CARD_TEXT_LENGTH
    assert (long.method or "").endswith("; activations rounded to 8 bits after the training")
    assert (Card().of_rounded(4).method, Card().of_rounded(None)) == (ROUNDED.format(4), Card())


def test_a_card_has_a_line_for_each_known_field() -> None:
    lines = str(CARD).splitlines()
    assert len(lines) == 14
    assert "chosen by: validation error" in lines
    assert "test, packed weights: 98.00 % (9,800 of 10,000, mean IoU 0.2500)" in lines
    assert "test, latent weights: 97.00 % (9,700 of 10,000, BatchNorm re-estimated)" in lines
    assert str(Card(seed=0)) == "seed: 0"


@pytest.mark.parametrize(
    ("card", "noun"),
    [
        ({"sumary": "x"}, "'summary'"),
        ({"summary": "\x1b[2J\x1b]0;title\x07"}, "card summary"),
        ({"license": "safe\u202etxt"}, "card license"),
        ({"reference": "x" * 3_000_000}, "card reference"),
        ({"seed": 2**63}, "card seed"),
        ({"test": {str(i): {"correct": 0, "count": 1} for i in range(21)}}, "card test"),
        ({"test": {"\x1b": {"correct": 0, "count": 1}}}, "card test"),
        ({"test": {"packed": {"correct": 3, "count": 2}}}, "correct"),
        ({"test": {"packed": {"correct": 0, "count": 0}}}, "count"),
    ],
)
def test_a_hostile_card_is_refused(card: object, noun: str) -> None:
    assert_refused(with_card(card), noun)


def test_a_changed_card_breaks_the_digest() -> None:
    net: PackedNet = replace(make_packed_mlp((3, 2)), card=CARD)
    with pytest.raises(FormatError, match="digest"):
        loads(dumps(net).replace(b"9800", b"9900"))
