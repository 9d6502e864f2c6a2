"""A short try of a long recipe: `--epochs 1` trains whatever the recipe says of its epochs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from onebit.cli.train_command import read_command, train_request
from onebit.recipe import Recipe, read_settings, recipe_path
from onebit.runs.resolve import resolve
from onebit.runs.run import first_stage
from support.command_line import Onebit
from support.covering import covering, recipe_traits
from support.recipe_nets import RECIPES, without_runs


def asked(*words: object) -> Recipe:
    return train_request(read_command([str(word) for word in words]))


@pytest.mark.parametrize("name", covering(RECIPES, of=lambda name: recipe_traits(RECIPES[name])))
def test_one_epoch_of_every_recipe_can_be_trained(name: str) -> None:
    short = asked(name, "--epochs", "1")
    assert short.epochs == 1
    resolve(without_runs(short))


def test_the_warmup_keeps_its_share_of_training() -> None:
    full = read_settings(recipe_path("cifar10-resnet20-real"))
    assert (full["epochs"], full["schedule"]["warmup"]) == (150, 5)
    short = asked("cifar10-resnet20-real", "--epochs", "2")
    assert short.schedule.warmup == pytest.approx(2 / 30)
    assert asked("cifar10-resnet20-real", "--epochs", "300").schedule.warmup == 5


def test_a_warmup_that_was_asked_for_stays_as_it_is(onebit: Onebit) -> None:
    short = asked("cifar10-resnet20-real", "--epochs", "2", "--schedule.warmup", "1")
    assert short.schedule.warmup == 1
    refused = onebit("train", "cifar10-resnet20-real", "--epochs", "1", "--schedule.warmup", "1")
    assert refused.status == 2
    assert "schedule.warmup" in refused.line


def test_a_short_try_trains_and_resumes(onebit: Onebit, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("{dataset: toy, epochs: 100, schedule: {warmup: 60}, batch_size: 256, model: {widths: [64, 4]}}")
    flags = [path, "--epochs", "1", "--threads", "1", "--out", tmp_path / "run"]
    done = onebit("train", *flags)
    assert done.status == 0, done.err
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["schedule"]["warmup"] == 0.6
    assert onebit("train", *flags, "--resume").status == 0
    # one step in all: there is none to warm up in
    assert onebit("train", path, "--epochs", "0.14", "--threads", "1", "--out", tmp_path / "step").status == 0


def test_a_first_stage_warms_up_for_as_large_a_share_of_it() -> None:
    long = asked("cifar10-resnet20-binaryconnect", "--first_stage", "1")
    assert long.schedule.warmup == 5
    assert first_stage(long).schedule.warmup == pytest.approx(5 / long.epochs)
