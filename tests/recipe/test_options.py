"""Every entry of the tables of models, optimizers and quantizers, and every option that one declares."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle

import pytest
import torch

from onebit.common.augmentation import Augmentation
from onebit.common.entries import Entry, load
from onebit.common.fields import read
from onebit.models import MODELS, create_model
from onebit.optim import OPTIMIZERS
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import ModelRecipe, OptimizerRecipe, Recipe, methods
from onebit.recipe.options import declared, descriptions

PARTS = {"model": ModelRecipe, "optimizer": OptimizerRecipe}
OPTIONS = [(part, name) for part in PARTS for name in declared(part)]
ENTRIES = {
    f"{kind} {name}": entry
    for kind, table in (
        ("model", MODELS),
        ("optimizer", OPTIMIZERS),
        ("weights", WEIGHT_QUANTIZERS),
        ("inputs", INPUT_QUANTIZERS),
    )
    for name, entry in table.entries().items()
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_what_an_entry_names_is_there(entry: Entry) -> None:
    assert callable(entry.object)
    for name in ("build", "factors", "prepare"):
        assert callable(load(getattr(entry, name, None) or len))
    for names in (getattr(entry, "trains", None), getattr(entry, "trained_by", None)):
        assert set(names or ()) <= {*OPTIMIZERS, *WEIGHT_QUANTIZERS}


@pytest.mark.parametrize("name", [name for name in MODELS if MODELS.entry(name).options])
def test_the_options_of_a_model_are_its_arguments(name: str) -> None:
    values = {option.name: {"padding": "same"}.get(option.name) for option in MODELS.entry(name).options}
    with torch.device("meta"):
        create_model(name, **values)


@pytest.mark.parametrize(("part", "name"), OPTIONS)
def test_an_option_has_a_valid_default_and_a_name_of_its_own(part: str, name: str) -> None:
    option = declared(part)[name].option
    assert name not in {item.name for item in dataclasses.fields(PARTS[part])}
    for default in (option.default, "null" if option.default is None else str(option.default)):
        assert read(default, option.kind, name=name) == option.default
    assert option.text
    assert getattr(PARTS[part](), name) == option.default
    assert not option.text.endswith(".")


def test_a_rule_of_its_own_is_part_of_a_method() -> None:
    own = {name for name, entry in OPTIMIZERS.entries().items() if entry.own_rule}
    assert own == {row["optimizer"].get("name") for row in methods().values()} & own
    assert all(inspect.isclass(OPTIMIZERS[name]) for name in own)


def test_a_part_is_a_value() -> None:
    part = OptimizerRecipe(name="bop", gamma=0.5)
    assert part == OptimizerRecipe(name="bop", own={"gamma": 0.5}) != OptimizerRecipe(name="bop")
    assert OptimizerRecipe(gamma=1e-4) == OptimizerRecipe()
    assert hash(Recipe()) == hash(Recipe())
    for copied in (copy.copy(part), copy.deepcopy(part), pickle.loads(pickle.dumps(part)), dataclasses.replace(part)):
        assert copied == part
    assert dataclasses.replace(part, threshold=0.5).settings()["gamma"] == 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        part.lr = 1.0  # type: ignore[misc]


def test_a_field_is_described_by_its_line_under_args_alone() -> None:
    found = descriptions(Augmentation)  # its `Source:` names fields, too
    assert list(found) == [field.name for field in dataclasses.fields(Augmentation)]
    assert found["elastic"] == "standard deviation in pixels of an elastic deformation of images with masks; 0 for none"
