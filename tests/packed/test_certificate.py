from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from onebit.errors import FormatError
from onebit.packed import Certificate


def test_json_and_back(certificate: Certificate) -> None:
    drawn = replace(certificate, weights="sample", seed=2**63 - 1, correct=None, source=None, recipe=None, layers=())
    for one in (certificate, drawn, replace(certificate, images=500)):
        assert Certificate.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_json_has_the_specified_fields_and_no_defaults(certificate: Certificate) -> None:
    value = certificate.to_json()
    assert sorted(value) == [
        "bit_exact", "correct", "count", "dataset", "label_mismatches", "layers", "max_logit_difference", "onebit",
        "recipe", "seed", "source", "split", "weights",
    ]  # fmt: skip
    assert value["layers"] == [["fc0", "every integer", 399_841, 0]]
    assert replace(certificate, images=500).to_json() == {**value, "images": 500}


@pytest.mark.parametrize(
    ("change", "noun"),
    [
        ({"weights": "latent"}, "weights"),
        ({"max_logit_difference": float("nan")}, "max_logit_difference"),
        ({"max_logit_difference": float("inf")}, "max_logit_difference"),
        ({"max_logit_difference": -1e-9}, "max_logit_difference"),
        ({"bit_exact": 1}, "bit_exact"),
        ({"source": "ABC"}, "source"),
        ({"source": "0" * 63 + "\n"}, "source"),
        ({"activations": 3, "calibration": 500}, "activations"),
        ({"layers": [["a", "every integer", 1]]}, "layer"),
        ({"layers": [["a", "belief", 1, 0]]}, "proof"),
        ({"layers": [["a", "float", 2**63, 0]]}, "integers"),
        ({"dataset_": "x"}, "'dataset'"),
    ],
)
def test_impossible_certificates_are_refused(certificate: Certificate, change: dict[str, Any], noun: str) -> None:
    with pytest.raises(FormatError, match=noun):
        Certificate.from_json({**certificate.to_json(), **change})


def test_faults_are_not_stored(certificate: Certificate) -> None:
    faulty = replace(certificate, faults=("fc0: 2 of 100 values differ by more than rounding",))
    assert (certificate.ok, faulty.ok) == (True, False)
    assert str(faulty).endswith("; fc0: 2 of 100 values differ by more than rounding")
    assert faulty.to_json() == certificate.to_json()


def test_rounded_activations_are_stated(certificate: Certificate) -> None:
    made = replace(certificate, activations=4, calibration=500, model_correct=9_880, label_mismatches=7)
    assert Certificate.from_json(made.to_json()) == made
    assert not {"activations", "calibration", "model_correct"} & certificate.to_json().keys()
    assert str(made) == (
        "10,000 mnist test labels: 9,876 correct with packed weights and 4-bit activations (9,880 in torch), 7 "
        "labels differ from torch, largest logit difference 1.5e-05; ranges of 500 training images"
    )
    one = replace(made, label_mismatches=1, trained_mismatches=1)
    assert ", 1 label differs from torch, " in str(one)
    assert one.against.endswith(": 1 differs")
    assert str(replace(made, correct=None, model_correct=None)) == (
        "10,000 mnist test labels: packed weights and 4-bit activations, 7 labels differ from torch, "
        "largest logit difference 1.5e-05; ranges of 500 training images"
    )


def test_a_missing_field_is_named(certificate: Certificate) -> None:
    value = certificate.to_json()
    del value["split"]
    with pytest.raises(FormatError, match="'split'"):
        Certificate.from_json(value)
    with pytest.raises(FormatError, match="object"):
        Certificate.from_json([])
