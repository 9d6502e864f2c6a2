"""`onebit inspect`: verdicts, counts and facts of runs, packed nets and any weight file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from onebit.evaluation.counts import summary
from onebit.models import create_model
from onebit.packed import InputSpec, RealDense, save
from onebit.runs.opening import open_run
from onebit.runs.plain_state import save_plain
from onebit.train.weights import save_weights
from support.command_line import Onebit
from support.packed_nets import Builder


def test_latents_and_plain_exports(onebit: Onebit, run_folder: Path, tmp_path: Path) -> None:
    """They count what `summary` counts: no statistics of a BatchNorm, also of a file that says nothing of its net."""
    latent = onebit("inspect", run_folder, "--json").json
    assert (latent["verdict"], latent["facts"]["recipe"]["name"]) == ("clipped", "digits-smoke")
    assert latent["facts"]["epoch"] in (1, 2)
    assert "latent" in onebit("inspect", run_folder).out
    save_plain(open_run(run_folder).model, tmp_path / "saved.pth")
    for file in ("plain.pth", "net.safetensors"):
        assert onebit("export", run_folder, "--to", "torch", "-o", tmp_path / file).status == 0
        plain = onebit("inspect", tmp_path / file, "--json").json
        layer = plain["layers"][0]
        assert plain["verdict"] == "binary"
        assert layer["minus_one"] + layer["plus_one"] == sum(layer["histogram"]) == 784 * 32
        assert layer["between"] == layer["outside"] == layer["distance"] == 0
    whole = summary(open_run(run_folder).model)
    expected = {
        "parameters": whole.total("binary_weights") + whole.total("real_parameters"),
        "bytes_at_1_bit": whole.total("bytes_packed"),
        "bytes_at_32_bit": whole.total("bytes_float32"),
    }
    assert expected["parameters"] == 784 * 32 + 32 * 10 + 2 * (32 + 10)
    for path in (run_folder, tmp_path / "saved.pth"):
        assert onebit("inspect", path, "--json").json["total"].items() >= expected.items()


def test_layers_are_in_the_order_of_the_net_and_macs_are_of_a_known_net(onebit: Onebit, tmp_path: Path) -> None:
    ends = {"real_first": True, "real_last": True, "last_norm": False}
    model = create_model("resnet20", weight_quantizer="sign", width=0.25, input_shape=(1, 8, 8), classes=4, **ends)
    names = [name for name, tensor in model.state_dict().items() if name.endswith(".weight") and tensor.ndim > 1]
    recipe = {"model": {"name": "resnet20", "width": 0.25, "weight_quantizer": "sign", **ends}, "dataset": "toy"}
    facts = {"recipe": recipe, "input_shape": [1, 8, 8], "classes": list("abcd")}
    save_weights(tmp_path / "best.safetensors", model, facts)
    save_plain(model, tmp_path / "plain.pth")
    before, after = (onebit("inspect", tmp_path / name, "--json").json for name in ("best.safetensors", "plain.pth"))
    for found in (before, after):
        assert [layer["name"] for layer in found["layers"]] == names
    # one number of the output of a 3×3 convolution costs nine of each input channel
    assert before["total"]["macs"] > sum(8 * 8 * layer["shape"][0] * 9 for layer in before["layers"][:7])
    assert (after["total"]["macs"], after["verdict"]) == (None, "mixed")
    real = {layer["name"] for layer in after["layers"] if layer["verdict"] != "binary"}
    assert real == {"conv1.weight", "fc.weight"}


def test_a_real_net_is_drawn_and_a_packed_one_not(onebit: Onebit, real_folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "weights.png"
    assert onebit("inspect", real_folder, "--plot", picture, "--json").json["verdict"] in ("real", "clipped")
    assert "latent" not in onebit("inspect", real_folder).out
    with Image.open(picture) as image:
        assert image.size[0] > 300
    assert "packed" in onebit("inspect", "mnist-mlp", "--plot", picture).line


def test_a_packed_net_with_real_ends_shows_and_counts_them(onebit: Onebit, tmp_path: Path) -> None:
    found = onebit("inspect", "resnet20-cifar10-signs", "--json").json
    real = {layer["name"]: layer["shape"] for layer in found["layers"] if layer["verdict"] == "real"}
    assert real == {"conv1": [16, 27], "fc": [10, 64]}
    assert [found["layers"][index]["bits"] for index in (0, 1, -1)] == [32, 1, 32]
    assert found["total"]["weights"] - found["total"]["binary_weights"] == 16 * 27 + 10 * 64
    assert found["verdict"] == "mixed"
    binary = onebit("inspect", "mnist-mlp", "--json").json
    assert (binary["verdict"], binary["facts"]["certificate"]["label_mismatches"]) == ("binary", 0)
    whole = binary["total"]
    assert whole["weights"] == whole["binary_weights"] == 784 * 512 + 512 * 512 + 512 * 10
    assert "\ninput: uint8 1×28×28, coding integer\noutput: 10\n" in onebit("inspect", "mnist-mlp").out
    b = Builder((1, 1, 1))
    b.input = InputSpec(shape=(5,), dtype="float32", coding="values", meaning="measurements")
    b.values = {"input": b.input.value}
    b.add(RealDense, weight=b.real(3, 5))
    save(b.net(), tmp_path / "net.1bit")
    shown = onebit("inspect", tmp_path / "net.1bit").out
    assert "\ninput: float32 5 (measurements), coding values\noutput: 3\n" in shown
    facts = onebit("inspect", tmp_path / "net.1bit", "--json").json["facts"]
    assert facts["input"] == {"dtype": "float32", "shape": [5], "meaning": "measurements", "coding": "values"}
    assert facts["outputs"] == [{"key": "", "name": "n0", "shape": [3]}]


def test_foreign_files(onebit: Onebit, tmp_path: Path) -> None:
    """The verdicts on their weights: tests/verification/test_inspection.py."""
    signs = torch.ones(4, 6)
    signs[:, ::2] = -1
    half = torch.linspace(-2, 2, 24).view(4, 6)
    wrapped = {"state_dict": {"module.model.fc.weight": signs, "module.model.out.weight": half}}
    others = {"epoch": 7, "config": "", "best_prec1": 9.5, "regime": {0: {"optimizer": "Adam", "lr": 5e-3}}}
    torch.save(wrapped | others, tmp_path / "model_best.pth.tar")
    found = onebit("inspect", tmp_path / "model_best.pth.tar", "--json").json
    assert [(layer["name"], layer["verdict"]) for layer in found["layers"]] == [
        ("fc.weight", "binary"),
        ("out.weight", "real"),
    ]
    assert (found["verdict"], found["facts"]["epoch"], found["facts"]["best_prec1"]) == ("mixed", 7, 9.5)
    signs[0, 0] = 0
    save_file({"fc.weight": signs}, tmp_path / "a.safetensors")
    found = onebit("inspect", tmp_path / "a.safetensors", "--json").json
    assert (found["verdict"], "ternary" in found["warnings"][0]) == ("clipped", True)
    for content in ({"model": torch.nn.Linear(2, 2)}, {"fc.weight": torch.eye(3).to_sparse()}, {3: torch.eye(3)}):
        torch.save(content, tmp_path / "object.pth")
        assert "object.pth" in onebit("inspect", tmp_path / "object.pth").line


def test_names_are_escaped(onebit: Onebit, here: Path, packed_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor could clear the screen and print another verdict."""
    monkeypatch.setenv("COLUMNS", "200")
    forged = "\x1b[2J\x1b[Hforged: binary (safetensors file)\nfc.weight"
    save_file({forged: torch.full((8, 8), 0.5)}, "forged.safetensors")
    torch.save({"state_dict": {"fc.weight": torch.ones(2, 2)}, "epoch": "\x1b[31m1\n2"}, "epoch.pt")
    Path("a\x1b[31m\n.1bit").write_bytes(packed_file.read_bytes())
    for net, shown in (
        ("forged.safetensors", r"\x1b[2J\x1b[Hforged: binary (safetensors file)\nfc.weight"),
        ("epoch.pt", r"epoch: \x1b[31m1\n2"),
        ("a\x1b[31m\n.1bit", r"a\x1b[31m\n.1bit: "),
    ):
        out = onebit("inspect", net).out
        assert shown in out
        assert "\x1b" not in out
    Image.fromarray(np.tri(28, dtype=np.uint8) * 200).save("b\n\x1b[2J.png")
    assert onebit("predict", packed_file, "b\n\x1b[2J.png").out.startswith(r"b\n\x1b[2J.png: ")
