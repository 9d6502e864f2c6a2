"""The result of a training: the scores of the chosen epoch, and how it was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_training import TOY, toy_data

from onebit.data import Dataset
from onebit.evaluation.modes import evaluate
from onebit.recipe import build_recipe, merge
from onebit.runs.run import open_run, start_folder, train_run
from onebit.train.weights import load_weights, read_weights


def trained(folder: Path, data: Dataset, **settings: Any) -> dict[str, Any]:
    recipe = build_recipe(merge(TOY, {"precision": "fp32", **settings}))
    start_folder(folder, recipe, resume=False)
    return train_run(recipe, data, folder)


def test_the_scores_are_those_of_the_chosen_epoch_with_the_loss_of_the_training(tmp_path: Path) -> None:
    data = toy_data()
    high = {"optimizer": {"lr": 0.3}, "schedule": {"name": "constant"}}  # so high that the last epoch is not the best
    result = trained(tmp_path, data, **high, epochs=6, loss="squared_hinge")
    assert (result["chosen_epoch"] < 6, result["chosen_by"]) == (True, "validation error")
    model = open_run(tmp_path).model
    assert result["test"]["binary"]["loss"] == pytest.approx(evaluate(model, data.test, loss="squared_hinge").loss)
    load_weights(model, read_weights(tmp_path / "final.safetensors")[0], source="final")
    assert result["test"]["binary"]["loss"] != pytest.approx(evaluate(model, data.test, loss="squared_hinge").loss)


def test_without_validation_the_last_epoch_is_chosen(tmp_path: Path) -> None:
    result = trained(tmp_path, toy_data(validation=0))
    assert (result["chosen_epoch"], result["chosen_by"]) == (2, "last epoch")
