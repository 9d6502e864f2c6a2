"""`onebit summary`: what is binary, what is real and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from onebit.evaluation.counts import summary
from onebit.packed import costs
from onebit.runs.opening import open_run
from onebit.runtime import load
from support.command_line import Onebit

NET = """
from torch import nn


class Net(nn.Sequential):
    def __init__(self, hidden: int = 8):
        super().__init__(nn.Flatten(), nn.Linear(784, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 10))


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(28, 6, batch_first=True)
        self.out = nn.Linear(6, 10)

    def forward(self, x):
        return self.out(self.cell(x.squeeze(1))[0][:, -1])
"""


def test_of_a_run_every_layer_has_its_verdict_and_its_numbers(onebit: Onebit, run_folder: Path) -> None:
    found = onebit("summary", run_folder, "--json").json
    counted = summary(open_run(run_folder).model)
    assert [row["name"] for row in found["layers"]] == [layer.name for layer in counted.layers]
    for row, layer in zip(found["layers"], counted.layers, strict=True):
        assert (row["binary_weights"], row["real_parameters"]) == (layer.binary_weights, layer.real_parameters)
        assert (row["bytes"], row["macs"]) == (layer.bytes_packed, layer.binary_macs + layer.real_macs)
        assert row["verdict"] == ("binary" if layer.binary_weights else "real")
        assert row["reason"] in ("sign", "normalization")
    assert found["total"]["bytes"] == counted.total("bytes_packed")
    assert found["total"]["bits"] == counted.total("binary_weights") + 32 * counted.total("real_parameters")
    text = onebit("summary", run_folder).out
    assert "binary: sign" in text
    assert "real: normalization" in text
    assert "25,408 binary weights" in text.splitlines()[-1]
    assert onebit("summary", run_folder / "best.safetensors").status == 0


def test_of_a_packed_net(onebit: Onebit, packed_file: Path) -> None:
    found = onebit("summary", packed_file, "--json").json
    rows = costs(load(packed_file))
    assert [(row["name"], row["bytes"], row["macs"]) for row in found["layers"]] == [
        (row.name, row.bytes, row.macs) for row in rows
    ]
    assert found["total"]["binary_weights"] == 784 * 32 + 32 * 10


def test_of_a_model_as_it_would_be_trained(onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NET)
    named = ["summary", "--model", "nets.py:Net", "--model.hidden", "16", "--input_shape", "1,28,28"]
    layers = onebit(*named, "--method", "bnn", "--json").json["layers"]
    assert [(row["kind"], row["verdict"], row["reason"]) for row in layers] == [
        ("BinaryLinear", "binary", "ste_sign"),
        ("BatchNorm1d", "real", "normalization"),
        ("BinaryLinear", "binary", "ste_sign, inputs ste_sign"),
    ]
    assert layers[0]["binary_weights"] == 784 * 16
    assert onebit(*named, "--method", "xnor").status == 2  # its papers keep both ends real
    assert onebit(*named, "--method", "real", "--json").json["total"]["binary_weights"] == 0
    cells = onebit("summary", "--model", "nets.py:Cells", "--input_shape", "1,28,28", "--json").json
    assert {row["name"]: row["binary_weights"] for row in cells["layers"]} == {"cell": 24 * 28 + 24 * 6, "out": 60}


def test_of_a_model_of_onebit(onebit: Onebit) -> None:
    found = onebit("summary", "--model", "resnet20", "--dataset", "cifar10", "--method", "bnn", "--json").json
    assert found["total"]["binary_weights"] == 268_336
    assert found["layers"][0]["output_shape"] == [16, 32, 32]
