"""`onebit pack`: certificate and card of a run, integer nets, and what is never written."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from onebit.__main__ import main
from onebit.cli.train_command import read_command, train_request
from onebit.data import load_dataset
from onebit.packed import Card, CardScore, PackedNet, Requantize, dumps, load
from onebit.recipe import build_recipe, read_settings
from onebit.runtime import run
from support.command_line import SMALL, Onebit


@pytest.fixture(scope="module")
def integer_file(run_folder: Path) -> Path:
    """The run as an integer net of 8 bits."""
    path = run_folder.parent / "integer.1bit"
    assert main(["pack", str(run_folder), "-o", str(path), "--activations", "8"]) == 0
    return path


def card_of(net: Path | PackedNet) -> Card:
    card = (net if isinstance(net, PackedNet) else load(net)).card
    assert card is not None
    return card


def test_pack_reports_size_and_certificate(onebit: Onebit, run_folder: Path, packed_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.1bit"
    done = onebit("pack", run_folder, "-o", path, "--json")
    assert (done.json["weight_bits"], done.json["bytes"]) == (784 * 32 + 32 * 10, path.stat().st_size)
    assert path.read_bytes() == packed_file.read_bytes()
    certificate = done.json["certificate"]
    assert (certificate["dataset"], certificate["split"], certificate["count"]) == ("mnist-sample", "test", 2000)
    assert (certificate["label_mismatches"], certificate["images"]) == (0, None)
    assert done.json["compared"]["numpy"] == (1000 if done.json["compared"]["native"] else 2000)


def test_some_images_are_compared_and_found_again(onebit: Onebit, run_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.1bit"
    done = onebit("pack", run_folder, "-o", path, "--images", 150, "--json").json
    assert (done["certificate"]["count"], done["certificate"]["images"]) == (150, 150)
    assert done["compared"]["images"] == done["compared"]["numpy"] == 150
    stored = load(path).certificate
    assert stored is not None
    assert json.loads(json.dumps(stored.as_dict())) == done["certificate"]
    found = onebit("verify", path, "--source", run_folder, "--json")
    assert (found.status, "of 150 correct" in found.steps["packed accuracy"][1]) == (0, True)


def test_pack_of_one_random_draw(onebit: Onebit, run_folder: Path, tmp_path: Path) -> None:
    path, drawn = tmp_path / "draw.1bit", ("--weights", "sample", "--seed", 3)
    certificate = onebit("pack", run_folder, "-o", path, *drawn, "--json").json["certificate"]
    assert (certificate["weights"], certificate["seed"]) == ("sample", 3)
    assert onebit("verify", path, "--source", run_folder).status == 0
    assert "-o NET.1bit --weights sample --seed 3" in onebit("inspect", path).out
    # the draw that ships has its own BatchNorm statistics, as the same draw has in evaluation
    assert certificate["correct"] == onebit("evaluate", run_folder, *drawn, "--json").json["correct"]


def test_pack_without_the_data_set(
    onebit: Onebit, run_folder: Path, packed_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*arguments: object, **options: object) -> None:
        raise AssertionError("the data were read")

    path = tmp_path / "net.1bit"
    monkeypatch.setattr("onebit.runs.opening.load_dataset", gone)
    monkeypatch.setattr("onebit.data.load_dataset", gone)
    done = onebit("pack", run_folder, "-o", path, "--no-certify")
    assert (done.status, "not certified" in done.out) == (0, True)
    whole = load(packed_file)
    card = card_of(whole)
    card = replace(card, test={mode: score for mode, score in card.test.items() if mode != "packed"})
    assert dumps(replace(whole, certificate=None, card=card)) == path.read_bytes()
    assert onebit("pack", run_folder, "-o", path, "--no-certify", "--json").json["certificate"] is None
    assert "--source" in onebit("verify", path).line
    assert "no certificate" in onebit("inspect", path).err
    compared = onebit("verify", path, "--source", run_folder, "--json")
    assert (compared.status, list(compared.steps)) == (0, ["packed bits"])


def test_a_training_is_never_overwritten_and_a_real_net_not_packed(
    onebit: Onebit, run_folder: Path, real_folder: Path, tmp_path: Path
) -> None:
    for name in ("best.safetensors", "final.safetensors"):
        before = (run_folder / name).read_bytes()
        for verb in ("pack", "export --to torch"):
            assert "overwrite" in onebit(*verb.split(), run_folder, "-o", run_folder / name).line
        assert (run_folder / name).read_bytes() == before
    assert onebit("pack", real_folder, "-o", tmp_path / "net.1bit").status == 2
    assert not (tmp_path / "net.1bit").exists()


def test_a_net_of_any_size(onebit: Onebit, tmp_path: Path) -> None:
    nin, net, larger = tmp_path / "nin", tmp_path / "any.1bit", tmp_path / "larger.npy"
    flags = ["--model", "nin", "--model.width", "0.05", "--epochs", "0.2", "--batch_size", "256", "--threads", "1"]
    assert onebit("train", "--dataset", "toy", *flags, "--out", nin).status == 0
    assert "images of 8×8" in onebit("pack", nin, "-o", net, "--sizes", "any").out
    assert onebit("verify", net, "--source", nin).status == 0
    assert "any size" in onebit("inspect", net).out
    np.save(larger, np.random.default_rng(0).integers(0, 256, (3, 1, 13, 20), np.uint8))
    assert len(onebit("predict", net, larger, "--json").json["predictions"]) == 3
    assert onebit("pack", nin, "-o", net, "--no-certify").status == 0
    assert onebit("predict", net, larger).status == 2


def test_a_net_of_permuted_pixels_is_packed_for_images_as_they_are(onebit: Onebit, tmp_path: Path) -> None:
    folder, file = tmp_path / "run", tmp_path / "net.1bit"
    flags = [*SMALL, "--epochs", "1", "--permutation", "1", "--out", folder, "--json"]
    right = onebit("train", "digits-smoke", *flags).json["test"]["binary"]["correct"]
    assert right > 1000  # of 2,000
    assert onebit("pack", folder, "-o", file).status == 0
    assert onebit("evaluate", file, "--json").json["correct"] == right
    card = card_of(file)
    assert card.test["packed"].correct == card.test["binary"].correct == right
    assert "--permutation 1" in str(card.command)
    assert "order of its pixels" in str(card.method)
    for words in (["verify", file, "--source", folder], ["verify", folder]):
        done = onebit(*words)
        assert done.status == 0, done.out + done.err


# ------------------------------------------------------------------------------------------------------- integer nets
def test_a_certificate_has_both_accuracies(onebit: Onebit, run_folder: Path, packed_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.1bit"
    request = ("pack", run_folder, "-o", path, "--activations")
    for flags, status in (((2, "--allow-drop", 0, "--json"), 1), ((8, "--calibration", 20), 2)):
        refused = onebit(*request, *flags)
        assert (refused.status, refused.out, path.exists()) == (status, "", False)
        assert refused.line
    done = onebit(*request, 2, "--calibration", 100, "--json", "--allow-drop", 100)
    assert "2 bits" in done.err
    test = load_dataset("mnist-sample").test
    exact, rounded = (run(load(file), test.images).argmax(axis=1) for file in (packed_file, path))
    made = done.json["certificate"]
    assert made["activations"] == done.json["activations"] == 2
    assert (made["calibration"], made["count"], made["layers"]) == (100, len(test), [])
    assert made["correct"] == int((rounded == test.labels).sum())
    assert made["model_correct"] == int((exact == test.labels).sum())
    assert made["label_mismatches"] == int((exact != rounded).sum())
    assert done.json["promise"] == "rounded"
    assert done.json["ranges"]["relu1"].keys() == {"step", "beyond"}
    assert [(node.least, node.most) for node in load(path).nodes if isinstance(node, Requantize)] == [(0, 3)]


def test_an_integer_net_is_small_reproducible_and_read_by_every_verb(
    onebit: Onebit, run_folder: Path, integer_file: Path, packed_file: Path, tmp_path: Path
) -> None:
    channels, certificate = 32 + 10, 100
    assert integer_file.stat().st_size <= packed_file.stat().st_size + 8 * channels + certificate
    assert onebit("pack", run_folder, "-o", tmp_path / "net.1bit", "--activations", 8).status == 0
    assert (tmp_path / "net.1bit").read_bytes() == integer_file.read_bytes()
    done = onebit("verify", integer_file, "--source", run_folder, "--json")
    assert done.status == 0, done.out
    assert [*done.steps] == ["packed accuracy", "card", "source", "packed bits", "certificate"]
    assert onebit("evaluate", integer_file, "--json").json["correct"] == load(integer_file).certificate.correct
    inspected = onebit("inspect", integer_file).out
    assert "packed by: onebit pack RUN -o NET.1bit --activations 8 --calibration " in inspected
    assert "promise: rounded: " in inspected
    row = next(line for line in onebit("summary", integer_file).out.splitlines() if line.startswith("relu1"))
    assert row.endswith("integer: rounding")


# --------------------------------------------------------------------------------------------------------------- cards
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
    words = str(card.command).replace("'", "").replace(", ", ",").split()
    assert words[:3] == ["onebit", "train", "digits-smoke"]
    trained = build_recipe(read_settings(run_folder / "recipe.yaml"))
    assert trained.changed_from(train_request(read_command(words[2:]))) == []


def set_in_weights(folder: Path, **changes: object) -> None:
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
    recipe, net = copied / "recipe.yaml", tmp_path / "net.1bit"
    recipe.write_text(re.sub(rf"^{name}: .*", f"{name}: {value}", recipe.read_text(), flags=re.MULTILINE))
    set_in_weights(copied, **{name: value})
    assert onebit("pack", copied, "-o", net, "--no-certify").status == 0
    card = card_of(net)
    assert (card.command is not None, str(card.method).endswith(words)) == (command, True)
    assert card.dataset == (value if name == "dataset" else "mnist-sample")
    assert not re.search(rb"secret|copied|/tmp|/root|/home|cpu", net.read_bytes())


def test_a_card_of_a_damaged_or_an_unfinished_run(onebit: Onebit, copied: Path, tmp_path: Path) -> None:
    net, result = tmp_path / "net.1bit", json.loads((copied / "result.json").read_text())
    for change in (
        {"chosen_epoch": "\x1b[2J"},
        {"chosen_by": "x" * 5_000},
        {"test": {"binary": {"correct": 5, "count": 1}}},
    ):
        (copied / "result.json").write_text(json.dumps(result | change))
        assert onebit("pack", copied, "-o", net, "--no-certify").status == 2
        assert not net.exists()
    (copied / "result.json").unlink()
    assert onebit("pack", copied, "-o", net, "--no-certify").status == 0
    card = card_of(net)
    assert card.command is not None  # all epochs are done, and not tested
    assert (card.recipe, card.seed, card.epochs, card.chosen_epoch, card.test) == ("digits-smoke", None, None, None, {})
    row = json.loads((copied / "metrics.jsonl").read_text().splitlines()[0])
    (copied / "metrics.jsonl").write_text(json.dumps(row | {"epoch": 3, "epochs": 12}) + "\n")
    assert onebit("pack", copied, "-o", net, "--no-certify").status == 0
    card = card_of(net)
    assert (card.command, str(card.method).endswith("; unfinished: 3 of 12 epochs")) == (None, True)


@pytest.mark.usefixtures("no_ink")
@pytest.mark.filterwarnings("default")
def test_scores_of_other_weights_are_left_out(onebit: Onebit, copied: Path, tmp_path: Path) -> None:
    """The weights were changed after their test."""
    path = copied / "best.safetensors"
    with safe_open(path, "np") as file:
        facts = file.metadata()
    state = load_file(path)
    save_file(state | {"linear2.weight": -state["linear2.weight"]}, path, facts)
    packed = onebit("pack", copied, "-o", tmp_path / "net.1bit")
    assert (packed.status, "note: " in packed.err) == (0, True)
    assert set(card_of(tmp_path / "net.1bit").test) == {"packed"}
    assert "other weights" in onebit("report", copied, "-o", tmp_path / "report", "--json").err
    failed = onebit("verify", copied)
    assert (failed.status, "FAIL  result: " in failed.out) == (1, True)
