"""A quantizer, an optimizer, a model, a data set, a recipe, an export target and a packed operation that are added at
run time train, pack and run by the command line like those that ship."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onebit.__main__ import main
from onebit.recipe import Recipe, build_recipe, flag_names, read_settings
from onebit.runtime import load
from support.own_entries import RECIPE, ROWS, OwnSettings

Onebit = Callable[..., Any]


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of the tables, taken out again after each test."""
    for table, name, entry in ROWS:
        monkeypatch.setitem(table, name, entry)


@pytest.fixture
def onebit(capsys: pytest.CaptureFixture[str]) -> Onebit:
    """Run a command that succeeds; its JSON answer."""

    def run(*arguments: object) -> Any:
        capsys.readouterr()
        status = main([*map(str, arguments), "--json"])
        found = capsys.readouterr()
        assert status == 0, found.err
        return json.loads(found.out)

    return run


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(RECIPE)
    return path


def test_own_entries_train_pack_and_run(
    onebit: Onebit, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, net = tmp_path / "run", tmp_path / "net.1bit"
    trained = onebit("train", recipe, "--optimizer.own_option", "3", "--out", run)
    assert (trained["recipe"], trained["dataset"]) == ("own-recipe", "own_data")
    assert trained["binary_weights"] == 64 * 16 + 16 * 4
    written = read_settings(run / "recipe.yaml")
    assert written["optimizer"]["own_option"] == 3
    assert written["model"]["own_units"] == 16
    assert onebit("train", run / "recipe.yaml", "--out", tmp_path / "again")["test"] == trained["test"]

    assert onebit("evaluate", run)["accuracy"] == trained["test"]["binary"]["accuracy"]
    assert onebit("verify", run)["ok"]
    onebit("pack", run, "-o", net)
    assert "NegateNode" in {type(node).__name__ for node in load(net).nodes}
    assert onebit("evaluate", net)["accuracy"] == trained["test"]["binary"]["accuracy"]

    exported = onebit("export", run, "--to", "own_target", "-o", tmp_path / "net.npz")
    assert exported["comparison"]["bit_exact"]
    with np.load(tmp_path / "net.npz") as arrays:
        assert "linear1.signs" in arrays
    assert main(["export", str(run), "--to", "torch", "-o", str(tmp_path / "net.pth")]) == 2
    assert "negate" in capsys.readouterr().err
    assert not (tmp_path / "net.pth").exists()


def test_own_entries_are_listed_and_described(onebit: Onebit, capsys: pytest.CaptureFixture[str]) -> None:
    assert "weights: own_sign" in onebit("list", "quantizers")["quantizers"]
    for kind, name in (("optimizers", "own_optimizer"), ("models", "own_net"), ("datasets", "own_data")):
        assert name in onebit("list", kind)[kind]
    assert onebit("list", "optimizers")["optimizers"]["own_optimizer"] == "SGD."
    assert "own_target" in onebit("list", "exports")["exports"]
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--optimizer.own_option 1.0 own_optimizer: factor on the learning rate" in text
    assert "--model.own_units null own_net: hidden units" in text


def test_several_tasks_and_two_stages(onebit: Onebit, recipe: Path, tmp_path: Path) -> None:
    short = ("--epochs", "0.5", "--optimizer.own_option", "2")
    assert onebit("train", recipe, *short, "--first_stage", "0.5", "--out", tmp_path / "stages")["epochs"] == 0.5
    tasks = onebit("train", recipe, *short, "--continual.tasks", "2", "--out", tmp_path / "tasks")
    assert {cell["method"] for cell in tasks["cells"]} == {"own_sign"}


def test_an_option_is_an_attribute_and_an_argument() -> None:
    assert "optimizer.own_option" in flag_names()
    built = build_recipe({"optimizer": {"name": "own_optimizer"}}, {"optimizer.own_option": "2.5"})
    assert built.optimizer == OwnSettings(name="own_optimizer", own_option=2.5)
    changed = {"optimizer.name": ("adam", "own_optimizer"), "optimizer.own_option": (1.0, 2.5)}
    assert {name: (was, now) for name, was, now in built.changed_from(Recipe())} == changed
    with pytest.raises(TypeError, match="nothing"):
        OwnSettings(nothing=1)  # type: ignore[call-arg]
