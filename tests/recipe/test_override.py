"""A method in place of that of a recipe: nothing of the other method is left, and all other settings stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from onebit.errors import UnknownNameError
from onebit.recipe import (
    Recipe,
    build_recipe,
    default_settings,
    flag_names,
    flatten,
    merge,
    method_of,
    method_settings,
    methods,
    read_settings,
    recipe_names,
    recipe_path,
    with_method,
)
from onebit.recipe.override import is_of_methods
from onebit.recipe.request import origins, request_recipe
from onebit.runs.model import build_model
from onebit.runs.training import training_of

NETS: dict[str, dict[str, Any]] = {
    "mlp": {"dataset": "mnist", "epochs": 3, "model": {"name": "mlp", "widths": [784, 4, 10], "norm_eps": 1e-3}},
    "resnet20": {"dataset": "cifar10", "batch_size": 50, "model": {"name": "resnet20", "width": 1 / 16}},
    "unet": {"dataset": "membrane", "epochs": 7, "model": {"name": "unet", "width": 1 / 16}},
}
METHOD_FIELDS = tuple(filter(is_of_methods, flag_names()))
TOLD = {"name", "summary", "reference", "measured"}
PLAIN: dict[tuple[str, str], Recipe] = {}


def plain(net: str, method: str) -> Recipe:
    """A training without a recipe."""
    if (net, method) not in PLAIN:
        asked = merge(NETS[net], method_settings(method))
        PLAIN[net, method] = build_recipe(merge(default_settings(build_recipe(asked), method=method), asked))
    return PLAIN[net, method]


def shipped(name: str) -> Recipe:
    return build_recipe(read_settings(recipe_path(name)))


def parts(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """By flag name: the settings of methods, and the others; missing ones have their defaults."""
    values = build_recipe(settings).values()
    own = {name: value for name, value in values.items() if name.startswith(METHOD_FIELDS)}
    return own, {name: value for name, value in values.items() if name not in own and name not in TOLD}


@pytest.mark.parametrize("net", NETS)
def test_a_method_replaces_any_other_and_nothing_else(net: str) -> None:
    names = list(methods())
    for shift in (1, 5):
        for before, after in zip(names, [*names[shift:], *names[:shift]], strict=True):
            own, rest = parts(with_method(plain(net, before), after))
            assert own == parts(plain(net, after).settings())[0]
            was = parts(plain(net, before).settings())[1]
            if was["model.last_norm"] is None:  # open
                was["model.last_norm"] = rest["model.last_norm"]
            assert rest == was


@pytest.mark.parametrize("after", methods())
def test_a_method_replaces_every_setting_of_methods(after: str) -> None:
    odd: dict[str, Any] = {
        "model": {"value": "glorot", "activation": "rprelu", "weight_quantizer": "recu", "input_quantizer": "irnet"},
        "optimizer": {
            "name": "rmsprop", "lr": 0.5, "real_lr": 0.25, "lr_scale": "glorot", "weight_decay": 0.1, "momentum": 0.5,
            "decay_latents": True, "decay_norm": True, "nesterov": True, "gamma": 0.5, "threshold": 0.5, "samples": 3,
            "decay_epochs": 3.0, "gamma_decay": 0.5, "threshold_decay": 0.5, "latent_init": 3.0, "data_scale": 5.0,
            "prior": True, "prox_strength": 3.0, "prox_freeze": 0.5, "clip_grad_norm": 0.5, "clip_grad_value": 0.5,
            "latent_clip": 7.0, "lagged_mean": True, "accumulate": 2, "betas": [0.5, 0.5],
        },
        "label_smoothing": 0.5,
    }  # fmt: skip
    assert set(flatten(odd)) | {"model.init", "model.weight_options", "model.input_options", "loss"} == {
        *METHOD_FIELDS,
        "optimizer.accumulate",
    }
    recipe = build_recipe(with_method(build_recipe(merge(NETS["mlp"], odd)), after))
    assert parts(recipe.settings())[0] == parts(plain("mlp", after).settings())[0]
    assert recipe.optimizer.accumulate == 2
    training_of(recipe, build_model(recipe.model, input_shape=(1, 28, 28), classes=10), images=100, labels=100)
    assert method_of(recipe) == after


def test_a_recipe_of_the_method_stays_as_it_is() -> None:
    own = shipped("mnist-permuted-short")
    assert with_method(own, "bayesbinn") == own.settings()
    with pytest.raises(UnknownNameError, match="'bayesbinn'"):
        with_method(own, "bayesbin")


def test_a_changed_recipe_has_another_name_and_no_descriptions() -> None:
    once = build_recipe(with_method(shipped("mnist-ste"), "bayesbinn"))
    assert (once.name, once.summary, once.reference, once.measured) == ("mnist-ste-with-bayesbinn", "", "", "")
    assert with_method(once, "bop")["name"] == "mnist-ste-with-bop"


def test_a_last_layer_that_becomes_binary_gets_its_batchnorm() -> None:
    assert with_method(shipped("cifar10-resnet20-real"), "ste")["model"]["last_norm"] is True
    ends_real = shipped("cifar10-resnet20-binaryconnect-ends-real-short")
    assert with_method(ends_real, "ste")["model"]["last_norm"] is True  # as the recipe says
    without = replace(ends_real, model=replace(ends_real.model, last_norm=None))
    assert with_method(without, "ste")["model"]["last_norm"] is None
    assert with_method(shipped("mnist-real"), "ste")["model"]["last_norm"] is None


def test_flags_and_their_optimizer_choose_the_defaults() -> None:
    own = shipped("cifar10-resnet20-binaryconnect")
    assert with_method(own, "bnn")["optimizer"]["lr"] == 0.005
    flags = {"model.input_quantizer": "null"}
    assert with_method(own, "bnn", flags=flags)["optimizer"]["lr"] == 0.01
    momentum = with_method(own, "bnn", flags={"optimizer.name": "sgd"}, optimizer="sgd")["optimizer"]["momentum"]
    assert momentum == 0.9


MIXED = ("cifar10-resnet20-signs",)
"""Recipes with weights of one method and activations of another."""


@pytest.mark.parametrize("name", recipe_names())
def test_the_method_of_every_recipe_is_known(name: str) -> None:
    found = method_of(shipped(name))
    assert (found is None) == (name in MIXED)
    named = next((method for method in sorted(methods(), key=len, reverse=True) if method in name), found)
    assert found == named


@pytest.mark.parametrize(("flags", "recipe", "method", "expected"), [
    ({"seed": "1"}, None, None, {"seed": "flag", "epochs": "default", "ema": "default", "name": "derived"}),
    ({"epochs": "1"}, "mnist-bnn", None, {"optimizer.lr": "recipe mnist-bnn", "model.init": "recipe mnist-bnn"}),
    ({}, "mnist-bnn", "bop", {"optimizer.name": "method bop", "dataset": "recipe mnist-bnn", "patience": "default"}),
])  # fmt: skip
def test_each_setting_has_an_origin(
    flags: dict[str, str], recipe: str | None, method: str | None, expected: dict[str, str]
) -> None:
    source = None if recipe is None else recipe_path(recipe)
    asked = request_recipe(flags, source, method=method)
    found = origins(asked, flags, source, method=method)
    assert {name: value for name, value, _ in found} == flatten(asked.settings())
    by_name = {name: origin for name, _, origin in found}
    assert {name: by_name[name] for name in expected} == expected
