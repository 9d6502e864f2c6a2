"""Settings that a training would not use: flags are refused, those of a file are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_support import Outcome

from onebit.optim.optimizer_table import OPTIMIZERS
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import (
    build_recipe,
    changed_settings,
    flag_names,
    method_settings,
    methods,
    read_settings,
    recipe_names,
    recipe_path,
    unused_settings,
)
from onebit.recipe.option_owners import NEEDS, needs_of
from onebit.recipe.options import declared

Onebit = Callable[..., Outcome]


@pytest.mark.parametrize(
    "flags",
    [
        "--method bayesbinn --draws 5 --optimizer.samples 4 --optimizer.data_scale 2 --optimizer.latent_init 3",
        "--method bop --optimizer.gamma 0.5 --optimizer.decay_epochs 3 --optimizer.gamma_decay 0.5",
        "--method bop --optimizer.lr 0.1",
        "--method bop --optimizer.real_lr 0.01 --schedule.final_lr 0.001",
        "--method bayesbinn --optimizer.lr 0.1 --optimizer.real_lr 0.01",
        "--model.norm_momentum 0.2 --model.dense_norm_momentum null",
        "--model lenet --model.norm_momentum 0.2 --model.dense_norm_momentum 0.1",
        "--method proxquant --optimizer.prox_freeze 0.5",
        "--method binaryconnect-stochastic --optimizer.samples 4",
        "--model.dropout 0.5 --optimizer.samples 4",
        "--optimizer sgd --optimizer.momentum 0.9 --optimizer.nesterov",
        "--schedule step --schedule.step_size 3 --schedule.gamma 0.5",
        "--dataset cifar10 --augmentation.padding_mode reflect",  # which is cropped by default
        # what is switched off asks for nothing
        "--draws 0 --optimizer.samples 1",
        "--method real --optimizer.latent_clip null --optimizer.decay_latents false",
        "--teacher x --teacher_weight 0.5",
        "--teacher x --teacher_weight 0.5 --loss hinge",
        "cifar10-resnet20-real --teacher x --label_smoothing 0",
        "--method bop --optimizer.weight_decay 0",
        "--split_seed 3",
        "--augmentation.first_size 16 --augmentation.growing 0.5 --epochs 1.5",
        "--augmentation.first_size 16 --epochs 1 --first_stage 2",
        "--method bayesbinn --continual.tasks 2 --continual.prior false",
        "--method irnet --model.input_options {}",
        "--method real --model.real_first --model.real_last",  # which is so: one command for all methods
        "mnist-permuted --method ste --continual.prior false --continual.against [bayesbinn]",
        # used by what the recipe is set against
        "mnist-permuted --method ste --draws 5 --continual.against [bayesbinn]",
    ],
)
def test_a_flag_that_is_used_is_not(onebit: Onebit, flags: str) -> None:
    done = onebit("train", *flags.split(), "--print-config")
    assert done.status == 0, done.err


def test_a_file_with_a_setting_that_would_not_be_used_trains_and_says_so(onebit: Onebit, tmp_path: Path) -> None:
    """The recipe.yaml of a run is complete, and a method may have been laid over what its recipe says."""
    path = tmp_path / "recipe.yaml"
    path.write_text("{dataset: toy, epochs: 0.1, optimizer: {gamma: 0.5, threshold: 1.0e-8}, model: {widths: [64, 4]}}")
    done = onebit("train", path, "--threads", "1", "--out", tmp_path / "run")
    assert done.status == 0, done.err
    notes = [line for line in done.err.splitlines() if "belongs to" in line]
    assert notes == ["note: optimizer.gamma belongs to optimizer bop, but optimizer.name is 'adam'"]


def test_a_recipe_that_grows_its_images_says_that_one_epoch_has_full_size(onebit: Onebit) -> None:
    done = onebit("train", "cifar10-resnet20-binaryconnect-fast", "--epochs", "1", "--print-config")
    assert done.status == 0
    assert "note: augmentation.first_size belongs to more than one epoch, but epochs is 1.0\n" in done.err


def test_what_a_method_over_a_recipe_took_the_place_of_is_not_told(onebit: Onebit, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("{dataset: toy, epochs: 0.1, model: {weight_quantizer: concrete_sign, widths: [64, 4]}, "
                    "optimizer: {name: bayesbinn, latent_clip: null, data_scale: 5}}")  # fmt: skip
    done = onebit("train", path, "--method", "ste", "--threads", "1", "--out", tmp_path / "run")
    assert done.status == 0, done.err
    assert "belongs to" not in done.err


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_says_nothing_in_vain(name: str) -> None:
    recipe = build_recipe(read_settings(recipe_path(name)))
    assert unused_settings(recipe, changed_settings(recipe)) == []


@pytest.mark.parametrize("name", methods())
def test_a_method_says_nothing_in_vain(name: str) -> None:
    recipe = build_recipe(method_settings(name))
    assert unused_settings(recipe, changed_settings(recipe)) == []


def test_every_setting_and_deciding_field_is_one_of_a_recipe() -> None:
    names = {*NEEDS, "draws", *(f"optimizer.{name}" for name in declared("optimizer"))}
    assert names <= set(flag_names())
    needs = [need for name in names for need in needs_of(name)]
    assert {need.field for need in needs} <= set(flag_names())
    assert all(needs_of(name) for name in names)


def test_the_quantizers_are_called_what_they_are() -> None:
    for name, entry in WEIGHT_QUANTIZERS.entries().items():
        assert (entry.random, entry.bayesian) == (entry.object.random, hasattr(entry.object, "mean")), name
    assert not any(getattr(kind, "random", False) for kind in INPUT_QUANTIZERS.values())


def test_the_optimizers_follow_the_rate_that_they_declare() -> None:
    for name, entry in OPTIMIZERS.entries().items():
        assert entry.lr_of_latents == getattr(entry.object, "lr_of_latents", True), name
