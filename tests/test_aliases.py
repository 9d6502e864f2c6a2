"""The names of other repositories, in recipes and for `create_model`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from onebit.layers import binary_layers
from onebit.models import MODELS, create_model
from onebit.recipe import ModelRecipe
from onebit.recipe.aliases import MODEL_ALIASES, spelled_out


def test_the_classic_names_are_there_each_with_its_twin() -> None:
    binary = {"alexnet_binary", "vgg_cifar10_binary", "vgg_cifar100_binary", "resnet_binary"}
    assert MODEL_ALIASES.keys() == binary | {name.removesuffix("_binary") for name in binary}


@pytest.mark.parametrize("alias", MODEL_ALIASES)
def test_an_alias_is_a_model_of_ours_with_settings_of_a_recipe(alias: str) -> None:
    settings = MODEL_ALIASES[alias]
    assert settings["name"] in MODELS
    recipe = ModelRecipe(**settings)
    quantizer = "ste_sign" if alias.endswith("_binary") else None
    assert (recipe.weight_quantizer, recipe.input_quantizer) == (quantizer, quantizer)


@pytest.mark.parametrize("alias", MODEL_ALIASES)
def test_create_model_knows_them(alias: str) -> None:
    small: dict[str, Any] = {"input_shape": (3, 16, 16), "classes": 5, "width": 0.25}
    model = create_model(alias, **small).eval()
    assert bool(list(binary_layers(model))) == alias.endswith("_binary")
    assert model(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 5)


def test_given_settings_win() -> None:
    assert spelled_out({"name": "resnet_binary", "width": 2}) == {
        "name": "resnet14",
        "width": 2,
        "weight_quantizer": "ste_sign",
        "input_quantizer": "ste_sign",
    }
    real = create_model("vgg_cifar10_binary", input_shape=(3, 8, 8), width=1 / 16, weight_quantizer=None)
    assert type(real.conv1) is nn.Conv2d


def test_other_names_are_left_alone() -> None:
    assert spelled_out({"name": "resnet20", "width": 2}) == {"name": "resnet20", "width": 2}
    assert spelled_out({"width": 2}) == {"width": 2}


def test_the_binary_resnet_is_five_times_as_wide() -> None:
    with torch.device("meta"):
        real, binary = (create_model(name) for name in ("resnet", "resnet_binary"))
    assert (real.conv1.out_channels, binary.conv1.out_channels) == (16, 80)
    convolutions = [m for m in binary.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 14
