"""Quantizers of the user's own on the command line: `--model.weight_quantizer FILE.py:Class`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from onebit.packed import load
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import read_settings
from onebit.runs import own_model
from onebit.runs.run import open_run
from onebit.train.weights import read_state
from support.command_line import SMALL, Onebit, Outcome

CODE = '''
from pathlib import Path

import torch
from torch import nn

from onebit.quantizers import BinaryInput, Quantizer, sign

Path("was-here").touch()


class Soft(Quantizer):
    """sign(w), with the gradient of tanh."""

    def __init__(self, steepness: float = 2.0):
        super().__init__()
        self.steepness = steepness

    def forward(self, x):
        soft = torch.tanh(self.steepness * x)
        return sign(x.detach()) + (soft - soft.detach())

    def binary_input(self):
        return BinaryInput()


class Unstated(Soft):
    def binary_input(self):
        return None


class Halved(Soft):
    def forward(self, x):
        return super().forward(x) / 2


class Plain(nn.Module):
    def forward(self, x):
        return x


number = 3
'''
WEIGHTS, INPUTS = ("--model.weight_quantizer", "quant.py:Soft"), ("--model.input_quantizer", "quant.py:Soft")
VERBS = [("evaluate",), ("verify",), ("pack", "-o", "net.1bit"), ("export", "--to", "torch", "-o", "net.pth")]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with quant.py; a process that has named no code."""
    monkeypatch.chdir(tmp_path)
    for table in (WEIGHT_QUANTIZERS, INPUT_QUANTIZERS):
        monkeypatch.setattr(table, "data", {**table.data})
    monkeypatch.setattr(own_model, "_NAMED", {})
    (tmp_path / "quant.py").write_text(CODE)
    return tmp_path


@pytest.fixture
def train(onebit: Onebit) -> Onebit:
    """Train a little; the run folder is `run`."""

    def run(*arguments: object) -> Outcome:
        return onebit("train", "digits-smoke", *SMALL, "--epochs", "0.5", "--out", "run", *arguments)

    return run


def test_quantizers_of_weights_and_inputs_go_through_all_verbs(train: Onebit, onebit: Onebit, here: Path) -> None:
    done = train(*WEIGHTS, *INPUTS, "--model.weight_options.steepness", "3", "--json")
    assert done.status == 0, done.err
    accuracy = done.json["test"]["binary"]["accuracy"]
    assert accuracy > 0.4
    model = read_settings(here / "run" / "recipe.yaml")["model"]
    assert (model["weight_quantizer"], model["weight_options"]) == ("quant.py:Soft", {"steepness": 3})

    layer = open_run("run").model.linear2
    assert (layer.weight_quantizer.steepness, layer.input_quantizer.steepness) == (3, 2)
    assert onebit("evaluate", "run", *WEIGHTS, *INPUTS, "--json").json["accuracy"] == accuracy
    assert onebit("verify", "run", *WEIGHTS, *INPUTS, "--json").json["ok"]
    assert onebit("pack", "run", *WEIGHTS, *INPUTS, "-o", "net.1bit").status == 0
    assert onebit("evaluate", "net.1bit", "--json").json["accuracy"] == accuracy
    assert onebit("verify", "net.1bit", "--source", "run", *WEIGHTS, *INPUTS).status == 0
    assert "quant.py:Soft" in onebit("summary", "run", *WEIGHTS, *INPUTS).out
    assert onebit("summary", "--model", "mlp", "--dataset", "mnist", *WEIGHTS).status == 0
    assert onebit("inspect", "run", *WEIGHTS, *INPUTS).status == 0
    card = load("net.1bit").card
    assert card is not None
    assert "weights Soft, inputs Soft" in str(card.method)
    assert card.command is None  # it needs a file of the user


def test_an_interrupted_run_resumes_bit_for_bit_with_the_code_in_another_place(
    train: Onebit, onebit: Onebit, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--epochs", "3", *WEIGHTS)
    assert train(*flags).status == 0
    whole, _ = read_state(here / "run" / "final.safetensors")
    save, saved = torch.save, []

    def stop(*arguments: object, **options: object) -> None:
        save(*arguments, **options)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop)
    interrupted = train(*flags, "--overwrite")
    monkeypatch.setattr(torch, "save", save)
    assert f"train {' '.join(WEIGHTS)} --resume run" in interrupted.err
    own_model._NAMED.clear()
    assert "--model.weight_quantizer quant.py:Soft" in onebit("train", "--resume", "run").line
    (here / "elsewhere").mkdir()
    (here / "quant.py").rename(here / "elsewhere" / "quant.py")
    moved = ("--model.weight_quantizer", "elsewhere/quant.py:Soft")
    assert onebit("train", "--resume", "run", *moved, "--model.weight_options.steepness", "9").status == 2
    assert onebit("train", "--resume", "run", *moved).status == 0
    again, _ = read_state(here / "run" / "final.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert onebit("verify", "run", *moved).status == 0


@pytest.mark.parametrize("flag", ["--model.weight_quantizer", "--model.input_quantizer"])
def test_code_that_only_a_file_names_is_not_run(train: Onebit, onebit: Onebit, here: Path, flag: str) -> None:
    assert train(flag, "quant.py:Soft").status == 0
    (here / "was-here").unlink()
    own_model._NAMED.clear()
    for verb, *options in VERBS:
        assert f"{flag} quant.py:Soft" in onebit(verb, "run", *options).line
    for words in (["run/recipe.yaml", "--out", "other"], ["--resume", "run"], ["digits-smoke", "--teacher", "run"]):
        assert "quant.py:Soft" in onebit("train", *words).line
    assert onebit("train", "run/recipe.yaml", "--print-config").status == 0
    assert onebit("inspect", "run").status == 0
    assert not (here / "was-here").exists()
    assert onebit("evaluate", "run", flag, "quant.py:Soft").status == 0
    assert (here / "was-here").exists()


def test_a_run_is_opened_with_no_other_quantizer_than_its_own(train: Onebit, onebit: Onebit) -> None:
    assert train(*WEIGHTS).status == 0
    for other in ("sign", "quant.py:Halved", "Soft"):
        assert onebit("evaluate", "run", "--model.weight_quantizer", other).status == 2
    assert train("--overwrite").status == 0
    assert onebit("evaluate", "run", *WEIGHTS).status == 2


@pytest.mark.parametrize(
    "name", ["quant.py:Plain", "quant.py:Missing", "missing.py:Soft", "quant.py", "quant.py:number"]
)
def test_a_wrong_quantizer_is_one_line(train: Onebit, here: Path, name: str) -> None:
    done = train("--model.weight_quantizer", name)
    assert (done.status, bool(done.line)) == (2, True)
    assert not (here / "run").exists()


def test_a_quantizer_of_inputs_that_states_nothing_does_not_pack(train: Onebit, onebit: Onebit) -> None:
    flags = ("--model.input_quantizer", "quant.py:Unstated")
    assert train(*flags).status == 0
    assert "Unstated" in onebit("pack", "run", *flags, "-o", "net.1bit").line
