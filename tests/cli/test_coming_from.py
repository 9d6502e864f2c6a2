"""What docs/coming-from.md promises to people with habits."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_support import Outcome

from onebit.cli.classic import CLASSIC, OTHER_NAMES, SHORT, translate
from onebit.cli.train_verb import TRACKER_FLAGS
from onebit.recipe import flag_names, take_alias
from onebit.recipe.json_config import KEYS

Onebit = Callable[..., Outcome]
TEXT = (Path(__file__).parents[2] / "docs" / "coming-from.md").read_text(encoding="utf-8")
BINARYNET, CONNECT, BAYES, JSON = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
VERB_OPTIONS = {"out", "resume", "seeds", "data", "method", "print-config", "weights", "validation", "task"}


def rows(section: str) -> list[list[str]]:
    """The cells of every row of every table."""
    lines = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def said_flags(cell: str) -> list[str]:
    return [flag for code in re.findall(r"`([^`]+)`", cell) for flag in re.findall(r"(?<![\w-])--?[\w][\w.-]*", code)]


def test_every_classic_flag_has_its_row() -> None:
    first = [flag for cells in rows(BINARYNET) for flag in said_flags(cells[0])]
    short = {flag for flag in first if not flag.startswith("--")}
    assert short == set(SHORT)
    names = {flag[2:].replace("-", "_") for flag in first if flag.startswith("--")}
    assert names == set(CLASSIC) | set(OTHER_NAMES)


@pytest.mark.parametrize(
    "section", [BINARYNET, CONNECT, BAYES, JSON], ids=["binarynet", "binaryconnect", "bayesbinn", "json"]
)
def test_every_flag_that_is_called_ours_is_there(section: str) -> None:
    known = {*flag_names(), *VERB_OPTIONS, *TRACKER_FLAGS, "model", "optimizer", "schedule", "model.FIELD", "to"}
    for cells in rows(section):
        for flag in said_flags(cells[1]):
            name = flag.lstrip("-")
            name = name.removesuffix(".temperature")  # an argument of a quantizer
            assert name in known or name.replace("-", "_") in CLASSIC or flag in (*SHORT, "-o"), (flag, cells)


def test_every_key_of_the_json_format_has_its_row() -> None:
    found = [key for cells in rows(JSON) for key in re.findall(r"`(\w+)`", cells[0])]
    assert sorted(found) == sorted(KEYS)


def commands() -> list[list[str]]:
    """The train commands of the first section."""
    found = re.findall(r"^onebit (train --?[am].*)$", BINARYNET, re.MULTILINE)
    assert len(found) > 4
    return [shlex.split(line) for line in found]


@pytest.mark.parametrize("words", [words for words in commands() if "alexnet" not in words and "mlp" not in words])
def test_the_commands_train(onebit: Onebit, tmp_path: Path, words: list[str]) -> None:
    small = ["--dataset", "toy", "--epochs", "0.2", "--model.width", "0.05", "--threads", "1"]
    done = onebit(*words, *small, "--results_dir", tmp_path, "--save", "run", "--json")
    assert done.status == 0, done.err
    assert done.json["dataset"] == "toy"


def test_models_mean_what_the_table_says() -> None:
    for name, ours in {
        "alexnet_binary": "alexnet",
        "vgg_cifar10_binary": "vgg_small",
        "resnet_binary": "resnet14",
    }.items():
        assert any(f"`{name}`" in cells[0] and f"`{ours}`" in cells[1] for cells in rows(BINARYNET))
        meant, _ = take_alias(list(translate(["-a", name]).flags))
        assert meant["model"]["name"] == ours
        assert meant["model"]["weight_quantizer"] == meant["model"]["input_quantizer"] == "ste_sign"


def test_a_foreign_checkpoint_is_looked_into_and_refused_for_training(onebit: Onebit, tmp_path: Path) -> None:
    path = tmp_path / "model_best.pth.tar"
    state = {"features.0.weight": torch.randn(4, 3, 3, 3), "classifier.0.weight": torch.randn(2, 4)}
    regime = {0: {"optimizer": "Adam", "lr": 5e-3}, 40: {"lr": 1e-3}}
    torch.save(
        {"epoch": 3, "model": "vgg", "config": "", "state_dict": state, "best_prec1": 9.5, "regime": regime}, path
    )
    found = onebit("inspect", path, "--json").json
    assert [layer["name"] for layer in found["layers"]] == list(state)
    assert found["facts"]["best_prec1"] == 9.5
    refused = onebit(
        "train", "--dataset", "toy", "--model", "vgg_small", "--init_from", path, "--out", tmp_path / "run"
    )
    assert refused.status == 2
    assert "belongs to another net: 'conv1.weight' is missing" in refused.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
