"""A recipe is resolved once, before data are read; nothing is left at "auto" after that."""

from __future__ import annotations

import pytest
import torch

import onebit
from onebit.errors import UnknownNameError, UsageError
from onebit.recipe import Recipe, build_recipe
from onebit.runs import opening
from onebit.runs.resolve import resolve
from onebit.runs.training import Machine
from onebit.train.precision import resolve_precision

CPU = torch.device("cpu")


def test_a_recipe_becomes_definite() -> None:
    machine = resolve(build_recipe({"device": "cpu"}))
    assert machine == Machine(CPU, resolve_precision("auto", CPU), torch.get_num_threads())
    assert resolve(build_recipe({"device": "cpu", "precision": "bf16", "threads": 3})) == Machine(CPU, "bf16", 3)
    assert resolve(Recipe()).device == torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_unknown_names_come_before_the_device() -> None:
    with pytest.raises(UnknownNameError, match="unknown loss 'squared'; did you mean 'squared_hinge'"):
        resolve(build_recipe({"loss": "squared", "device": "gpu"}))


def test_a_trainer_checks_its_recipe_before_it_reads_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "load_dataset", None)
    with pytest.raises(UsageError, match="--batch_size"):
        onebit.Trainer("mlp", batch_size=60_001).fit("mnist")
