"""A training that begins with the weights of a packed net, by file and by name, or of a run."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import onebit as library
from onebit.data import load_dataset
from onebit.evaluation import evaluate
from onebit.packed import load, save
from onebit.recipe import build_recipe, merge, read_settings, recipe_path
from onebit.runs.run import facts_of
from onebit.runs.training import prepare
from onebit.runtime import run
from onebit.train.weights import save_weights


def started(recipe: str, net: Path | str, **settings: object) -> tuple[float, float]:
    """Accuracy before the first step, of the model with binary weights and of the packed net."""
    data = load_dataset("mnist-sample")
    asked = merge(read_settings(recipe_path(recipe)), {"dataset": "mnist-sample", "init_from": str(net), **settings})
    model = prepare(build_recipe(asked), data).model
    found = evaluate(model, data.test, weights="binary", verbose=False).accuracy
    return found, float((run(load(net), data.test.images).argmax(axis=1) == data.test.labels).mean())


def test_before_the_first_step_the_accuracy_is_that_of_the_packed_net(tmp_path: Path) -> None:
    save(library.load("mnist-mlp"), tmp_path / "net.1bit")
    for net in (tmp_path / "net.1bit", "mnist-mlp"):
        found, expected = started("mnist-fast", net)
        assert found == expected > 0.97


LETTERS = tuple("abcdefghij")
TURNED = tuple("9876543210")


@pytest.mark.parametrize(
    ("kind", "there", "here", "anew"),
    [
        ("packed", None, LETTERS, True),
        ("packed", LETTERS, LETTERS[::-1], True),
        ("packed", LETTERS, LETTERS, False),
        ("run", LETTERS, LETTERS[::-1], True),
        ("run", LETTERS, TURNED, False),
    ],
)
def test_a_last_layer_for_other_classes_begins_anew(
    kind: str, there: tuple[str, ...] | None, here: tuple[str, ...], anew: bool, tmp_path: Path
) -> None:
    """Numbers can mean any classes: labels of arrays have no names."""
    data, net = load_dataset("mnist-sample"), library.load("mnist-mlp")
    there = net.classes if there is None else there
    assert there is not None
    recipe = build_recipe(read_settings(recipe_path("mnist-fast")))
    new = prepare(recipe, replace(data, classes=here)).model.state_dict()
    if kind == "packed":
        source = tmp_path / "net.1bit"
        save(replace(net, classes=there, certificate=None), source)
    else:
        source = tmp_path / "net.safetensors"
        trained = prepare(replace(recipe, seed=5), data).model
        save_weights(source, trained, {**facts_of(recipe, data), "classes": [*there]})
    started = prepare(replace(recipe, init_from=str(source)), replace(data, classes=here)).model.state_dict()
    same = {key: torch.equal(new[key], started[key]) for key in new if key.startswith("linear")}
    assert same == {key: anew and key.startswith("linear3") for key in same}


@pytest.mark.parametrize(
    ("here", "seen"),
    [({}, False), ({"validation": 500}, False), ({"validation": 2000}, True), ({"split_seed": 3}, True)],
)
def test_validation_images_that_were_trained_on_are_told(here: dict[str, int], seen: bool, tmp_path: Path) -> None:
    data, recipe = load_dataset("mnist-sample"), build_recipe(read_settings(recipe_path("digits-smoke")))
    recipe = replace(recipe, validation=1000)
    save_weights(tmp_path / "w.safetensors", prepare(recipe, data).model, facts_of(recipe, data))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        prepare(replace(recipe, init_from=str(tmp_path / "w.safetensors"), **here), data)
    assert any("validation" in str(warning.message) for warning in found) == seen
