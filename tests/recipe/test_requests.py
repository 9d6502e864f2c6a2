"""The recipe that a command line of `onebit train` requests: defaults, methods, flags and a shorter training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from onebit.cli.train_command import read_command, train_request, translated
from onebit.errors import UsageError
from onebit.models import MODELS
from onebit.optim.settings import OPTIMIZERS
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import (
    Recipe,
    build_recipe,
    default_settings,
    flatten,
    method_settings,
    methods,
    read_settings,
    recipe_path,
)
from onebit.recipe.reading import DEFAULTS_FILE
from onebit.recipe.sections import refuse_foreign
from onebit.runs.resolve import resolve
from onebit.runs.run import first_stage
from support.covering import covering, recipe_traits
from support.recipe_nets import RECIPES, without_runs


def asked(words: str) -> Recipe:
    meant = translated(words.split()) or ["train", *words.split()]
    return train_request(read_command(meant[1:]))


def settings(words: str) -> dict[str, Any]:
    return asked(words).settings()


# ----------------------------------------------------------------------------------------------------------- defaults
def test_every_rule_is_part_of_a_recipe() -> None:
    rules = yaml.safe_load(DEFAULTS_FILE.read_text())
    assert len(rules) > 5
    for rule in rules:
        assert rule.keys() == {"when", "set"}
        assert rule["when"].keys() <= {"model", "dataset", "method", "weights", "inputs", "last", "optimizer"}
        build_recipe(rule["set"])
    for model in MODELS:
        found = default_settings(build_recipe({"model": {"name": model, "weight_quantizer": None}}))
        if model == "unet":  # crops, and Adam
            assert found["augmentation"]["crop_size"] == 128
        elif model != "mlp":
            assert (found["model"]["coding"], found["optimizer"]["name"]) == ("standardize", "sgd")


@pytest.mark.parametrize("model", ["mlp", "resnet20"])
def test_every_method_goes_with_every_kind_of_model(model: str) -> None:
    for method, parts in methods().items():
        recipe = settings(f"--dataset cifar10 --model {model} --method {method}")
        assert recipe["name"] == f"cifar10-{model}-{method}"
        for part, fields in parts.items():
            found = recipe[part]
            assert ({name: found[name] for name in fields} if isinstance(fields, dict) else found) == fields
        binary, real_last = recipe["model"]["weight_quantizer"] is not None, recipe["model"]["real_last"]
        # ±1 weights of the last layer need BatchNorm, real ones have a bias
        assert recipe["model"]["last_norm"] == (not real_last if model == "resnet20" and binary else None)
        assert recipe["augmentation"]["flip"]


@pytest.mark.parametrize(
    ("words", "expected"),
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
def test_each_optimizer_has_its_own_rate(words: str, expected: tuple[str, float, float]) -> None:
    found = asked(f"--dataset cifar10 --model resnet20 {words}").optimizer
    assert (found.name, found.lr, found.momentum) == expected


def test_the_papers_of_binary_activations_keep_the_ends_real() -> None:
    model = settings("--dataset cifar10 --model resnet20 --method adabin")["model"]
    assert (model["real_first"], model["real_last"], model["bireal"], model["last_norm"]) == (True, True, True, False)
    model = settings("--dataset cifar10 --model vgg_small --method xnor")["model"]
    assert (model["real_first"], model["real_last"], model["last_norm"]) == (True, True, None)
    assert "bireal" not in model  # an option of other nets
    assert not settings("--model mlp --method adabin")["model"]["real_last"]


def test_flags_override_the_method_which_overrides_the_recipe_or_the_defaults() -> None:
    wide = asked("--dataset cifar10 --model resnet_binary --method binaryconnect").model
    assert (wide.weight_quantizer, wide.input_quantizer, wide.width) == ("sign", None, 5)
    recipe = "cifar10-resnet20-binaryconnect"
    plain, bnn = settings(recipe), settings(f"{recipe} --method bnn")
    assert (bnn["model"]["input_quantizer"], bnn["name"]) == ("ste_sign", f"{recipe}-with-bnn")
    assert bnn["optimizer"] == {**plain["optimizer"], "lr": 0.005}
    assert all(bnn[key] == plain[key] for key in ("schedule", "epochs", "batch_size"))
    mine = asked(f"{recipe} --method bnn --optimizer.lr 0.5 --name a")
    assert (mine.optimizer.lr, mine.name) == (0.5, "a")
    model = asked("cifar10-resnet20-real --model resnet_binary --method ste").model
    assert (model.name, model.width, model.weight_quantizer) == ("resnet14", 5, "sign")
    # a recipe takes no defaults of a data set, and another data set those of the model
    assert asked("mnist-fast --dataset cifar10").augmentation == asked("mnist-fast").augmentation
    assert default_settings(Recipe(dataset="elsewhere")) == default_settings(Recipe())
    for source in ("mnist-ste", "membrane-unet-ste-short", "--model unet"):
        optimizer = asked(f"{source} --method bayesbinn").optimizer
        assert (optimizer.name, optimizer.clip_grad_value, optimizer.data_scale) == ("bayesbinn", None, 1)


def test_a_flag_is_read_over_its_recipe(tmp_path: Path) -> None:
    """Alone, the schedule would have no milestones."""
    path = tmp_path / "recipe.yaml"
    path.write_text("schedule: {milestones: [1]}")
    assert asked(f"{path} --schedule milestones --optimizer sgd").schedule.milestones == (1,)
    # the recipe.yaml of a run is complete, and a method may have been laid over what its recipe says
    path.write_text("{dataset: toy, optimizer: {gamma: 0.5, threshold: 1.0e-8}, model: {widths: [64, 4]}}")
    resolve(asked(str(path)))


@pytest.mark.parametrize("name", methods())
def test_a_method_changes_no_option_of_another(name: str) -> None:
    refuse_foreign(flatten(method_settings(name)), method_settings(name))


def test_entries_declare_randomness_and_the_rate_of_latents() -> None:
    for name, entry in WEIGHT_QUANTIZERS.entries().items():
        assert (entry.random, entry.bayesian) == (entry.object.random, hasattr(entry.object, "mean")), name
    assert not any(getattr(kind, "random", False) for kind in INPUT_QUANTIZERS.values())
    for name, entry in OPTIMIZERS.entries().items():
        assert entry.settings.lr_of_latents == getattr(entry.object, "lr_of_latents", True), name


# ----------------------------------------------------------------------------------------- a short try of a long recipe
@pytest.mark.parametrize("name", covering(RECIPES, of=lambda name: recipe_traits(RECIPES[name])))
def test_one_epoch_of_every_recipe_can_be_trained(name: str) -> None:
    short = asked(f"{name} --epochs 1")
    assert short.epochs == 1
    resolve(without_runs(short))


def test_the_warmup_keeps_its_share_of_training_unless_it_was_asked_for(tmp_path: Path) -> None:
    full = read_settings(recipe_path("cifar10-resnet20-real"))
    assert (full["epochs"], full["schedule"]["warmup"]) == (150, 5)
    for words, warmup in (("--epochs 2", 2 / 30), ("--epochs 300", 5), ("--epochs 2 --schedule.warmup 1", 1)):
        assert asked(f"cifar10-resnet20-real {words}").schedule.warmup == pytest.approx(warmup)
    with pytest.raises(UsageError, match=r"schedule\.warmup"):
        resolve(asked("cifar10-resnet20-real --epochs 1 --schedule.warmup 1"))
    long = asked("cifar10-resnet20-binaryconnect --first_stage 1")
    assert long.schedule.warmup == 5
    assert first_stage(long).schedule.warmup == pytest.approx(5 / long.epochs)
    path = tmp_path / "recipe.yaml"
    path.write_text("{dataset: toy, epochs: 100, schedule: {warmup: 60}, batch_size: 256, model: {widths: [64, 4]}}")
    assert asked(f"{path} --epochs 1").schedule.warmup == pytest.approx(0.6)
    resolve(asked(f"{path} --epochs 0.14"))  # one step in all: there is none to warm up in
