"""The verbs on a convolutional net, before and after it is made ±1."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onebit.__main__ import main
from onebit.runs.plain_state import save_plain
from onebit.runs.run import open_run
from support.command_line import Onebit


@pytest.fixture(scope="module")
def conv_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished BinaryConnect ResNet-20 with real ends, a quarter as wide, on 8×8 images."""
    folder = tmp_path_factory.mktemp("conv") / "resnet"
    flags = ["--model", "resnet20", "--method", "binaryconnect", "--model.width", "0.25", "--model.real_first", "true"]
    flags += ["--epochs", "1", "--batch_size", "256", "--optimizer.lr", "0.02", "--model.last_norm", "false"]
    flags += ["--model.real_last", "true", "--threads", "1"]
    assert main(["train", "--dataset", "toy", *flags, "--out", str(folder)]) == 0
    return folder


def test_inspect_lists_layers_in_the_order_of_the_net(onebit: Onebit, conv_folder: Path, tmp_path: Path) -> None:
    before = onebit("inspect", conv_folder, "--json").json
    names = [layer["name"] for layer in before["layers"]]
    assert names[:2] == ["conv1.weight", "layer1.0.conv1.weight"]
    assert names[-1] == "fc.weight"
    assert len(names) == 20
    assert before["verdict"] in ("clipped", "mixed")
    # one number of the output of a 3×3 convolution costs nine of each input channel
    assert before["total"]["macs"] > sum(8 * 8 * layer["shape"][0] * 9 for layer in before["layers"][:7])

    plain = tmp_path / "plain.pth"
    save_plain(open_run(conv_folder).model, plain)
    after = onebit("inspect", plain, "--json").json
    assert [layer["name"] for layer in after["layers"]] == names
    assert after["verdict"] == "mixed"
    verdicts = {layer["name"]: layer["verdict"] for layer in after["layers"]}
    assert {name for name, verdict in verdicts.items() if verdict != "binary"} == {"conv1.weight", "fc.weight"}
    assert after["total"]["macs"] is None
    assert "multiply-adds" not in onebit("inspect", plain).out
    assert "multiply-adds" in onebit("inspect", conv_folder).out
    evaluated = onebit("evaluate", plain, "--recipe", conv_folder / "recipe.yaml", "--json").json
    trained = json.loads((conv_folder / "result.json").read_text())["test"]["binary"]
    assert evaluated["correct"] == trained["correct"]


def test_broken_images_are_skipped_on_request(onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEBIT_CACHE", str(tmp_path / "cache"))
    for kind in ("cat", "dog"):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / kind / f"{i}.png")
    broken = tmp_path / "images" / "cat" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    flags = ["--dataset", "folder", "--data", tmp_path / "images", "--model", "lenet", "--input_size", "28", "-j", "1"]
    flags += ["--epochs", "1", "-b", "4", "--validation", "2", "--out", tmp_path / "run"]
    refused = onebit("train", *flags)
    assert refused.status == 2
    assert str(broken) in refused.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
    assert onebit("train", *flags, "--skip-broken").status == 0


def test_a_net_of_any_size(onebit: Onebit, tmp_path: Path) -> None:
    run, net = tmp_path / "nin", tmp_path / "any.1bit"
    flags = ["--model", "nin", "--model.width", "0.05", "--epochs", "0.2", "--batch_size", "256", "--threads", "1"]
    assert onebit("train", "--dataset", "toy", *flags, "--out", run).status == 0
    assert "images of 8×8" in onebit("pack", run, "-o", net, "--sizes", "any").out
    assert onebit("verify", net, "--source", run).status == 0
    assert "any size" in onebit("inspect", net).out
    np.save(tmp_path / "larger.npy", np.random.default_rng(0).integers(0, 256, (3, 1, 13, 20), np.uint8))
    assert len(onebit("predict", net, tmp_path / "larger.npy", "--json").json["predictions"]) == 3
    fixed = tmp_path / "fixed.1bit"
    assert onebit("pack", run, "-o", fixed).status == 0
    assert onebit("predict", fixed, tmp_path / "larger.npy").status == 2
