"""A training that starts from a net says so if that net was trained on its validation images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_support import SMALL, Outcome

from onebit.data import Dataset, Split, load_dataset
from onebit.packed import load
from onebit.recipe import Recipe
from onebit.runs.held_out import seen_validation, settings_of_card

Onebit = Callable[..., Outcome]
SEEN = "was trained on"
pytestmark = pytest.mark.filterwarnings("default:init_from:UserWarning", "default:.*signs become latents:UserWarning")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that held out no images."""
    from onebit.__main__ import main

    folder = tmp_path_factory.mktemp("runs") / "everything"
    assert main(["train", "digits-smoke", *SMALL, "--validation", "0", "--epochs", "0.1", "--out", str(folder)]) == 0
    return folder


def notes(onebit: Onebit, start: Path, *flags: str) -> list[str]:
    """What a training that starts from a net says about its validation images, without the name of the net."""
    rest = ["--epochs", "0.1", "--init_from", start, *flags, "--out", start.parent / "started", "--overwrite"]
    done = onebit("train", "digits-smoke", *SMALL, *rest)
    assert done.status == 0, done.err
    lines = [line.partition("init_from: ")[2] for line in done.err.splitlines()]
    return [line.removeprefix(f"{start} ") for line in lines if SEEN in line]


def test_the_same_split_or_a_part_of_it_is_fair(onebit: Onebit, run_folder: Path) -> None:
    assert notes(onebit, run_folder) == []
    assert notes(onebit, run_folder, "--validation", "500") == []
    assert notes(onebit, run_folder, "--validation", "0") == []


def test_another_split_is_told_with_the_flag_to_add(onebit: Onebit, run_folder: Path) -> None:
    data, other = load_dataset("mnist-sample"), load_dataset("mnist-sample", split_seed=3)
    kept = {image.tobytes() for image in data.train.images}
    seen = sum(image.tobytes() in kept for image in other.validation.images)
    assert 800 < seen < 1000
    said = f"was trained on {seen} of the 1,000 validation images, whose error is too low: add --split_seed 0"
    assert notes(onebit, run_folder, "--split_seed", "3") == [said]


def test_more_validation_images_are_told(onebit: Onebit, run_folder: Path) -> None:
    said = "was trained on 1,000 of the 2,000 validation images, whose error is too low: add --validation 1000"
    assert notes(onebit, run_folder, "--validation", "2000") == [said]


def test_a_start_that_held_out_none_has_seen_all(onebit: Onebit, everything: Path) -> None:
    said = "was trained on 1,000 of the 1,000 validation images, whose error is too low: "
    assert notes(onebit, everything) == [said + "it held out none, so compare test errors"]


def test_of_a_packed_net_the_card_tells_the_split(onebit: Onebit, packed_file: Path) -> None:
    assert notes(onebit, packed_file) == []
    (said,) = notes(onebit, packed_file, "--split_seed", "3")
    assert said.endswith("of the 1,000 validation images, whose error is too low: add --split_seed 0")


def test_the_cards_of_nets_that_ship_name_their_split() -> None:
    settings = settings_of_card(load("mnist-mlp").card)
    assert (settings["dataset"], settings["validation"], settings["split_seed"]) == ("mnist", 10_000, 0)
    card = load("mnist-mlp").card
    assert card is not None
    for command in (None, "", "onebit", "onebit train", "onebit train nothing", "onebit train mnist-fast --x 1", "'"):
        assert settings_of_card(replace(card, command=command)) == {}
    assert settings_of_card(None) == {}


def test_the_sample_is_a_part_of_mnist() -> None:
    said = "was trained on mnist, which has images in common with mnist-sample: compare test errors"
    data, recipe = load_dataset("mnist-sample"), Recipe(dataset="mnist-sample")
    assert seen_validation({"dataset": "mnist"}, recipe, data) == said
    assert seen_validation({"dataset": "mnist"}, recipe, load_dataset("mnist-sample", validation=0)) is None


def test_nothing_is_told_of_a_start_whose_data_are_not_known() -> None:
    images, labels = np.zeros((60_000, 1, 1, 1), np.uint8), np.zeros(60_000, np.int64)
    parts = [Split(images[part], labels[part]) for part in (slice(50_000), slice(50_000, None), slice(1))]
    data = Dataset("mnist", *parts, ("0",))
    for trained in ({}, {"dataset": None}, {"dataset": ["mnist-sample"]}):
        assert seen_validation(trained, Recipe(dataset="mnist"), data) is None
    assert seen_validation({"dataset": "mnist-sample"}, Recipe(dataset="mnist"), data) is not None


@pytest.mark.parametrize(
    "trained",
    [
        {},
        {"dataset": "membrane", "validation": 0, "split_seed": 0},
        {"dataset": "mnist-sample", "validation": "0", "split_seed": 0},
        {"dataset": "mnist-sample", "validation": 0, "split_seed": -1},
        {"dataset": "mnist-sample", "validation": -1, "split_seed": 0},
        {"dataset": "mnist-sample", "validation": None, "split_seed": 0},  # its usual 1,000
    ],
)
def test_what_is_not_known_is_not_told(trained: dict[str, object]) -> None:
    data = load_dataset("mnist-sample")
    assert seen_validation(trained, Recipe(dataset="mnist-sample"), data) is None
    assert seen_validation({**trained, "validation": 0}, Recipe(dataset="arrays"), data) is None
