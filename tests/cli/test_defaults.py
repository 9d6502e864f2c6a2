"""What `onebit train` does without a recipe: any model, data set and method."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from onebit.cli.train_command import read_command, train_request
from onebit.models import MODELS
from onebit.optim.optimizer_table import OPTIMIZERS
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import (
    Recipe,
    build_recipe,
    default_settings,
    method_settings,
    methods,
    read_settings,
    recipe_names,
    recipe_path,
)
from onebit.recipe.options import declared
from onebit.recipe.reading import DEFAULTS_FILE
from onebit.recipe.request import refuse_foreign
from support.command_line import Onebit


def config(onebit: Onebit, *arguments: str) -> dict:
    done = onebit("train", *arguments, "--print-config", "--json")
    assert done.status == 0, done.err
    return done.json


def test_every_rule_is_part_of_a_recipe() -> None:
    rules = yaml.safe_load(DEFAULTS_FILE.read_text())
    assert len(rules) > 5
    for rule in rules:
        assert rule.keys() == {"when", "set"}
        assert rule["when"].keys() <= {"model", "dataset", "method", "weights", "inputs", "last", "optimizer"}
        build_recipe(rule["set"])


@pytest.mark.parametrize("model", [name for name in MODELS if name != "mlp"])
def test_every_convolutional_model_has_its_defaults(model: str) -> None:
    settings = default_settings(build_recipe({"model": {"name": model, "weight_quantizer": None}}))
    assert settings["model"]["coding"] == "standardize"
    if model == "unet":  # crops, and Adam
        assert settings["augmentation"]["crop_size"] == 128
    else:
        assert settings["optimizer"]["name"] == "sgd"


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("model", ["mlp", "resnet20"])
def test_every_method_goes_with_every_kind_of_model(onebit: Onebit, model: str, method: str) -> None:
    recipe = config(onebit, "--dataset", "cifar10", "--model", model, "--method", method)
    assert recipe["name"] == f"cifar10-{model}-{method}"
    for part, fields in methods()[method].items():
        if isinstance(fields, dict):
            assert {name: recipe[part][name] for name in fields} == fields
        else:
            assert recipe[part] == fields
    binary, real_last = recipe["model"]["weight_quantizer"] is not None, recipe["model"]["real_last"]
    # ±1 weights of the last layer need BatchNorm, real ones have a bias
    assert recipe["model"]["last_norm"] == (not real_last if model == "resnet20" and binary else None)
    assert recipe["augmentation"]["flip"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", ("adam", 0.01, 0)),
        ("--method bnn", ("adam", 0.005, 0)),
        ("--method real", ("sgd", 0.1, 0.9)),
        ("--method real --optimizer adam", ("adam", 0.001, 0)),
        ("--optimizer sgd", ("sgd", 0.1, 0.9)),
        ("--optimizer.lr 0.5", ("adam", 0.5, 0)),
        ("--method irnet --optimizer sgd", ("sgd", 0.1, 0.9)),
        ("--method irnet --optimizer adam", ("adam", 0.005, 0)),
    ],
)
def test_each_optimizer_has_its_own_rate(onebit: Onebit, arguments: str, expected: tuple[str, float, float]) -> None:
    found = config(onebit, "--dataset", "cifar10", "--model", "resnet20", *arguments.split())["optimizer"]
    assert (found["name"], found["lr"], found["momentum"]) == expected


def test_the_papers_of_binary_activations_keep_the_ends_real(onebit: Onebit) -> None:
    model = config(onebit, "--dataset", "cifar10", "--model", "resnet20", "--method", "adabin")["model"]
    assert (model["real_first"], model["real_last"], model["bireal"], model["last_norm"]) == (True, True, True, False)
    model = config(onebit, "--dataset", "cifar10", "--model", "vgg_small", "--method", "xnor")["model"]
    assert (model["real_first"], model["real_last"], model["last_norm"]) == (True, True, None)
    assert "bireal" not in model  # an option of other nets
    assert not config(onebit, "--model", "mlp", "--method", "adabin")["model"]["real_last"]


def test_flags_override_the_method_which_overrides_the_recipe_or_the_defaults(onebit: Onebit) -> None:
    wide = config(onebit, "--dataset", "cifar10", "--model", "resnet_binary", "--method", "binaryconnect")["model"]
    assert (wide["weight_quantizer"], wide["input_quantizer"], wide["width"]) == ("sign", None, 5)
    recipe = "cifar10-resnet20-binaryconnect"
    plain, bnn = config(onebit, recipe), config(onebit, recipe, "--method", "bnn")
    assert (bnn["model"]["input_quantizer"], bnn["name"]) == ("ste_sign", f"{recipe}-with-bnn")
    assert bnn["optimizer"] == {**plain["optimizer"], "lr": 0.005}
    assert all(bnn[key] == plain[key] for key in ("schedule", "epochs", "batch_size"))
    mine = config(onebit, recipe, "--method", "bnn", "--optimizer.lr", "0.5", "--name", "a")
    assert (mine["optimizer"]["lr"], mine["name"]) == (0.5, "a")
    model = config(onebit, "cifar10-resnet20-real", "--model", "resnet_binary", "--method", "ste")["model"]
    assert (model["name"], model["width"], model["weight_quantizer"]) == ("resnet14", 5, "sign")
    # a recipe takes no defaults of a data set, and another data set those of the model
    other, fast = config(onebit, "mnist-fast", "--dataset", "cifar10"), config(onebit, "mnist-fast")
    assert other["augmentation"] == fast["augmentation"]
    assert default_settings(Recipe(dataset="elsewhere")) == default_settings(Recipe())


@pytest.mark.parametrize("source", [["mnist-ste"], ["membrane-unet-ste-short"], ["--model", "unet"]])
def test_bayesbinn_clips_no_gradients(onebit: Onebit, source: list[str]) -> None:
    optimizer = config(onebit, *source, "--method", "bayesbinn")["optimizer"]
    assert (optimizer["name"], optimizer["clip_grad_value"], optimizer["data_scale"]) == ("bayesbinn", None, 1)


def test_a_flag_is_read_over_its_recipe(tmp_path: Path) -> None:
    """Alone, the schedule would have no milestones."""
    path = tmp_path / "recipe.yaml"
    path.write_text("schedule: {milestones: [1]}")
    flags = [str(path), "--schedule", "milestones", "--optimizer", "sgd"]
    assert train_request(read_command(flags)).schedule.milestones == (1,)


OPTIONS = [f"{part}.{name}" for part in ("model", "optimizer") for name in declared(part)]


def test_recipes_and_methods_change_no_option_of_another() -> None:
    default = build_recipe({}).values()
    for name in [*recipe_names(), *methods()]:
        recipe = build_recipe(method_settings(name) if name in methods() else read_settings(recipe_path(name)))
        refuse_foreign(recipe, [option for option in OPTIONS if recipe.values()[option] != default[option]])


def test_a_file_with_an_option_of_another_optimizer_trains(onebit: Onebit, tmp_path: Path) -> None:
    """The recipe.yaml of a run is complete, and a method may have been laid over what its recipe says."""
    path = tmp_path / "recipe.yaml"
    path.write_text("{dataset: toy, epochs: 0.1, optimizer: {gamma: 0.5, threshold: 1.0e-8}, model: {widths: [64, 4]}}")
    done = onebit("train", path, "--threads", "1", "--out", tmp_path / "run")
    assert done.status == 0, done.err


def test_quantizers_declare_randomness() -> None:
    for name, entry in WEIGHT_QUANTIZERS.entries().items():
        assert (entry.random, entry.bayesian) == (entry.object.random, hasattr(entry.object, "mean")), name
    assert not any(getattr(kind, "random", False) for kind in INPUT_QUANTIZERS.values())


def test_optimizers_declare_their_rate() -> None:
    for name, entry in OPTIMIZERS.entries().items():
        assert entry.lr_of_latents == getattr(entry.object, "lr_of_latents", True), name
