"""`onebit train config.json`: the keys of BayesBiNN's reproduction, what follows from them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onebit.cli.train_command import read_command, translated
from onebit.errors import UsageError
from onebit.recipe import build_recipe, read_settings, recipe_path
from onebit.recipe.translations.json_config import ARCHITECTURES, flags_of, read_config
from support.command_line import Onebit, Outcome

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
MNIST = json.loads((EXAMPLES / "mnist_bayesbinn.json").read_text())
CIFAR = json.loads((EXAMPLES / "cifar10_ste.json").read_text())


@pytest.fixture
def config(onebit: Onebit, tmp_path: Path) -> Callable[..., Outcome]:
    """`onebit train` with a file of these keys; None takes a key away."""

    def run(base: dict[str, Any], changed: dict[str, Any], *flags: object) -> Outcome:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({key: value for key, value in {**base, **changed}.items() if value is not None}))
        return onebit("train", path, *flags, "--print-config", "--json")

    return run


def test_the_bayesbinn_file_is_the_recipe(onebit: Onebit) -> None:
    recipe = build_recipe(onebit("train", EXAMPLES / "mnist_bayesbinn.json", "--print-config", "--json").json)
    published = build_recipe(read_settings(recipe_path("mnist-bayesbinn")))
    assert {name: here for name, _, here in recipe.changed_from(published)} == {
        "draws": 0,
        "optimizer.real_lr": 1e-3,  # of the method: that net has no real parameters
    }


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_the_ste_file_is_the_recipe(config: Callable[..., Outcome], data: str) -> None:
    classes = {"dataset": data, "output_shape": 10 if data == "cifar10" else 100}
    recipe = build_recipe(config(CIFAR, classes).json)
    assert recipe.changed_from(build_recipe(read_settings(recipe_path(f"{data}-ste")))) == []


BAYES = {"weight_clip_value": None, "grad_clip_value": None, "mc_steps": 1, "lr_init": 3e-4}
"""Changes of `CIFAR` for BayesBiNN."""


@pytest.mark.parametrize(("data", "temperature"), [("cifar10", 1e-10), ("cifar100", 1e-8)])
def test_the_default_temperature(config: Callable[..., Outcome], data: str, temperature: float) -> None:
    """The reproduction's file for CIFAR-100 has 1e-10; the authors' script, logs and table 9 have 1e-8."""
    keys = BAYES | {"dataset": data, "output_shape": 10 if data == "cifar10" else 100}
    published = build_recipe(read_settings(recipe_path(f"{data}-bayesbinn")))
    assert published.model.weight_options == {"temperature": temperature}
    assert published.optimizer.data_scale == 10  # augmented images
    left_open = build_recipe(config(CIFAR, keys).json)
    assert {name for name, _, _ in left_open.changed_from(published)} == {"draws", "optimizer.real_lr"}
    given = build_recipe(config(CIFAR, keys | {"temperature": 1e-9, "mc_steps": 3, "evaluate_steps": 20}).json)
    assert given.model.weight_options == {"temperature": 1e-9}
    assert (given.optimizer.samples, given.draws) == (3, 20)


def test_every_architecture_trains(config: Callable[..., Outcome]) -> None:
    names = ("BinaryConnect", "VGGBinaryConnect", "LRNetSmall", "LRNetBig")
    for architecture, model in zip(names, ARCHITECTURES.values(), strict=True):
        recipe = config(CIFAR, {"model_architecture": architecture}).json
        assert recipe["model"]["name"] == model
        assert recipe["model"]["dense_norm_momentum"] == (None if model == "mlp" else 0.1)
        assert recipe["model"].get("widths") == ([3072, 2048, 2048, 2048, 10] if model == "mlp" else None)


def test_flags_and_the_method_that_is_asked_for_win(config: Callable[..., Outcome]) -> None:
    real = config(MNIST, {}, "--method", "real")
    assert real.json["model"]["weight_quantizer"] is None
    ste = config(MNIST, {"mc_steps": None, "temperature": None, "evaluate_steps": None}, "--method", "ste").json
    assert (ste["optimizer"]["name"], ste["optimizer"]["lr"]) == ("adam", 1e-4)
    assert config(MNIST, {"weight_clip_value": 1}, "--method", "bayesbinn").json["optimizer"]["latent_clip"] is None
    recipe = config(MNIST, {"drop_prob": None}, "--epochs", "3", "--optimizer.samples", "2").json
    assert (recipe["epochs"], recipe["optimizer"]["samples"], recipe["model"]["dropout"]) == (3, 2, 0)


def test_a_continual_run_takes_the_smaller_net_and_the_tasks(onebit: Onebit) -> None:
    asked = ("train", EXAMPLES / "mnist_continual.json", "--task", "permuted-mnist", "--print-config", "--json")
    recipe = build_recipe(onebit(*asked).json)
    published = build_recipe(read_settings(recipe_path("mnist-permuted")))
    zero = {"model.dropout": 0.0, "model.input_dropout": 0.0, "continual.own": "bayesbinn"}
    assert {name: here for name, _, here in recipe.changed_from(published)} == zero


def test_a_continual_file_without_its_task_is_not_trained_as_a_plain_net(onebit: Onebit) -> None:
    refused = onebit("train", EXAMPLES / "mnist_continual.json", "--print-config")
    assert refused.status == 2
    assert "--task permuted-mnist" in refused.line
    plain = onebit("train", EXAMPLES / "mnist_continual.json", "--task", "image", "--print-config", "--json").json
    assert (plain["continual"]["tasks"], plain["model"]["widths"]) == (0, [784, 2048, 2048, 2048, 10])


def test_bayesbinn_does_not_clip_gradients_as_its_reproduction_does_not(config: Callable[..., Outcome]) -> None:
    assert config(MNIST, {"grad_clip_value": 1}).json["optimizer"]["clip_grad_value"] is None
    assert config(CIFAR, {"grad_clip_value": 2}).json["optimizer"]["clip_grad_value"] == 2


@pytest.mark.parametrize("key", ["epochs", "lr_init", "lr_scheduler", "batch_affine", "drop_prob"])
def test_a_value_of_another_kind_is_refused_by_its_key(key: str) -> None:
    for value in ("neither", [1], float("nan"), -1):
        with pytest.raises(UsageError, match=key):
            flags_of({**MNIST, key: value}, source="c.json")


@pytest.mark.parametrize(
    ("changed", "noun"),
    [
        ({"lr_inti": 1}, "lr_inti"),
        ({"lr_init": None}, "lr_init"),
        ({"model_architecture": "BinaryConect"}, "model_architecture"),
        ({"weight_clip_value": 1}, "--method"),
        ({"mc_steps": None, "temperature": None}, "--method"),
    ],
)
def test_a_bad_file_is_one_clear_line(config: Callable[..., Outcome], changed: dict[str, Any], noun: str) -> None:
    done = config(MNIST, changed)
    assert done.status == 2
    assert noun in done.line


@pytest.mark.parametrize("words", [["wandb_on"], ["--epochs", "3", "wandb_on"], ["--out", "X", "wandb_on", "--seed=3"]])
def test_wandb_on_is_a_word_of_its_own(words: list[str]) -> None:
    meant = translated([str(EXAMPLES / "mnist_bayesbinn.json"), *words])
    assert meant is not None
    assert read_command(meant[1:]).trackers == ("wandb",)
    assert translated(["mnist-fast", "--name", "wandb_on"]) is None


def test_a_recipe_in_json_stays_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_bytes(b"\xef\xbb\xbf" + b'{\n\t"dataset": "toy",\n\t"epochs": 3,\t"batch_size": 64}')
    assert read_config(path) is None
    assert read_settings(path) == {"dataset": "toy", "epochs": 3, "batch_size": 64}
    for text in ('{"lr_init": 1,', "[" * 90_000):
        path.write_text(text)
        with pytest.raises(UsageError, match="line 1"):
            read_config(path)
