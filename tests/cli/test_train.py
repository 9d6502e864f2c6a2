"""`onebit train`: help, the run folder, the answer, resuming, teachers, packed nets as a start, and refusals."""

from __future__ import annotations

import json
import re
import resource
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml

from onebit.data import load_dataset
from onebit.models import create_model
from onebit.packed import load
from onebit.recipe import build_recipe, flag_names, read_settings
from onebit.recipe.translations.binarynet import SHORT as SHORT_FLAGS
from onebit.train.weights import save_weights
from support.command_line import CLASSIC, SMALL, Onebit, Outcome

RUN_FILES = "recipe.yaml metrics.jsonl last.ckpt best.safetensors final.safetensors result.json log.txt"
SHORT = ["digits-smoke", *SMALL, "--epochs", "0.1"]


def train(onebit: Onebit, folder: Path, *flags: object) -> Outcome:
    return onebit("train", *SHORT, "--out", folder, "--json", *flags)


# --------------------------------------------------------------------------------------------------------------- help
@pytest.mark.parametrize("flags", [[], ["--out", "x"], ["--resume"], ["--json"], ["--overwrite"]])
def test_train_alone_says_what_to_type(onebit: Onebit, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onebit.cli.train_verb._train_all", None)
    done = onebit("train", *flags)
    assert (done.status, done.out) == (2, "")
    typed = [line.split("   ")[0].split() for line in done.err.splitlines() if line.startswith("  onebit ")]
    assert len(typed) >= 4
    for _, *words in typed if not flags else []:
        if "--resume" not in words and "--help" not in words:
            assert onebit(*words, "--print-config").status == 0


def test_help_shows_every_field_with_default_and_meaning(onebit: Onebit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = onebit("train", "--help").out.splitlines()
    assert max(map(len, lines)) <= 100
    for name in flag_names():
        flag = f"--{name}" if name == "name" else f"--{name.removesuffix('.name')}"
        [line] = [line for line in lines if re.match(rf"  {re.escape(flag)} \S", line)]
        assert re.match(r"  --\S+ \S+ +\w", line) or lines[lines.index(line) + 1].startswith(" " * 37), line
    text = "\n".join(lines)
    for option in ("--method", "--out", "--resume", "--seeds", "--data", "--print-config", "--json"):
        assert f"\n  {option}" in text
    assert "--optimizer.lr 0.001 " in text
    assert "docs/coming-from.md" in text


def test_help_of_a_recipe_shows_its_own_values(onebit: Onebit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = onebit("train", "cifar10-resnet20-real", "--epochs", "3", "--help").out
    assert "shown with its value in cifar10-resnet20-real" in text
    for flag in ("--epochs 3.0 ", "--optimizer sgd ", "--optimizer.lr 0.1 ", "--model resnet20 "):
        assert f"\n  {flag}" in text
    assert "\n  --model.weight_quantizer ste_sign " in onebit("train", "--model", "resnet_binary", "--help").out
    assert "\n  --optimizer bop " in onebit("train", "mnist-fast", "--method", "bop", "--help").out
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, onebit("train", "mnist-bayesbinn", "--help").out.splitlines())) <= 80  # which has long texts


# --------------------------------------------------------------------------------------------------------- run folders
def test_a_run_folder_holds_what_the_design_names(run_folder: Path, onebit: Onebit) -> None:
    assert {path.name for path in run_folder.iterdir()} == {*RUN_FILES.split()}
    rows = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"train_loss", "validation_error", "seconds", "lr", "flip_ratio", "saturation"} <= rows[0].keys()
    assert rows[0]["validation_weights"] == "binary"
    result = json.loads((run_folder / "result.json").read_text())
    assert result["test"].keys() == {"binary", "latent"}
    binary = result["test"]["binary"]
    assert (binary["count"], binary["accuracy"]) == (2000, binary["correct"] / 2000)
    assert binary["accuracy"] > 0.7
    stored = (run_folder / "recipe.yaml").read_text()
    assert build_recipe(read_settings(run_folder / "recipe.yaml")).to_yaml() == stored
    assert onebit("train", run_folder / "recipe.yaml", "--print-config").out.strip() == stored.strip()


def test_print_config_is_a_recipe_that_reads_no_files(onebit: Onebit, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(onebit("train", "digits-smoke", "--seed", "7", "--print-config").out)
    printed = build_recipe(read_settings(tmp_path / "config.yaml"))
    assert (printed.seed, printed.measured.startswith("Test accuracy")) == (7, True)
    # what was measured with the file does not hold for other settings
    assert onebit("train", "digits-smoke", "--epochs", "3", "--print-config", "--json").json["measured"] == ""
    assert onebit("train", "mnist-fast", "--teacher", "not-yet-trained", "--print-config").status == 0


def test_resuming_an_empty_folder_starts_afresh_and_a_warning_is_a_note(onebit: Onebit, tmp_path: Path) -> None:
    flags = ["--optimizer.latent_clip", "null", "--optimizer.lr", "1", "--method", "bnn"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        done = train(onebit, tmp_path / "run", *flags, "--resume")
    assert (done.status, done.json["folder"]) == (0, str(tmp_path / "run"))
    assert "starting afresh" in done.err
    assert "on cpu, 1 thread\n" in done.err
    (line,) = [line for line in done.err.splitlines() if "latents are beyond" in line]
    assert line.startswith("note: epoch 1")
    assert line in (tmp_path / "run" / "log.txt").read_text().splitlines()


def test_a_used_folder_is_resumed_with_its_own_recipe_only(onebit: Onebit, run_folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in run_folder.iterdir()}
    for flags, noun in (
        (["digits-smoke", *SMALL, "--out", run_folder], f"--resume {run_folder}"),
        (["digits-smoke", *SMALL, "--epochs", "5", "--resume", run_folder], "epochs"),
        (["digits-smoke", *SMALL, "--method", "bnn", "--resume", run_folder], "model.weight_quantizer"),
        (["digits-smoke", *SMALL, "--seeds", "0-1", "--out", run_folder], "--seeds"),
        (["digits-smoke", *SMALL, "--seeds", "0-1", "--out", run_folder, "--resume"], "--seeds"),
        (["--resume", run_folder, "--out", tmp_path / "other"], "several"),
    ):
        refused = onebit("train", *flags)
        assert (refused.status, noun in refused.line) == (2, True), flags
    for flags in (["--resume", run_folder / "last.ckpt"], ["--resume", "--out", run_folder]):
        assert onebit("train", *flags, "--json").json["folder"] == str(run_folder)
    unchanged = {path: path.read_bytes() for path in run_folder.iterdir() if path.name != "log.txt"}
    assert unchanged == {path: content for path, content in before.items() if path.name != "log.txt"}


def test_a_training_that_stops_early_says_why(onebit: Onebit, tmp_path: Path) -> None:
    toy = ["--dataset", "toy", "--model.widths", "64,4", "--schedule", "constant", "--threads", "1", "--epochs", "9"]
    done = onebit("train", *toy, "--lr", "1e-12", "--patience", "1", "--out", tmp_path / "patient")
    assert re.search(r"stopped after epoch 2; epoch 1,", done.out.splitlines()[-1])
    again = onebit("train", "--resume", tmp_path / "patient", "--json").json
    assert (again["last_epoch"], again["epochs"], again["chosen_epoch"]) == (2, 9, 1)
    flags = ["--method", "real", "--lr", "1e37", "--precision", "fp32", "--out", tmp_path / "real"]
    failed = onebit("train", *toy, *flags)
    assert (failed.status, "loss" in failed.line) == (2, True)
    assert failed.line.removeprefix("onebit: ") in (tmp_path / "real" / "log.txt").read_text()


def test_a_full_disk_is_one_line_and_loses_nothing(onebit: Onebit, tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: the checkpoint is the first file above it."""
    folder = tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        done = onebit("train", *SHORT, "--out", folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (done.status, "cannot write" in done.line) == (2, True)
    assert not list(folder.glob(".onebit-*"))
    assert (folder / "recipe.yaml").exists()


# ---------------------------------------------------------------------------------------------- teachers and starts
def test_a_run_resumes_with_its_teacher(onebit: Onebit, tmp_path: Path, real_folder: Path) -> None:
    losses = set()
    for teacher in (str(real_folder), "mnist-mlp"):
        folder = tmp_path / Path(teacher).name
        taught = train(onebit, folder, "--teacher", teacher, "--teacher_weight", "0.5").json
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        assert (recipe["teacher"], recipe["teacher_weight"]) == (teacher, 0.5)
        losses.add(taught["test"]["binary"]["loss"])
        assert onebit("train", "--resume", folder).status == 0
    assert len(losses) == 2


def test_a_teacher_has_the_pixels_and_the_classes_of_the_student(onebit: Onebit, tmp_path: Path) -> None:
    """Labels in another order would teach a wrong net."""
    train(onebit, tmp_path / "teacher", "--permutation", "1")
    taught = ["--teacher", tmp_path / "teacher"]
    assert train(onebit, tmp_path / "same", *taught, "--permutation", "1").status == 0
    assert "permutation" in train(onebit, tmp_path / "other", *taught).line
    assert "permutation" in train(onebit, tmp_path / "other", *taught, "--permutation", "2").line
    sample = load_dataset("mnist-sample").train
    arrays = {"train_images": sample.images[:600], "train_labels": 9 - sample.labels[:600]}
    arrays |= {"test_images": sample.images[:50], "test_labels": 9 - sample.labels[:50], "classes": [*"jihgfedcba"]}
    np.savez(tmp_path / "reversed.npz", **arrays)
    flags = ["--dataset", "arrays", "--data", tmp_path / "reversed.npz", "--validation", "100"]
    refused = train(onebit, tmp_path / "run", *flags, "--teacher", "mnist-mlp")
    assert (refused.status, "classes" in refused.line) == (2, True)
    assert not (tmp_path / "run").exists()


def test_a_training_goes_on_from_a_packed_net(onebit: Onebit, packed_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = train(onebit, folder, "--init_from", packed_file, "--optimizer.lr", "1e-9").json
    certificate = load(packed_file).certificate
    assert certificate is not None
    # without steps that matter the accuracy is that of the packed net, in statistics of BatchNorm of other images
    assert done["test"]["binary"]["correct"] == pytest.approx(certificate.correct, abs=20)
    assert str(packed_file) in (folder / "recipe.yaml").read_text()
    assert onebit("train", "digits-smoke", "--init_from", packed_file, "--out", tmp_path / "wide").status == 2
    resumed = onebit("train", folder / "recipe.yaml", "--resume", "--out", folder, "--json")
    assert resumed.json["test"] == done["test"]


EVERY = """
    --results_dir RESULTS --save try --dataset toy -a resnet_binary --input_size 8
    --model_config "{'depth':14,'width':0.25,'num_classes':4}" --type torch.FloatTensor --gpus 0 -j 1 --epochs 1
    --start-epoch 0 -b 256 --optimizer SGD --lr 0.05 --momentum 0.8 --weight-decay 1e-4 -p 3 --resume '' --evaluate ''
"""
"""Every flag of BinaryNet.pytorch."""


@pytest.mark.filterwarnings("default:optimizer.weight_decay:UserWarning")
def test_every_classic_flag_trains_resumes_and_evaluates(onebit: Onebit, tmp_path: Path) -> None:
    words = shlex.split(EVERY.replace("RESULTS", str(tmp_path)))
    flags = [SHORT_FLAGS.get(word, word).lstrip("-").replace("-", "_") for word in words if word.startswith("-")]
    assert {flag.removesuffix(".name") for flag in flags} == {*CLASSIC}
    words, folder = words[:-4], tmp_path / "try"
    done = onebit("train", *words, "--json")
    assert done.status == 0, done.err
    assert "note: onebit train --dataset toy --model resnet14 --optimizer sgd " in done.err
    assert "weight_decay" in done.err
    assert done.json["folder"] == str(folder)
    for text in (done.err, (folder / "log.txt").read_text()):
        assert re.findall(r"step (\d)/7: ", text) == ["3", "6", "7"]
    recipe = build_recipe(read_settings(folder / "recipe.yaml"))
    assert (recipe.model.name, recipe.model.width) == ("resnet14", 0.25)
    assert recipe.model.weight_quantizer == recipe.model.input_quantizer == "ste_sign"
    optimizer = recipe.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.05, 0.8, 1e-4)
    assert (recipe.device, recipe.precision, recipe.workers) == ("cpu", "fp32", 1)
    assert (recipe.batch_size, recipe.epochs, recipe.input_size) == (256, 1, 8)
    again = onebit("train", "--resume", folder, "--start-epoch", "1", "--json").json
    evaluated = onebit("train", *words, "-e", folder / "best.safetensors", "--json").json
    assert evaluated["correct"] == done.json["test"]["binary"]["correct"] == again["test"]["binary"]["correct"]


# ------------------------------------------------------------------------------------ refused before the data are read
REFUSED = """
nowhere.yaml
digits-smoke --batch_size 8000 --seeds 0-2
digits-smoke --model.weight_quantizer sgn
digits-smoke --model mpl
digits-smoke --optimizer adamm
digits-smoke --loss squared
--method bayes --dataset toy
digits-smoke --validation 8000
mnist-fast --epochs 0.0001
mnist-fast --model.widths [100,10]
mnist-fast --model.widths [784,5]
mnist-fast --input_size 14
mnist-fast --model vgg16 --model.widths null --input_size 8
mnist-fast --model unet --model.widths null
mnist-fast --model.stem cifar
mnist-fast --model.weight_quantizer ste_sign --model.value 0.5
mnist-fast --method bayesbinn --model.weight_options.temprature 1
mnist-fast --method bayesbinn --model.weight_options.temperature 0
mnist-fast --method bayesbinn --optimizer adam
mnist-fast --method ste --optimizer bop --model.weight_quantizer xnor
mnist-fast --optimizer.momentum 0.9
mnist-fast --optimizer.nesterov true
mnist-fast --method bayesbinn --optimizer.prior true
mnist-fast --optimizer.prior true
mnist-fast --schedule exponential --schedule.final_lr 0
mnist-fast --schedule.warmup 20
mnist-fast --device cuda:77
mnist-fast --label_smoothing 0.1 --loss hinge
mnist-fast --augmentation.crop_padding 2 --augmentation.min_area 0.5
mnist-fast --augmentation.rotate
mnist-fast --init_from nowhere.safetensors
mnist-fast --teacher=
mnist-fast --first_stage 1 --method real
mnist-fast --first_stage 1 --method bop
mnist-fast --continual.tasks 2 --continual.against [nothing]
mnist-fast --continual.tasks 2 --first_stage 1
--dataset folder --model resnet20 --model.widths [1,2]
--dataset imagenet --model resnet18 --model.stem middle
--dataset folder --model vgg16 --input_size 8
mnist-permuted --continual.against ["stee"]
mnist-permuted --continual.own ../a
mnist-permuted --continual.against ["bayesbinn"]
mnist-permuted --continual.against ["bop","react"] --model.dropout 0.5
mnist-permuted --augmentation.flip true
mnist-permuted --permutation 3
mnist-permuted --teacher nowhere
--dataset toy --model lenet
--dataset toy --model resnet20 --model.stem cifar
--dataset toy --model resnet20 --batch_size 5000
--dataset toy --model vgg_cifar10_binray
digits-smoke --method bnn --teacher resnet20-cifar10
digits-smoke --method bnn --teacher mnist-mlp --permutation 1
digits-smoke --method bnn --teacher mnist-mlp --whitening zca --augmentation.crop_padding 0
digits-smoke --method bnn --teacher mnist-mlp --label_smoothing 0.1
digits-smoke --method bnn --teacher ./mnist-mlp
--dataset toy --method ste --continual.tasks 2 --optimizer.data_scale 5
--dataset toy --method bayesbinn --init_from x --optimizer.latent_init 3
--dataset toy --optimizer.prox_freeze 0.5
--dataset toy --method real --model.weight_options {foo:1}
mnist-fast --init_from SMALL
--dataset cifar10 --teacher REAL
"""
"""Words after `onebit train`; SMALL is a weight file of another net, REAL a run of another data set."""


@pytest.mark.parametrize("words", REFUSED.strip().splitlines())
def test_wrong_recipes_are_refused_before_the_data_are_read(
    onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, request: pytest.FixtureRequest
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("the data were read")

    if "SMALL" in words:
        small = tmp_path.with_suffix(".safetensors")
        save_weights(small, create_model("mlp", widths=(784, 8, 10), weight_quantizer="sign"), {})
        words = words.replace("SMALL", str(small))
    if "REAL" in words:
        words = words.replace("REAL", str(request.getfixturevalue("real_folder")))
    monkeypatch.setattr("onebit.runs.opening.load_dataset", read)
    refused = onebit("train", *words.split(), "--out", tmp_path / "run")
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.splitlines()[-1].startswith("onebit: ")
    assert not any(wrong in refused.err for wrong in ("Traceback", "the data were read"))
    assert not list(tmp_path.iterdir())
