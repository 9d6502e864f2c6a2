"""The result of a training: the scores of the chosen epoch, and how it was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

import onebit.runs.trackers
from onebit.data import Dataset
from onebit.errors import CheckpointError, FormatError
from onebit.evaluation.modes import evaluate
from onebit.recipe import Recipe, build_recipe, merge
from onebit.runs.card import stored_result
from onebit.runs.folder import RunFolder
from onebit.runs.opening import open_run
from onebit.runs.run import train_run
from onebit.train.history import EpochLog
from onebit.train.weights import load_weights, read_weights
from support.toy_training import TOY, Stop, toy_data

HIGH: dict[str, Any] = {"optimizer": {"lr": 0.3}, "schedule": {"name": "constant"}, "epochs": 6}
"""A rate so high that the last epoch is not the best."""


def trained(
    folder: Path, data: Dataset, *, resume: bool = False, trackers: tuple[str, ...] = (), **settings: Any
) -> dict[str, Any]:
    recipe = build_recipe(merge(TOY, {"precision": "fp32", **settings}))
    run = RunFolder(folder, resume=resume)
    run.start(recipe)
    return train_run(recipe, data, run, trackers=trackers)


def test_the_scores_are_those_of_the_chosen_epoch_with_the_loss_of_the_training(tmp_path: Path) -> None:
    data = toy_data()
    result = trained(tmp_path, data, **HIGH, loss="squared_hinge")
    assert (result["chosen_epoch"] < 6, result["chosen_by"]) == (True, "validation error")
    model = open_run(tmp_path).model
    assert result["test"]["binary"]["loss"] == pytest.approx(evaluate(model, data.test, loss="squared_hinge").loss)
    load_weights(model, read_weights(tmp_path / "final.safetensors")[0], source="final")
    assert result["test"]["binary"]["loss"] != pytest.approx(evaluate(model, data.test, loss="squared_hinge").loss)


def test_without_validation_the_last_epoch_is_chosen(tmp_path: Path) -> None:
    result = trained(tmp_path, toy_data(validation=0))
    assert (result["chosen_epoch"], result["chosen_by"]) == (2, "last epoch")


def test_only_the_weights_of_the_chosen_epoch_are_tested(tmp_path: Path) -> None:
    chosen = trained(tmp_path, toy_data(), **HIGH)["chosen_epoch"]
    best = tmp_path / "best.safetensors"
    kept = best.read_bytes()
    best.write_bytes((tmp_path / "final.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=f"epoch {chosen}"):
        trained(tmp_path, toy_data(), resume=True, **HIGH)
    best.unlink()
    with pytest.raises(FormatError, match="best"):
        trained(tmp_path, toy_data(), resume=True, **HIGH)
    best.write_bytes(kept)
    trained(tmp_path, toy_data(), resume=True, **HIGH)


def test_the_result_has_the_digest_of_the_weights(tmp_path: Path) -> None:
    """Also after a training that goes on has replaced the file."""
    result = trained(tmp_path, toy_data())
    run = open_run(tmp_path)
    (tmp_path / "best.safetensors").write_bytes((tmp_path / "final.safetensors").read_bytes()[:-1])
    assert run.sha256 == result["sha256"]
    assert stored_result(run).is_about(run.sha256)


class KilledOnce:
    """A tracker whose training is killed when it hears of the first epoch."""

    seen: ClassVar[list[int]] = []

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.kills = not (folder / "last.ckpt").exists()

    def epoch(self, row: EpochLog) -> None:
        if self.kills:
            raise Stop
        self.seen.append(row.epoch)

    def end(self, result: Any = None) -> None: ...


def test_trackers_get_the_last_epoch_before_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(onebit.runs.trackers.TRACKERS, "killed", KilledOnce)
    with pytest.raises(Stop):
        trained(tmp_path, toy_data(), trackers=("killed",))
    trained(tmp_path, toy_data(), resume=True, trackers=("killed",))
    assert KilledOnce.seen == [1, 2]
