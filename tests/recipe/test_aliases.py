"""The names of other repositories, in recipes and for `create_model`."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from covering import DEEPER, covering
from torch import nn

from onebit.cli.train_command import read_command, train_request
from onebit.common.aliases import MODEL_ALIASES, spelled_out
from onebit.layers import binary_layers
from onebit.models import MODELS, create_model
from onebit.recipe import ModelRecipe, build_recipe, methods, take_alias
from onebit.runs.model import build_model

SHAPES = {"unet": (1, 64, 64), "mlp": (1, 28, 28)}


def test_the_classic_names_are_there_each_with_its_twin() -> None:
    binary = {"alexnet_binary", "vgg_cifar10_binary", "vgg_cifar100_binary", "resnet_binary"}
    assert MODEL_ALIASES.keys() == binary | {name.removesuffix("_binary") for name in binary} | {"vgg"}


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


NAMES = [*MODELS, *(alias for alias in MODEL_ALIASES if alias not in MODELS)]
BINARY = {method: row["model"] for method, row in methods().items() if row["model"]["weight_quantizer"]}


def test_all_methods_but_one_are_binary() -> None:
    assert len(BINARY) == len(methods()) - 1


@pytest.mark.parametrize(("name", "method"), covering(product(NAMES, BINARY), heavy=DEEPER))
def test_every_binary_method_gives_every_model_binary_weights(name: str, method: str) -> None:
    """Under each of its names, as the command line asks for it; daily each name and each method."""
    recipe = train_request(read_command(["--model", name, "--method", method]))
    assert recipe.recipe.model.weight_quantizer == BINARY[method]["weight_quantizer"]
    assert recipe.recipe.model.input_quantizer == BINARY[method]["input_quantizer"]
    with torch.device("meta"):
        model = build_model(recipe.recipe.model, input_shape=SHAPES.get(name, (3, 32, 32)), classes=10)
    assert sum(layer.weight.numel() for _, layer in binary_layers(model)) > 1000


@pytest.mark.parametrize("alias", [alias for alias in MODEL_ALIASES if alias.endswith("_binary")])
@pytest.mark.parametrize("flag", ["--model", "-a", "--model.name"])
def test_a_binary_alias_is_binary_and_its_bare_name_real(alias: str, flag: str) -> None:
    binary, real = (
        train_request(read_command([flag, name, "--dataset", "cifar10"])).recipe.model
        for name in (alias, alias.removesuffix("_binary"))
    )
    assert (binary.weight_quantizer, binary.input_quantizer) == ("ste_sign", "ste_sign")
    assert (real.weight_quantizer, real.input_quantizer) == (None, None)


def test_a_net_of_ours_in_place_of_that_of_a_recipe_keeps_its_quantizers(tmp_path: Path) -> None:
    def quantizers(*words: str) -> tuple[str, str | None, str | None]:
        model = train_request(read_command(words)).recipe.model
        return model.name, model.weight_quantizer, model.input_quantizer

    assert quantizers("cifar10-vgg-bnn", "--model", "alexnet") == ("alexnet", "ste_sign", "ste_sign")
    assert quantizers("cifar10-vgg-bnn", "--model", "vgg_cifar10") == ("vgg_small", None, None)
    plain = tmp_path / "plain.yaml"
    plain.write_text("model: {name: resnet20}\n")
    assert quantizers(str(plain), "--model", "alexnet") == ("alexnet", "sign", None)


def test_an_alias_is_taken_once() -> None:
    flags = ["--model", "alexnet_binary", "--epochs", "3"]
    meant, rest = take_alias(flags)
    assert take_alias(rest) == ({}, rest)
    for recipe in (build_recipe({}, flags), build_recipe(meant, rest), build_recipe(meant, ["--model", "alexnet"])):
        assert (recipe.model.name, recipe.model.weight_quantizer) == ("alexnet", "ste_sign")
