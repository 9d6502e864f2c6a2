"""Data of one's own, as folders and as arrays: a run remembers where they lay, and other data are refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onebit import Dataset, Trainer
from onebit.data import load_dataset, make_toy
from support.command_line import Onebit

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
    from onebit.__main__ import main

    folder = tmp_path_factory.mktemp("own")
    photos(folder / "pets", "cat", "dog")
    assert main(["train", *FOLDER, "--data", str(folder / "pets"), "--out", str(folder / "run")]) == 0
    assert main(["pack", str(folder / "run"), "-o", str(folder / "net.1bit")]) == 0
    return folder


def test_a_run_remembers_its_folder(onebit: Onebit, trained: Path) -> None:
    done = onebit("evaluate", trained / "run")
    assert done.status == 0
    assert f"folder from {trained / 'pets'}\n" in done.err
    found = onebit("evaluate", trained / "run", "--json").json
    assert (found["directory"], found["count"]) == (str(trained / "pets"), 7)
    proof = onebit("verify", trained / "run")
    assert f"folder from {trained / 'pets'}\n" in proof.err
    proof = onebit("verify", trained / "net.1bit", "--source", trained / "run", "--json")
    assert proof.json["directory"] == str(trained / "pets")
    assert onebit("train", "--resume", trained / "run").status == 0
    # what is given away does not say where the pictures lie
    for path in ("net.1bit", "run/best.safetensors", "run/final.safetensors", "run/recipe.yaml"):
        assert b"pets" not in (trained / path).read_bytes()


def test_a_folder_that_has_gone_is_named(onebit: Onebit, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    (tmp_path / "run" / "data.json").write_text('{"directory": "/gone/pets"}')
    refused = onebit("evaluate", tmp_path / "run")
    assert refused.status == 2
    assert "/gone/pets" in refused.line
    assert onebit("evaluate", tmp_path / "run", "--data", trained / "pets").status == 0
    (tmp_path / "run" / "data.json").write_text("[")
    assert "--data" in onebit("evaluate", tmp_path / "run").line


def test_other_classes_are_refused(onebit: Onebit, trained: Path, tmp_path: Path) -> None:
    other = photos(tmp_path / "vehicles", "aeroplane", "boat")
    net, run = trained / "net.1bit", trained / "run"
    for command in (
        ["evaluate", run],
        ["evaluate", net],
        ["verify", net],
        ["pack", run, "-o", tmp_path / "net.1bit"],
    ):
        refused = onebit(*command, "--data", other)
        assert (refused.status, "classes cat, dog" in refused.line) == (2, True), command
    assert not (tmp_path / "net.1bit").exists()
    assert onebit("train", "--resume", run, "--data", other).status == 2


def test_every_verb_reads_a_run_of_own_arrays(onebit: Onebit, tmp_path: Path) -> None:
    train, test = make_toy(80, 40)
    run, file = tmp_path / "run", tmp_path / "own.npz"
    parts = {"train_images": train.images, "train_labels": train.labels}
    np.savez(file, **parts, test_images=test.images, test_labels=test.labels)
    data = Dataset.from_arrays((train.images, train.labels), (test.images, test.labels), validation=20, name="mine")
    trainer = Trainer("mlp", options={"widths": (64, 8, 4)}, epochs=1, batch_size=20, precision="fp32")
    trainer.fit(data, folder=run)
    assert onebit("evaluate", run).status == 2
    found = onebit("evaluate", run, "--data", file, "--split", "validation", "--json").json
    assert (found["dataset"], found["count"]) == ("mine", 20)
    assert onebit("pack", run, "--data", file, "-o", tmp_path / "net.1bit").status == 0
    assert onebit("verify", tmp_path / "net.1bit", "--data", file).status == 0
    assert onebit("evaluate", tmp_path / "net.1bit", "--data", file, "--json").json["dataset"] == "mine"

    flags = [*NET, "--model.widths", "[64,8,4]", "--dataset", "arrays"]
    assert onebit("train", *flags, "--data", file, "--out", tmp_path / "second").status == 0
    assert onebit("evaluate", tmp_path / "second", "--json").json["directory"] == str(file)
    assert "--data" in onebit("train", *flags, "--out", tmp_path / "none").line
    assert not (tmp_path / "none").exists()


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


def test_other_files_than_those_of_the_training_are_noted(onebit: Onebit, trained: Path, tmp_path: Path) -> None:
    says = "it may have seen their test images"
    for folder in ("pets", "run"):
        shutil.copytree(trained / folder, tmp_path / folder)
    run, where = tmp_path / "run", ["--data", tmp_path / "pets"]
    assert says not in onebit("evaluate", run, *where).err  # a copy of the folder is the same data
    assert says not in onebit("pack", run, "-o", tmp_path / "same.1bit", *where).err
    shutil.copy(tmp_path / "pets" / "cat" / "0.png", tmp_path / "pets" / "cat" / "new.png")
    for verb in ("evaluate", "verify"):
        assert says in onebit(verb, run, *where, "--json").json["note"]
    packed = onebit("pack", run, "-o", tmp_path / "net.1bit", *where)
    assert packed.status == 0
    assert says in packed.err
    tests = [
        onebit("inspect", tmp_path / f"{name}.1bit", "--json").json["facts"]["card"]["test"] for name in ("same", "net")
    ]
    assert ["packed" in test for test in tests] == [True, False]  # the card is about the training


def test_evaluation_of_gray_files_agrees_with_predict(onebit: Onebit, packed_file: Path, tmp_path: Path) -> None:
    digits = load_dataset("mnist-sample").test
    for i, (image, label) in enumerate(zip(digits.images[:60], digits.labels[:60], strict=True)):
        for part in ("train", "val"):
            path = tmp_path / "digits" / part / str(label) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0]).save(path)
    request = ("evaluate", packed_file, "--dataset", "folder", "--data", tmp_path / "digits")
    done = onebit(*request, "--json")
    assert done.status == 0, done.err
    rows = onebit("predict", packed_file, tmp_path / "digits" / "val", "--json").json["predictions"]
    assert done.json["count"] == len(rows) == 60
    assert done.json["correct"] == sum(Path(row["file"]).parent.name == row["name"] for row in rows)
    Image.fromarray(np.eye(28, dtype=np.uint8)[..., np.newaxis] * np.uint8([255, 0, 0])).save(path)
    refused = onebit(*request)
    assert refused.status == 2
    assert "takes gray images" in refused.err.splitlines()[-1]
