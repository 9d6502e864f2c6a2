"""Options of another optimizer, quantizer or model than those that are trained are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_support import Outcome

from onebit.optim.optimizer_table import OPTIMIZERS
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import build_recipe, method_settings, methods, read_settings, recipe_names, recipe_path
from onebit.recipe.options import declared
from onebit.recipe.request import refuse_foreign

Onebit = Callable[..., Outcome]
OPTIONS = [f"{part}.{name}" for part in ("model", "optimizer") for name in declared(part)]


@pytest.mark.parametrize(
    ("flags", "option", "owner"),
    [
        ("--model lenet --model.widths [64,4]", "model.widths", "mlp"),
        ("--optimizer.gamma 0.5", "optimizer.gamma", "bop"),
        ("--method bop --optimizer.data_scale 2", "optimizer.data_scale", "bayesbinn"),
        ("--optimizer.prox_freeze 0.5", "optimizer.prox_freeze", "prox"),
        ("--method ste --continual.tasks 2 --optimizer.data_scale 5", "optimizer.data_scale", "bayesbinn"),
    ],
)
def test_an_option_of_another_entry_is_refused_and_leaves_nothing(
    onebit: Onebit, tmp_path: Path, flags: str, option: str, owner: str
) -> None:
    done = onebit("train", "--dataset", "toy", *flags.split(), "--out", tmp_path / "run")
    assert done.status == 2
    assert option in done.line
    assert owner in done.line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"optimizer": {"name": "bop"}}, ["optimizer.gamma", "optimizer.lr"]),
        ({"model": {"weight_quantizer": "prox"}}, ["optimizer.prox_freeze"]),
        ({"model": {"name": "resnet18"}}, ["model.stem", "model.bireal", "model.width"]),
    ],
)
def test_an_option_of_an_entry_that_is_trained_is_not(settings: dict[str, Any], names: list[str]) -> None:
    refuse_foreign(build_recipe(settings), names)


@pytest.mark.parametrize("name", [*recipe_names(), *methods()])
def test_recipes_and_methods_change_no_option_of_another(name: str) -> None:
    settings = method_settings(name) if name in methods() else read_settings(recipe_path(name))
    recipe = build_recipe(settings)
    default = build_recipe({}).values()
    refuse_foreign(recipe, [option for option in OPTIONS if recipe.values()[option] != default[option]])


def test_a_file_with_an_option_of_another_optimizer_trains(onebit: Onebit, tmp_path: Path) -> None:
    """The recipe.yaml of a run is complete, and a method may have been laid over what its recipe says."""
    path = tmp_path / "recipe.yaml"
    path.write_text("{dataset: toy, epochs: 0.1, optimizer: {gamma: 0.5, threshold: 1.0e-8}, model: {widths: [64, 4]}}")
    done = onebit("train", path, "--threads", "1", "--out", tmp_path / "run")
    assert done.status == 0, done.err


def test_the_quantizers_are_called_what_they_are() -> None:
    for name, entry in WEIGHT_QUANTIZERS.entries().items():
        assert (entry.random, entry.bayesian) == (entry.object.random, hasattr(entry.object, "mean")), name
    assert not any(getattr(kind, "random", False) for kind in INPUT_QUANTIZERS.values())


def test_the_optimizers_follow_the_rate_that_they_declare() -> None:
    for name, entry in OPTIMIZERS.entries().items():
        assert entry.lr_of_latents == getattr(entry.object, "lr_of_latents", True), name
