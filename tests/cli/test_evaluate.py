"""`onebit evaluate`: it agrees with the training, on the data of the run or on others; data of one's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from onebit import Dataset, Trainer
from onebit.__main__ import main
from onebit.data import load_dataset, make_toy
from onebit.runs.opening import open_run
from onebit.runs.plain_state import save_plain
from support.command_line import SMALL, Onebit


def test_it_agrees_with_the_result_of_training(
    onebit: Onebit, run_folder: Path, packed_file: Path, tmp_path: Path
) -> None:
    stored = json.loads((run_folder / "result.json").read_text())
    save_plain(open_run(run_folder).model, tmp_path / "plain.pth")
    plain = [tmp_path / "plain.pth", "--recipe", run_folder / "recipe.yaml"]
    run = [run_folder]
    for mode, source in (("binary", run), ("latent", run), ("binary", plain), ("packed", [packed_file])):
        found = onebit("evaluate", *source, "--weights", mode, "--json").json
        expected = stored["test"]["binary" if mode == "packed" else mode]
        assert (found["correct"], found["weights"], found["classes"]) == (expected["correct"], mode, stored["classes"])
        assert (found["class_f1"], found["confusion"]) == (expected["class_f1"], expected["confusion"])
        assert [found[key] for key in ("ece", "entropy")] == pytest.approx(
            [expected[key] for key in ("ece", "entropy")], rel=1e-3
        )
    assert onebit("evaluate", run_folder, "--weights", "packed", "--json").json["correct"] == expected["correct"]
    for source in (run_folder, packed_file):
        first, head, *rows, _ = onebit("evaluate", source, "--classes").out.splitlines()
        assert all(text in first for text in (f"macro F1 {found['f1']:.4f}", "nats, calibration error "))
        assert head.split()[:3] == ["class", "accuracy", "F1"]
        assert [row.split()[0] for row in rows] == stored["classes"]
        assert sum(int(cell) for row in rows for cell in row.split()[3:]) == found["count"]
    assert len(onebit("evaluate", run_folder).out.splitlines()) == 1


def test_random_draws(onebit: Onebit, run_folder: Path) -> None:
    one = [onebit("evaluate", run_folder, "--weights", "sample", "--seed", seed, "--json").json for seed in (0, 0, 1)]
    assert one[0] == one[1]
    assert one[0]["loss"] != one[2]["loss"]
    assert [each["seed"] for each in one] == [0, 0, 1]
    several = onebit("evaluate", run_folder, "--weights", "ensemble:2", "--seed", "4")
    assert "with ensemble:2 weights, seed 4, BatchNorm re-estimated" in several.out
    assert "seed" not in onebit("evaluate", run_folder, "--json").json


def test_the_loss_and_the_statistics_are_those_of_the_training(onebit: Onebit, tmp_path: Path) -> None:
    """Label smoothing is of the training alone; the mean of several draws has no margins, so no hinge loss."""
    few = ["--epochs", "0.1", "--batch_size", "100", "--precision", "fp32"]
    for loss, smoothing, drawn in (("cross_entropy", "0.2", "cross_entropy"), ("squared_hinge", "0", "cross_entropy")):
        flags, folder = ["--loss", loss, "--label_smoothing", smoothing], tmp_path / loss
        trained = onebit("train", "digits-smoke", *SMALL, *few, *flags, "--out", folder, "--json").json
        found = onebit("evaluate", folder, "--json").json
        assert trained["test"]["binary"]["loss"] == pytest.approx(found["loss"], rel=1e-6)
        ensemble = onebit("evaluate", folder, "--weights", "ensemble:2", "--json").json
        assert [found["loss_name"], ensemble["loss_name"]] == [loss, drawn]
    stopped = onebit("evaluate", folder / "last.ckpt", "--json").json  # after few steps: statistics are not settled
    assert (found["bn"], stopped["bn"]) == ("trained", "reestimate")
    assert stopped["correct"] == found["correct"]


def test_weights_of_another_net_are_refused(onebit: Onebit, run_folder: Path, tmp_path: Path) -> None:
    save_file({"fc.weight": torch.ones(3, 3)}, tmp_path / "other.safetensors")
    assert "no recipe" in onebit("evaluate", tmp_path / "other.safetensors").line
    assert "another net" in onebit("evaluate", tmp_path / "other.safetensors", "--recipe", "digits-smoke").line
    (tmp_path / "recipe.yaml").write_text((run_folder / "recipe.yaml").read_text().replace("- 32", "- 16"))
    save_file(load_file(run_folder / "best.safetensors"), tmp_path / "best.safetensors")
    assert "linear1.weight" in onebit("evaluate", tmp_path).line


# -------------------------------------------------------------------------------------------------- data of one's own
NET = ["--model.widths", "[192,8,2]", "--epochs", "1", "--batch_size", "4", "--precision", "fp32", "--threads", "1"]
FOLDER = ["--dataset", "folder", "--input_size", "8", "--workers", "0", *NET]


def photos(root: Path, *classes: str, count: int = 10, side: int = 8) -> Path:
    """`count` pictures a class, the classes unlike."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(60 + 120 * label + rng.normal(0, 20, (side, side, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module", autouse=True)
def closed_off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEBIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures of cats and dogs, a run on them, and its packed net."""
    folder = tmp_path_factory.mktemp("own")
    photos(folder / "pets", "cat", "dog")
    assert main(["train", *FOLDER, "--data", str(folder / "pets"), "--out", str(folder / "run")]) == 0
    assert main(["pack", str(folder / "run"), "-o", str(folder / "net.1bit")]) == 0
    return folder


def test_a_run_remembers_its_folder(onebit: Onebit, trained: Path, tmp_path: Path) -> None:
    pets = trained / "pets"
    found = onebit("evaluate", trained / "run", "--json")
    assert f"folder from {pets}\n" in found.err
    assert (found.json["directory"], found.json["count"]) == (str(pets), 7)
    for words in (["run"], ["net.1bit", "--source", trained / "run"]):
        proof = onebit("verify", trained / words[0], *words[1:], "--json")
        assert proof.json["directory"] == str(pets)
    assert onebit("train", "--resume", trained / "run").status == 0
    # what is given away does not say where the pictures lie
    for path in ("net.1bit", "run/best.safetensors", "run/final.safetensors", "run/recipe.yaml"):
        assert b"pets" not in (trained / path).read_bytes()
    shutil.copytree(trained / "run", tmp_path / "run")
    (tmp_path / "run" / "data.json").write_text('{"directory": "/gone/pets"}')
    refused = onebit("evaluate", tmp_path / "run")
    assert (refused.status, "/gone/pets" in refused.line) == (2, True)
    assert onebit("evaluate", tmp_path / "run", "--data", pets).status == 0
    (tmp_path / "run" / "data.json").write_text("[")
    assert "--data" in onebit("evaluate", tmp_path / "run").line


def test_other_classes_are_refused(onebit: Onebit, trained: Path, tmp_path: Path) -> None:
    other = photos(tmp_path / "vehicles", "aeroplane", "boat")
    net, run = trained / "net.1bit", trained / "run"
    packing = ["pack", run, "-o", tmp_path / "net.1bit"]
    for command in (["evaluate", run], ["evaluate", net], ["verify", net], packing, ["train", "--resume", run]):
        refused = onebit(*command, "--data", other)
        assert (refused.status, "classes" in refused.line or command[0] == "train") == (2, True), command
    assert not (tmp_path / "net.1bit").exists()


def test_other_files_than_those_of_the_training_are_noted(onebit: Onebit, trained: Path, tmp_path: Path) -> None:
    says = "it may have seen their test images"
    for folder in ("pets", "run"):
        shutil.copytree(trained / folder, tmp_path / folder)
    run, where = tmp_path / "run", ["--data", tmp_path / "pets"]
    same, other = tmp_path / "same.1bit", tmp_path / "other.1bit"
    assert says not in onebit("pack", run, "-o", same, *where).err  # a copy of the folder is the same data
    shutil.copy(tmp_path / "pets" / "cat" / "0.png", tmp_path / "pets" / "cat" / "new.png")
    for verb in ("evaluate", "verify"):
        assert says in onebit(verb, run, *where, "--json").json["note"]
    assert says in onebit("pack", run, "-o", other, *where).err
    tests = [onebit("inspect", net, "--json").json["facts"]["card"]["test"] for net in (same, other)]
    assert ["packed" in test for test in tests] == [True, False]  # the card is about the training


def test_every_verb_reads_a_run_of_own_arrays(onebit: Onebit, tmp_path: Path) -> None:
    train, test = make_toy(80, 40)
    run, file, net = tmp_path / "run", tmp_path / "own.npz", tmp_path / "net.1bit"
    parts = {"train_images": train.images, "train_labels": train.labels}
    np.savez(file, **parts, test_images=test.images, test_labels=test.labels)
    data = Dataset.from_arrays((train.images, train.labels), (test.images, test.labels), validation=20, name="mine")
    trainer = Trainer("mlp", options={"widths": (64, 8, 4)}, epochs=1, batch_size=20, precision="fp32")
    trainer.fit(data, folder=run)
    assert onebit("evaluate", run).status == 2
    found = onebit("evaluate", run, "--data", file, "--split", "validation", "--json").json
    assert (found["dataset"], found["count"]) == ("mine", 20)
    assert onebit("pack", run, "--data", file, "-o", net).status == 0
    assert onebit("verify", net, "--data", file).status == 0
    assert onebit("evaluate", net, "--data", file, "--json").json["dataset"] == "mine"

    flags = [*NET, "--model.widths", "[64,8,4]", "--dataset", "arrays"]
    assert onebit("train", *flags, "--data", file, "--out", tmp_path / "second").status == 0
    assert onebit("evaluate", tmp_path / "second", "--json").json["directory"] == str(file)
    assert "--data" in onebit("train", *flags, "--out", tmp_path / "none").line
    assert not (tmp_path / "none").exists()


def test_broken_images_are_skipped_on_request(onebit: Onebit, tmp_path: Path) -> None:
    broken = photos(tmp_path / "images", "cat", "dog", count=8) / "cat" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    flags = [*FOLDER, "--data", tmp_path / "images", "--validation", "2", "--out", tmp_path / "run"]
    refused = onebit("train", *flags)
    assert (refused.status, str(broken) in refused.line) == (2, True)
    assert not (tmp_path / "run").exists()
    assert onebit("train", *flags, "--skip-broken").status == 0


def test_gray_files_agree_with_predict(onebit: Onebit, packed_file: Path, tmp_path: Path) -> None:
    digits = load_dataset("mnist-sample").test
    for i, (image, label) in enumerate(zip(digits.images[:60], digits.labels[:60], strict=True)):
        for part in ("train", "val"):
            path = tmp_path / "digits" / part / str(label) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(path)
    request = ("evaluate", packed_file, "--dataset", "folder", "--data", tmp_path / "digits")
    found = onebit(*request, "--json").json
    rows = onebit("predict", packed_file, tmp_path / "digits" / "val", "--json").json["predictions"]
    assert found["count"] == len(rows) == 60
    assert found["correct"] == sum(Path(row["file"]).parent.name == row["name"] for row in rows)
    Image.fromarray(np.eye(28, dtype=np.uint8)[..., np.newaxis] * np.uint8([255, 0, 0])).save(path)
    refused = onebit(*request)
    assert (refused.status, "gray" in refused.line) == (2, True)


@pytest.mark.nightly
def test_a_folder_like_imagenet_trains_and_packs(onebit: Onebit, tmp_path: Path) -> None:
    """From files to a certified net; ImageNet itself was not trained."""
    rng = np.random.default_rng(0)
    for part, label, i in product(("train", "val"), ("n01", "n02", "n03"), range(8)):
        path = tmp_path / "imagenet" / part / label / f"{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (70 + i, 90, 3), dtype=np.uint8)).save(path, "JPEG")
    where = ["--data", tmp_path / "imagenet"]
    small = ["--input_size", "64", "--model.width", "0.125", "--batch_size", "8", "--epochs", "1", "--workers", "0"]
    flags = ["--schedule.warmup", "0", "--threads", "1"]
    done = onebit("train", "imagenet-resnet18-bnn", *where, *small, *flags, "--out", tmp_path / "run", "--json")
    assert done.status == 0, done.err
    packed = onebit("pack", tmp_path / "run", "-o", tmp_path / "net.1bit", *where, "--json")
    assert packed.status == 0, packed.err
    assert packed.json["certificate"]["label_mismatches"] == 0
    found = onebit("predict", tmp_path / "net.1bit", tmp_path / "imagenet" / "val", "--json").json["predictions"]
    assert len(found) == 24
