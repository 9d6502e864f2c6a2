"""The description of input bytes in exported files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onebit.data import DATASETS
from onebit.export import export_net
from onebit.export.onnx.target import card
from onebit.export.pixels import IMAGE_DATA, UNKNOWN, pixels_in_words
from onebit.packed import Card, Certificate
from support.packed_nets import NETS_OF_OTHER_INPUTS, make_packed_mlp

COLOR = "bytes 0 to 255, planes in the order red, green, blue, no normalization before"
DIGITS = "bytes 0 to 255, gray, white strokes on black, no normalization before"


@pytest.mark.parametrize(
    ("dataset", "shape", "words"),
    [
        ("cifar10", (3, 2, 2), COLOR),
        ("membrane", (1, 3, 4), "bytes 0 to 255, gray, no normalization before"),
        ("mnist", (1, 3, 4), DIGITS),
        ("mnist", (2, 3, 2), UNKNOWN),
        ("arrays", (3, 2, 2), UNKNOWN),
        ("a set of strangers", (3, 2, 2), UNKNOWN),
        (None, (3, 2, 2), UNKNOWN),
    ],
)
def test_only_what_is_known_is_described(dataset: str | None, shape: tuple[int, int, int], words: str) -> None:
    net = make_packed_mlp(shape=shape)
    assert pixels_in_words(replace(net, card=Card(dataset=dataset)), net.input) == words


def test_a_certificate_names_the_data_of_bytes(certificate: Certificate) -> None:
    net = make_packed_mlp(shape=(1, 3, 4))
    assert pixels_in_words(replace(net, certificate=certificate), net.input) == DIGITS
    assert pixels_in_words(replace(net, certificate=replace(certificate, split="")), net.input) == UNKNOWN
    floats = NETS_OF_OTHER_INPUTS["features"]()
    assert pixels_in_words(floats, floats.input) == ""


def test_the_data_are_in_the_table_of_data_sets() -> None:
    assert set(IMAGE_DATA) < set(DATASETS)


@pytest.mark.parametrize(("to", "name"), [("c", "net"), ("torch", "net.safetensors")])
def test_exported_files_describe_the_pixels(to: str, name: str, tmp_path: Path) -> None:
    net: Any = replace(make_packed_mlp(shape=(3, 2, 2)), card=Card(dataset="cifar10"))
    files = {file.name: file for file in export_net(net, to, tmp_path / name).files}
    for file in ("net.h", "README.md") if to == "c" else ("net.py",):
        assert COLOR in files[file].read_text(encoding="utf-8")
    assert json.loads(card(net, ["output"])["input"])["values"] == COLOR
