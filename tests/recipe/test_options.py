"""Every entry of the tables of models, optimizers and quantizers, and the settings of each."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from onebit.common.augmentation import Augmentation
from onebit.common.entries import Entry
from onebit.common.fields import descriptions, field_types, read
from onebit.errors import UsageError
from onebit.models import MODELS, create_model
from onebit.models.settings import Custom, Mlp, Model
from onebit.optim import OPTIMIZERS
from onebit.optim.settings import Adam, Bop, Optimizer
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import Recipe, build_recipe, method_settings, methods, read_settings
from onebit.recipe.request import request_recipe

ENTRIES: dict[str, Entry] = {
    f"{kind} {name}": entry
    for kind, table in (
        ("model", MODELS),
        ("optimizer", OPTIMIZERS),
        ("weights", WEIGHT_QUANTIZERS),
        ("inputs", INPUT_QUANTIZERS),
    )
    for name, entry in table.entries().items()
}
SETTINGS = sorted(
    {kind for table in (MODELS, OPTIMIZERS) for row in table.entries().values() for kind in row.settings.__mro__[:-2]},
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_what_an_entry_names_is_there(entry: Entry) -> None:
    assert callable(entry.object)
    trains = entry.settings.trains if hasattr(getattr(entry, "settings", None), "trains") else None
    for names in (trains, getattr(entry, "trained_by", None)):
        assert set(names or ()) <= {*OPTIMIZERS, *WEIGHT_QUANTIZERS}
    assert set(getattr(entry, "of_optimizer", ())) <= field_types(Optimizer).keys()


@pytest.mark.parametrize("name", MODELS)
def test_the_settings_of_a_model_are_its_arguments(name: str) -> None:
    kind = MODELS.entry(name).settings
    own = {
        item.name: {"padding": "same"}.get(item.name) for item in dataclasses.fields(kind)[len(field_types(Model)) :]
    }
    with torch.device("meta"):
        create_model(name, **own)


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_setting_has_a_valid_default_and_a_description(kind: Any) -> None:
    assert inspect.getdoc(kind)
    described = descriptions(kind)
    for item in dataclasses.fields(kind):
        for default in (item.default, "null" if item.default is None else str(item.default)):
            assert read(default, field_types(kind)[item.name], name=item.name) == item.default
        assert described[item.name]
        assert not described[item.name].endswith(".")


def test_a_rule_of_its_own_is_part_of_a_method() -> None:
    own = {name for name, entry in OPTIMIZERS.entries().items() if entry.settings.own_rule}
    assert own == {row["optimizer"].get("name") for row in methods().values()} & own
    assert all(inspect.isclass(OPTIMIZERS[name]) for name in own)


def test_settings_are_a_value() -> None:
    bop = Bop(gamma=0.5)
    assert bop == build_recipe({"optimizer": {"name": "bop", "gamma": 0.5}}).optimizer != Bop()
    assert hash(Recipe()) == hash(Recipe())
    for copied in (copy.copy(bop), copy.deepcopy(bop), pickle.loads(pickle.dumps(bop)), dataclasses.replace(bop)):
        assert copied == bop
    with pytest.raises(dataclasses.FrozenInstanceError):
        bop.lr = 1.0  # type: ignore[misc]


def test_a_name_chooses_the_class_of_the_settings() -> None:
    recipe = build_recipe({"model": {"name": "nets.py:Net", "arguments": {"units": 3}}, "optimizer": {"name": "adamw"}})
    assert type(recipe.model) is Custom
    assert recipe.model.arguments == {"units": 3}
    assert recipe.optimizer == Adam(name="adamw")
    assert Recipe().model == Mlp()


@pytest.mark.parametrize(
    ("base", "over", "lost"),
    [
        ({"name": "bop", "gamma": 0.5}, {"name": "adam"}, "optimizer.gamma"),
        ({"name": "bayesbinn", "prior": True}, {"name": "bop"}, "optimizer.prior"),
    ],
)
def test_an_option_of_another_optimizer_is_dropped_from_a_base_and_refused_from_the_user(
    tmp_path: Path, base: dict[str, Any], over: dict[str, Any], lost: str
) -> None:
    file = tmp_path / "base.yaml"
    file.write_text(build_recipe({"name": "base", "optimizer": base}).to_yaml(), encoding="utf-8")
    changed = request_recipe({"optimizer.name": over["name"]}, file)
    assert changed.optimizer.name == over["name"]
    assert lost not in changed.values()
    extended = tmp_path / "mine.yaml"
    extended.write_text(f"extends: {file}\noptimizer: {{name: {over['name']}}}\n", encoding="utf-8")
    assert lost not in build_recipe(read_settings(extended)).values()
    option = lost.partition(".")[2]
    extended.write_text(f"optimizer: {{name: {over['name']}, {option}: {base[option]}}}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=option):
        read_settings(extended)
    with pytest.raises(UsageError, match=option):
        request_recipe({"optimizer.name": over["name"], lost: str(base[option])}, file)


def test_the_settings_of_a_quantizer_belong_to_it() -> None:
    settings = method_settings("proxquant")
    assert build_recipe(settings).optimizer.prox_strength is not None
    assert build_recipe(settings, {"model.weight_quantizer": "sign"}).optimizer.prox_strength is None
    with pytest.raises(UsageError, match="prox"):
        request_recipe({"optimizer.prox_strength": "3"})


def test_a_field_is_described_by_its_line_under_args_alone() -> None:
    found = descriptions(Augmentation)  # its `Source:` names fields, too
    assert list(found) == [field.name for field in dataclasses.fields(Augmentation)]
    assert found["elastic"] == "standard deviation in pixels of an elastic deformation of images with masks; 0 for none"
