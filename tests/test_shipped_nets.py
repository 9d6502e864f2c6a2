"""The packed nets that come with onebit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onebit
from onebit.cli.list_verb import nets
from onebit.cli.train_command import read_command, train_request
from onebit.data import DATASETS, Dataset, load_dataset
from onebit.errors import DataError, FormatError, UsageError
from onebit.evaluation.packed_nets import score_packed
from onebit.nets import FOLDER, is_packed, nearest_net, net_names, net_path
from tools import ship_nets

NETS: Any = {name: onebit.load(name) for name in net_names()}
RECORD = json.loads(ship_nets.RECORD.read_text(encoding="utf-8"))
ROOTS = [root for root in os.environ.get("ONEBIT_DATA", "").split(os.pathsep) if root]
QUICK = ("mnist",)
"""Data sets whose nets are evaluated daily."""
BLANK = np.zeros((1, 1, 28, 28), np.uint8)


def test_a_net_is_loaded_and_run_by_its_name() -> None:
    net = onebit.load("mnist-mlp")
    assert onebit.packed.dumps(net) == (FOLDER / "mnist-mlp.1bit").read_bytes()
    assert onebit.run("mnist-mlp", BLANK).tolist() == onebit.run(net, BLANK).tolist()


def test_a_word_is_a_name_and_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(FOLDER / "mnist-mlp.1bit", "other.1bit")
    shutil.copy(FOLDER / "mnist-mlp.1bit", "word")
    for path in ("other.1bit", "./mnist-mlp", "mnist-mlp.1bit", "word", Path("mnist-mlp")):
        assert net_path(path) == Path(path)
    assert net_path("mnist-mlp") == FOLDER / "mnist-mlp.1bit"
    means = {net: is_packed(net) for net in ("mnist-mlp", "gone.1bit", "GONE.1BIT", "word", Path("mnist-mlp"))}
    assert list(means.values()) == [True, True, True, False, False]
    assert onebit.load("word").name == onebit.load("other.1bit").name == "mnist-fast"


def test_a_name_with_two_meanings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mnist-mlp").mkdir()  # what `onebit export mnist-mlp --to c -o mnist-mlp` writes
    assert onebit.load("mnist-mlp").name == "mnist-fast"
    Path("mnist-mlp", "recipe.yaml").touch()
    with pytest.raises(UsageError, match="path"):
        onebit.load("mnist-mlp")
    shutil.rmtree("mnist-mlp")
    shutil.copy(FOLDER / "mnist-mlp.1bit", "mnist-mlp")
    with pytest.raises(UsageError, match="path"):
        onebit.load("mnist-mlp")
    assert onebit.load("./mnist-mlp").name == onebit.load(Path("mnist-mlp")).name == "mnist-fast"


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        ("mnist-mpl", "did you mean 'mnist-mlp'?"),
        ("mnist-mlp.1bit", "did you mean 'mnist-mlp'?"),
        ("nowhere", ""),
        ("mnist-mlp.pth", ""),
        ("runs/mnist-mlp", ""),
        ("./mnist-mlp", "'mnist-mlp'"),
        (Path("mnist-mlp"), "'mnist-mlp'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(missing: str | Path, hint: str) -> None:
    assert (nearest_net(missing) == "") == (hint == "")
    with pytest.raises(FormatError) as info:
        onebit.load(missing)
    assert hint in str(info.value)


def test_all_nets_together_are_small() -> None:
    assert 0 < sum(net_path(name).stat().st_size for name in net_names()) <= 1_500_000


def test_every_net_is_recorded() -> None:
    assert list(RECORD) == net_names()
    assert set(net_names()) <= set(ship_nets.NETS)


@pytest.mark.parametrize("name", net_names())
def test_a_net_is_the_one_that_was_checked(name: str) -> None:
    """Not one bit differs; and the answer to made-up inputs shows that it still computes the same."""
    found = {
        "sha256": hashlib.sha256(net_path(name).read_bytes()).hexdigest(),
        "answer": ship_nets.answer(NETS[name]),
    }
    assert found == RECORD[name]


PROMISES = {
    **dict.fromkeys(("membrane-unet", "mnist-mlp", "mnist-mlp-large", "resnet20-cifar10"), "real"),
    **dict.fromkeys(("mnist-mlp-signs", "vgg-small-cifar10"), "exact"),
    **dict.fromkeys(("resnet20-cifar10-signs", "resnet20-cifar10-int8"), "rounded"),
}


@pytest.mark.parametrize("name", net_names())
def test_a_card_is_complete_and_states_what_is_certified(name: str) -> None:
    net = NETS[name]
    card, made = net.card, net.certificate
    assert not [name for name, value in vars(card).items() if value in (None, {})]
    assert (card.summary, card.reference) == (ship_nets.NETS[name], ship_nets.reference(card.recipe))
    assert card.license == DATASETS[card.dataset].licence
    assert (card.test["packed"].correct, card.test["packed"].count) == (made.correct, made.count)
    assert {"packed", "binary"} <= card.test.keys()
    assert (made.dataset, made.split, made.images, made.recipe) == (card.dataset, "test", None, card.recipe)
    assert made.activations == (8 if name.endswith("-int8") else None)
    assert net.promise == PROMISES[name]
    assert net.promise == "rounded" or made.label_mismatches == 0
    pixels = np.prod(net.input.shape[1:]) if DATASETS[card.dataset].masks else 1
    _, images = DATASETS[card.dataset].counts or (0, 0)
    assert made.count == images or (pixels > 1 and made.count % images == 0)
    assert not re.search(r"(^|\s)[/~]|[A-Za-z]:\\", " ".join(map(str, card.to_json().values())))


@pytest.mark.parametrize("name", net_names())
def test_the_command_of_a_card_is_of_its_training(name: str) -> None:
    card = NETS[name].card
    words = shlex.split(card.command)
    assert words[:2] == ["onebit", "train"]
    recipe = train_request(read_command(words[2:]))
    assert (recipe.name, recipe.dataset, recipe.seed) == (card.recipe, card.dataset, card.seed)
    assert recipe.epochs == card.epochs


def test_the_table_of_the_documentation_is_that_of_the_cards() -> None:
    text = ship_nets.DOCUMENT.read_text(encoding="utf-8")
    assert text.count(ship_nets.table()) == 1, "run python -m tools.ship_nets"
    for name, facts in nets().items():
        score = NETS[name].card.test["packed"]
        assert (facts["correct"], facts["count"]) == (score.correct, score.count)
        assert f"| `{name}` | " in text
        assert f" {100 * score.correct / score.count:.2f} % |" in text


def data_at_hand(name: str) -> Dataset:
    """The real data of a net, from ONEBIT_DATA; the test is skipped without them, or with another copy of them."""
    card = NETS[name].card
    for root in ROOTS:
        try:
            data = load_dataset(card.dataset, directory=root)
        except DataError:
            continue
        if data.note in card.data:
            return data
    pytest.skip(f"{card.dataset}: {card.data}: not in a folder of ONEBIT_DATA")


@pytest.mark.parametrize(
    "name",
    [
        name if net.card.dataset in QUICK else pytest.param(name, marks=pytest.mark.nightly)
        for name, net in NETS.items()
    ],
)
def test_a_net_has_the_accuracy_of_its_card_on_the_real_test_set(name: str) -> None:
    score, stated = score_packed(NETS[name], data_at_hand(name).test), NETS[name].card.test["packed"]
    assert (score["correct"], score["count"], score.get("mean_iou")) == (stated.correct, stated.count, stated.mean_iou)


@pytest.mark.parametrize("name", [name for name, net in NETS.items() if net.card.dataset == "mnist"])
def test_a_net_has_the_accuracy_of_its_card_on_the_sample(name: str) -> None:
    """2,000 of the 10,000 test images: within four standard deviations."""
    score, stated = score_packed(NETS[name], load_dataset("mnist-sample").test), NETS[name].card.test["packed"]
    share = stated.correct / stated.count
    assert score["count"] == 2_000
    assert abs(score["accuracy"] - share) < 4 * sqrt(share * (1 - share) / score["count"])
