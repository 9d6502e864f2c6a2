"""`onebit predict` with numbers: features, signals and images in .npy and .csv files, values and several outputs."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onebit.cli import predict_verb
from onebit.packed import Certificate, Flatten, InputSpec, PackedNet, RealDense, Relu, save
from onebit.runtime import load, run, softmax
from support.command_line import Onebit
from support.packed_nets import Builder

FEATURES = 5


def feature_net(outputs: int = 3, *, dtype: str = "float32", **fields: Any) -> PackedNet:
    """Features -> dense layers."""
    b = Builder((1, 1, 1), seed=3)
    b.input = InputSpec(shape=(FEATURES,), dtype=dtype, coding="values", meaning="measurements")
    b.values = {"input": b.input.value}
    b.add(RealDense, weight=b.real(8, FEATURES))
    b.add(Relu)
    b.add(RealDense, weight=b.real(outputs, 8))
    return dataclasses.replace(b.net(), **fields)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    save(feature_net(classes=("a", "b", "c")), tmp_path / "net.1bit")
    return tmp_path / "net.1bit"


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, FEATURES)).astype(np.float32)


def test_arrays_and_tables_give_what_the_executor_gives(
    onebit: Onebit, net: Path, samples: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = net.parent
    np.save(folder / "all.npy", samples)
    np.save(folder / "wide.npy", samples.astype(np.float64))
    np.save(folder / "one.npy", samples[2])
    rows = [",".join(map(repr, row)) for row in samples.tolist()]
    (folder / "plain.csv").write_text("\n".join(rows) + "\n\n")
    (folder / "named.csv").write_text("\ufeffu,v,w,x,y\n" + "\n".join(rows), encoding="utf-8")
    (folder / "windows.csv").write_text(
        "L\u00e4nge;Breite;H\u00f6he;y;z\n" + "\n".join(rows).replace(",", ";"), encoding="cp1252"
    )
    (folder / "german.csv").write_text("\n".join(row.replace(",", "; ") for row in rows))
    expected = softmax(run(load(net), samples))
    for name in ("all.npy", "wide.npy", "plain.csv", "named.csv", "windows.csv", "german.csv"):
        found = onebit("predict", net, folder / name, "--json").json["predictions"]
        assert [row["index"] for row in found] == [0, 1, 2, 3]
        assert [row["label"] for row in found] == expected.argmax(axis=1).tolist()
        assert [row["probability"] for row in found] == expected.max(axis=1).tolist()
        assert found[0].keys() == {"file", "index", "label", "name", "probability"}
    [one] = onebit("predict", net, folder / "one.npy", "--json").json["predictions"]
    assert one == {"file": str(folder / "one.npy"), **{k: v for k, v in found[2].items() if k not in ("file", "index")}}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((folder / "plain.csv").read_bytes())))
    assert len(onebit("predict", net, "-", "--json").json["predictions"]) == 4
    both = onebit("predict", net, folder / "one.npy", folder / "[ap]l*.npy")
    assert len(both.out.splitlines()) == 5
    assert f"{folder / 'all.npy'} [3]: " in both.out


def test_values_of_a_regression(onebit: Onebit, tmp_path: Path, samples: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", samples)
    for outputs, flags in ((1, []), (3, ["--values"])):
        path = tmp_path / f"{outputs}.1bit"
        save(feature_net(outputs), path)
        expected = run(load(path), samples)
        found = onebit("predict", path, tmp_path / "x.npy", *flags, "--json").json["predictions"]
        assert [row["values"] for row in found] == expected.tolist()
        assert found[0].keys() == {"file", "index", "values"}
        text = onebit("predict", path, tmp_path / "x.npy", *flags).out
        assert text.splitlines()[1] == f"{tmp_path / 'x.npy'} [1]: " + ", ".join(f"{v:.6g}" for v in expected[1])
    unnamed = onebit("predict", tmp_path / "3.1bit", tmp_path / "x.npy", "--json").json["predictions"][0]
    assert unnamed["name"] == str(unnamed["label"])


@pytest.mark.parametrize("several", [("n0", "n2"), {"hidden": "n0", "logits": "n2"}])
def test_several_outputs(
    onebit: Onebit, tmp_path: Path, samples: np.ndarray, several: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(feature_net(output=several), tmp_path / "net.1bit")
    np.save(tmp_path / "x.npy", samples)
    hidden, logits = samples[:, :2], samples[:, 1:4]
    made = (hidden, logits) if isinstance(several, tuple) else {"hidden": hidden, "logits": logits}
    monkeypatch.setattr(predict_verb, "run", lambda net, x: made)
    keys = list(several) if isinstance(several, dict) else ["0", "1"]
    found = onebit("predict", tmp_path / "net.1bit", tmp_path / "x.npy", "--json").json["predictions"]
    assert [row["outputs"] for row in found] == [
        {keys[0]: hidden[i].tolist(), keys[1]: logits[i].tolist()} for i in range(4)
    ]
    text = onebit("predict", tmp_path / "net.1bit", tmp_path / "x.npy").out
    assert f"; {keys[1]} {logits[0][0]:.6g}, " in text
    shown = onebit("inspect", tmp_path / "net.1bit")
    assert f"output: {keys[0]} 8, {keys[1]} 3" in shown.out


def test_images_come_as_arrays_too(onebit: Onebit, packed_file: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "float.npy", images.astype(np.float64))
    expected = run(load(packed_file), images).argmax(axis=1).tolist()
    for name in ("x.npy", "float.npy"):
        found = onebit("predict", packed_file, tmp_path / name, "--json").json["predictions"]
        assert [row["label"] for row in found] == expected
    for name, gray in (("batch.npy", images[:, 0]), ("one.npy", images[0, 0])):  # as `onebit.run` takes them
        np.save(tmp_path / name, gray)
        found = onebit("predict", packed_file, tmp_path / name, "--json").json["predictions"]
        assert [row["label"] for row in found] == expected[: len(found)]
        assert len(found) == (3 if name == "batch.npy" else 1)
    inverted = onebit("predict", packed_file, tmp_path / "x.npy", "--invert", "--json").json["predictions"]
    probabilities = softmax(run(load(packed_file), 255 - images)).max(axis=1)
    assert [row["probability"] for row in inverted] == probabilities.tolist()


@pytest.mark.parametrize("compared", ["values", "multi-label"])
def test_outputs_without_labels_are_numbers(onebit: Onebit, net: Path, samples: np.ndarray, compared: str) -> None:
    path = net.parent / "X.NPY"
    np.save(net.parent / "x.npy", samples)
    (net.parent / "x.npy").rename(path)
    made = Certificate(
        onebit="1", dataset="own data (arrays)", split="", count=36, weights="binary", label_mismatches=0,
        max_logit_difference=0.0, bit_exact=True, compared=compared,
    )  # fmt: skip
    save(feature_net(certificate=made), net)
    found = onebit("predict", net, path, "--json").json["predictions"]
    assert [one["values"] for one in found] == run(load(net), samples).tolist()
    for verb in ("evaluate", "verify"):
        refused = onebit(verb, net)
        assert (refused.status, refused.out) == (2, "")
        assert "labels" in refused.line


def test_inspect_shows_input_and_outputs(onebit: Onebit, net: Path, packed_file: Path) -> None:
    shown = onebit("inspect", net).out
    assert "\ninput: float32 5 (measurements), coding values\noutput: 3\n" in shown
    facts = onebit("inspect", net, "--json").json["facts"]
    assert facts["input"] == {"dtype": "float32", "shape": [5], "meaning": "measurements", "coding": "values"}
    assert facts["outputs"] == [{"key": "", "name": "n2", "shape": [3]}]
    assert "\ninput: uint8 1×28×28, coding integer\noutput: 10\n" in onebit("inspect", packed_file).out


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content)
    else:
        np.save(path, content, allow_pickle=content.dtype == object)
    return path


def npy(header: bytes) -> bytes:
    """An .npy file of five bytes with this header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(5)


NAN = np.array([[1, 2, 3, 4, 5], [1, 2, np.nan, 4, np.inf]], np.float32)


ARRAYS = [
    *(np.zeros((2, 4)), np.zeros((0, 5)), np.zeros(5, complex), NAN, np.full(5, 1e300)),
    *(np.array([{"a": 1}], object), b"", b"PK\x03\x04aaaa", npy(b"-" * 3_000 + b"1")),
]
TEXTS = [
    *("", "a,b,c,d,e\nNA,NA,NA,NA,NA\n1,2,3,4,5\n", "1,2,3,4,5\n1,2,3,4\n", "1,2,x,4,5\n", "1,2,3\n"),
    *("1,2,nan,4,5\n", b"\xff\xfe\x00"),
]


@pytest.mark.parametrize(
    ("name", "content"),
    [*(("x.npy", array) for array in ARRAYS), *(("x.csv", text) for text in TEXTS), ("x.png", ""), ("none.csv", None)],
)
def test_what_the_net_does_not_take_is_one_line(onebit: Onebit, net: Path, name: str, content: Any) -> None:
    path = net.parent / name if content is None else write(net.parent, name, content)
    refused = onebit("predict", net, path)
    assert (refused.status, refused.out) == (2, "")
    assert name in refused.line


def test_a_header_that_claims_more_than_the_file_holds_takes_no_memory(onebit: Onebit, net: Path) -> None:
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**11, 5)}
    np.lib.format.write_array_header_1_0(buffer, header)
    path = write(net.parent, "x.npy", buffer.getvalue() + bytes(20))
    assert "not a .npy file of numbers" in onebit("predict", net, path).line


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_])
def test_pictures_are_no_input_of_a_net_of_float32(onebit: Onebit, tmp_path: Path, dtype: Any) -> None:
    """As `run` refuses them: such a net was packed without preprocessing, its answers to pixels mean nothing."""
    b = Builder((1, 28, 28), seed=0)
    b.input = InputSpec(shape=(1, 28, 28), dtype="float32", coding="values")
    b.values = {"input": b.input.value}
    b.add(Flatten)
    b.add(RealDense, weight=b.real(10, 784))
    save(b.net(), tmp_path / "net.1bit")
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28)).astype(dtype)
    for name, array in (("all.npy", images), ("gray.npy", images[:, 0])):
        refused = onebit("predict", tmp_path / "net.1bit", write(tmp_path, name, array))
        assert (refused.status, refused.out) == (2, "")
        assert name in refused.line
    assert onebit("predict", tmp_path / "net.1bit", write(tmp_path, "x.npy", images / 255)).status == 0


def test_images_of_two_channels_come_as_arrays(onebit: Onebit, tmp_path: Path) -> None:
    b = Builder((2, 3, 3), seed=0)
    b.add(Flatten)
    b.add(RealDense, weight=b.real(4, 18))
    save(b.net(), tmp_path / "net.1bit")
    assert onebit("predict", tmp_path / "net.1bit", write(tmp_path, "x.npy", np.ones((2, 3, 3), np.uint8))).status == 0
    assert ".npy" in onebit("predict", tmp_path / "net.1bit", write(tmp_path, "x.png", b"")).line


def test_pixels_are_whole_numbers(onebit: Onebit, tmp_path: Path) -> None:
    save(feature_net(dtype="uint8"), tmp_path / "net.1bit")
    for row in ("1,2,3,4,256", "1,2,3,4,-1", "1,2,3,4,0.5", "1,2,3,4,nan"):
        refused = onebit("predict", tmp_path / "net.1bit", write(tmp_path, "x.csv", row))
        assert "whole numbers" in refused.line
    assert onebit("predict", tmp_path / "net.1bit", write(tmp_path, "x.csv", "1,2,3,4,255")).status == 0
    refused = onebit("predict", tmp_path / "net.1bit", tmp_path / "x.csv", "--invert")
    assert "--invert" in refused.line
    refused = onebit("predict", tmp_path / "net.1bit", tmp_path / "x.csv", "--masks", "m")
    assert "--masks" in refused.line
