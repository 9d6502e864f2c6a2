"""`onebit pack` writes the card of a net from its run, `inspect` shows it, `verify` checks what can be checked."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from onebit.cli.train_command import read_command, train_request
from onebit.packed import Card, CardScore, load, save
from onebit.recipe import build_recipe, read_settings
from support.command_line import Onebit


def card_of(path: Path) -> Card:
    card = load(path).card
    assert card is not None
    return card


@pytest.fixture
def copied(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the run folder that a test may change."""
    return Path(shutil.copytree(run_folder, tmp_path / "copied"))


def test_a_card_says_what_the_run_says(onebit: Onebit, run_folder: Path, packed_file: Path) -> None:
    card, result = card_of(packed_file), json.loads((run_folder / "result.json").read_text())
    packed = load(packed_file).certificate
    assert packed is not None
    assert packed.correct is not None
    scores = {
        mode: CardScore(correct=score["correct"], count=score["count"], reestimated=score["bn"] == "reestimate")
        for mode, score in result["test"].items()
    }
    assert card.test == scores | {"packed": CardScore(correct=packed.correct, count=packed.count)}
    named = ("recipe", "dataset", "seed", "epochs", "chosen_epoch", "chosen_by")
    assert {name: getattr(card, name) for name in named} == {name: result[name] for name in named}
    assert card.data == f"10,000 digits of MNIST, shipped with onebit: {result['note']}"
    assert card.license == "LeCun, Cortes, Burges; CC BY-SA 3.0"
    assert card.method == "binaryconnect: weights sign, inputs real; optimizer adam"
    assert (card.summary, card.reference) == (None, None)  # of other widths
    assert str(card) in onebit("inspect", packed_file).out
    assert Card.from_json(onebit("inspect", packed_file, "--json").json["facts"]["card"]) == card
    assert result["sha256"] == hashlib.sha256((run_folder / "best.safetensors").read_bytes()).hexdigest()


def test_the_command_of_a_card_trains_the_same_recipe(run_folder: Path, packed_file: Path) -> None:
    command = card_of(packed_file).command
    assert command is not None
    words = command.replace("'", "").replace(", ", ",").split()
    assert words[:3] == ["onebit", "train", "digits-smoke"]
    trained = build_recipe(read_settings(run_folder / "recipe.yaml"))
    assert trained.changed_from(train_request(read_command(words[2:]))) == []


@pytest.mark.parametrize(
    ("name", "value", "command", "words"),
    [
        ("init_from", "mnist-mlp", True, "; begun with the weights of mnist-mlp"),
        ("init_from", "/secret/run", False, "; begun with the weights of another trained net"),
        ("teacher", "mnist-mlp-large", True, "; taught by mnist-mlp-large"),
        ("teacher", "big", False, "; taught by another trained net"),
        ("dataset", "arrays", False, ""),
    ],
)
def test_a_card_names_only_shipped_nets(
    onebit: Onebit, copied: Path, tmp_path: Path, name: str, value: str, command: bool, words: str
) -> None:
    """A command that needs files of the user is left out."""
    recipe = copied / "recipe.yaml"
    recipe.write_text(re.sub(rf"^{name}: .*", f"{name}: {value}", recipe.read_text(), flags=re.MULTILINE))
    split_facts(copied, **{name: value})
    assert onebit("pack", copied, "-o", tmp_path / "net.1bit", "--no-certify").status == 0
    card = card_of(tmp_path / "net.1bit")
    assert (card.command is not None, str(card.method).endswith(words)) == (command, True)
    assert card.dataset == (value if name == "dataset" else "mnist-sample")
    assert not re.search(rb"secret|copied|/tmp|/root|/home|cpu", (tmp_path / "net.1bit").read_bytes())


def split_facts(folder: Path, **changes: object) -> None:
    """Change settings of the recipe in the weight files of a folder, as if these weights had been trained so."""
    for path in folder.glob("*.safetensors"):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        facts = json.loads(header["__metadata__"]["onebit"])
        facts["recipe"] |= changes
        header["__metadata__"]["onebit"] = json.dumps(facts)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    result = json.loads((folder / "result.json").read_text())
    result.pop("sha256", None)
    (folder / "result.json").write_text(json.dumps(result))


@pytest.mark.parametrize(
    "change",
    [
        {"chosen_epoch": "\x1b[2J"},
        {"chosen_by": "x" * 5_000},
        {"test": {"binary": {"correct": 5, "count": 1}}},
    ],
)
def test_a_damaged_result_is_one_line(onebit: Onebit, copied: Path, tmp_path: Path, change: dict[str, object]) -> None:
    result = json.loads((copied / "result.json").read_text())
    (copied / "result.json").write_text(json.dumps(result | change))
    assert onebit("pack", copied, "-o", tmp_path / "net.1bit", "--no-certify").status == 2
    assert not (tmp_path / "net.1bit").exists()


def test_the_card_of_an_interrupted_run_has_no_command(onebit: Onebit, copied: Path, tmp_path: Path) -> None:
    def packed() -> Card:
        assert onebit("pack", copied, "-o", tmp_path / "net.1bit", "--no-certify").status == 0
        return card_of(tmp_path / "net.1bit")

    (copied / "result.json").unlink()
    card = packed()
    assert card.command is not None  # all epochs are done, and not tested
    assert (card.seed, card.epochs, card.chosen_epoch, card.test) == (None, None, None, {})
    assert card.recipe == "digits-smoke"
    row = json.loads((copied / "metrics.jsonl").read_text().splitlines()[0])
    (copied / "metrics.jsonl").write_text(json.dumps(row | {"epoch": 3, "epochs": 12}) + "\n")
    card = packed()
    assert (card.command, str(card.method).endswith("; unfinished: 3 of 12 epochs")) == (None, True)


def test_verify_fails_for_a_card_with_another_accuracy(onebit: Onebit, packed_file: Path, tmp_path: Path) -> None:
    net, path = load(packed_file), tmp_path / "net.1bit"
    assert net.card is not None
    right = net.card.test["packed"]
    for card in (
        replace(net.card, test={"packed": replace(right, correct=right.correct + 1)}),
        replace(net.card, test={"packed": replace(right, mean_iou=0.9)}),
        replace(net.card, dataset="cifar10"),
    ):
        save(replace(net, card=card), path)
        done = onebit("verify", path)
        assert (done.status, "FAIL  card: " in done.out) == (1, True)


def test_verify_checks_an_uncertified_card(onebit: Onebit, packed_file: Path, run_folder: Path, tmp_path: Path) -> None:
    net, path = load(packed_file), tmp_path / "net.1bit"
    assert net.card is not None
    right = net.card.test["packed"]
    for correct, status in ((right.correct, 0), (right.correct + 1, 1)):
        card = replace(net.card, test={"packed": replace(right, correct=correct)})
        save(replace(net, certificate=None, card=card), path)
        done = onebit("verify", path, "--source", run_folder)
        assert (done.status, ("FAIL  card" in done.out), "ok    packed bits" in done.out) == (status, status == 1, True)

    assert net.certificate is not None  # of data in memory
    save(replace(net, card=None, certificate=replace(net.certificate, split="", dataset="own arrays")), path)
    refused = onebit("verify", path, "--source", run_folder)
    assert (refused.status, "own arrays" in refused.line) == (2, True)


@pytest.fixture
def changed(run_folder: Path, tmp_path: Path) -> Path:
    """A run whose weights were changed after its test."""
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    path = folder / "best.safetensors"
    with safe_open(path, "np") as file:
        facts = file.metadata()
    state = load_file(path)
    last = max(name for name in state if name.endswith(".weight") and state[name].ndim == 2)
    save_file(state | {last: -state[last]}, path, facts)
    return folder


@pytest.mark.usefixtures("no_ink")
@pytest.mark.filterwarnings("default")
def test_scores_of_other_weights_are_left_out(onebit: Onebit, changed: Path, tmp_path: Path) -> None:
    net = tmp_path / "net.1bit"
    packed = onebit("pack", changed, "-o", net)
    assert packed.status == 0
    assert "note: " in packed.err
    card = onebit("inspect", net, "--json").json["facts"]["card"]
    assert set(card["test"]) == {"packed"}
    shown = onebit("report", changed, "-o", tmp_path / "report", "--json")
    assert "other weights" in shown.err


def test_verify_fails_where_a_result_is_about_other_weights(onebit: Onebit, run_folder: Path, changed: Path) -> None:
    failed = onebit("verify", changed)
    assert failed.status == 1
    assert "FAIL  result: " in failed.out
    assert "result.json" not in onebit("verify", run_folder).out
