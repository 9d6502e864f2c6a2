"""The flags of BinaryNet.pytorch, as its users type them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_support import Outcome
from PIL import Image

from onebit.cli.train_command import read_command, train_request
from onebit.errors import UsageError
from onebit.optim import OPTIMIZERS, takes
from onebit.recipe.translations.binarynet import CLASSIC, FLAGS, OTHER_NAMES, SAME, SHORT, TAKES_MOMENTUM
from onebit.runs.plain_state import save_plain
from onebit.runs.results_table import write_results
from onebit.runs.run import open_run

Onebit = Callable[..., Outcome]
REAL = ("--method", "real")  # whose weights decay
CIFAR = ("--dataset", "cifar10", "--model_config")
pytestmark = pytest.mark.filterwarnings("default:optimizer.weight_decay:UserWarning")  # of scripts that name it
EVERY = """
    --results_dir {results} --save try --dataset toy -a resnet_binary --input_size 8
    --model_config {{'depth':20,'width':0.25,'num_classes':4}} --type torch.FloatTensor --gpus 0 -j 1 --epochs 1
    --start-epoch 0 -b 256 --optimizer SGD --lr 0.05 --momentum 0.8 --weight-decay 1e-4 -p 3
"""


def config(onebit: Onebit, *arguments: object) -> dict:
    done = onebit("train", *arguments, "--print-config", "--json")
    assert done.status == 0, done.err
    return done.json


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def test_every_classic_flag_trains_resumes_and_evaluates(onebit: Onebit, results: Path) -> None:
    words = EVERY.format(results=results).split()
    assert {word for word in words if word.startswith("-")} | {"--resume", "-e"} == {
        *(f"--{name}" for name in ("results_dir", "save", "dataset", "input_size", "model_config", "type", "gpus")),
        *(f"--{name}" for name in ("epochs", "start-epoch", "optimizer", "lr", "momentum", "weight-decay", "resume")),
        *("-a", "-j", "-b", "-p", "-e"),
    }
    done = onebit("train", *words, "--json")
    assert done.status == 0, done.err
    assert "note: optimizer.weight_decay 0.0001 has no effect: all weights are binary" in done.err
    assert done.json["folder"] == str(results / "try")
    number = r"[\d.e+-]+ \([\d.e+-]+\)"
    line = rf"Epoch: \[1\]\[(\d)/7\]  Time {number}  Loss {number}  Prec@1 {number}  Prec@5 {number}\n"
    assert re.findall(line, done.err) == re.findall(line, (results / "try" / "log.txt").read_text()) == ["3", "6", "7"]
    with (results / "try" / "results.csv").open() as table:
        (row,) = csv.DictReader(table)
    epoch = json.loads((results / "try" / "metrics.jsonl").read_text())
    assert list(row) == [
        "epoch",
        *(f"{part}_{what}" for what in ("loss", "error1", "error5") for part in ("train", "val")),
    ]
    assert (row["epoch"], float(row["val_loss"])) == ("1", epoch["validation_loss"])
    assert float(row["train_error1"]) == 100 * epoch["train_error"] > float(row["train_error5"]) == 0
    assert float(row["val_error1"]) == 100 * epoch["validation_error"] > float(row["val_error5"]) == 0
    recipe = config(onebit, results / "try" / "recipe.yaml")
    assert (recipe["model"]["name"], recipe["model"]["width"]) == ("resnet20", 0.25)
    assert recipe["model"]["weight_quantizer"] == recipe["model"]["input_quantizer"] == "ste_sign"
    settings = {key: recipe["optimizer"][key] for key in ("name", "lr", "momentum", "weight_decay")}
    assert settings == {"name": "sgd", "lr": 0.05, "momentum": 0.8, "weight_decay": 1e-4}
    assert (recipe["device"], recipe["precision"], recipe["workers"]) == ("cpu", "fp32", 1)
    assert (recipe["batch_size"], recipe["epochs"], recipe["input_size"]) == (256, 1, 8)

    again = onebit("train", "--resume", results / "try", "--start-epoch", "1", "--json")
    assert again.status == 0
    evaluated = onebit("train", *words[:-2], "-e", results / "try" / "best.safetensors", "--json")
    assert (
        evaluated.json["correct"] == done.json["test"]["binary"]["correct"] == again.json["test"]["binary"]["correct"]
    )
    assert (evaluated.json["split"], evaluated.json["weights"]) == ("test", "binary")


@pytest.mark.parametrize(
    ("classic", "ours"),
    [
        (["--learning_rate", "0.5"], ["--optimizer.lr", "0.5"]),
        (["--learning-rate=0.5"], ["--optimizer.lr", "0.5"]),
        (["--wd", "0.1", *REAL], ["--optimizer", "sgd", "--optimizer.weight_decay", "0.1", *REAL]),
        (["--weight_decay", "0.1", *REAL], ["--optimizer", "sgd", "--optimizer.weight_decay", "0.1", *REAL]),
        (["--batch_size", "7"], ["-b7"]),
        (["--model", "resnet"], ["-a", "resnet"]),
        (["--workers=2"], ["-j", "2"]),
        (["--input-size", "32"], ["--input_size", "32"]),
        (["--model-config", "{'width': 2}"], ["--model.width", "2"]),
        (["--model_config", "{'input_size': 224, 'stem': None}"], ["--input_size", "224"]),
        (["--model_config", ""], []),
        (["--type", "half"], ["--precision", "bf16", "--device", "auto"]),
        (["--type", "torch.cuda.FloatTensor"], ["--device", "cuda", "--precision", "fp32"]),
        (["--gpus", "3"], ["--device", "cuda:3"]),
        (["--gpus", "3", "--type", "torch.FloatTensor"], ["--device", "cpu", "--precision", "fp32"]),
        (["--optimizer", "Adam", "--momentum", "0.9"], ["--optimizer", "adam"]),
        (["--optimizer", "ASGD", "--lr", "0.1"], ["--optimizer", "asgd", "--optimizer.lr", "0.1"]),
        (["--optimizer", "SGD", "--momentum", "0"], ["--optimizer", "sgd", "--momentum", "0.0"]),
        (["--start-epoch", "0"], []),
        (["--print_freq", "10"], []),
    ],
)
def test_classic_flags_mean_ours(onebit: Onebit, classic: list[str], ours: list[str]) -> None:
    base = ["--dataset", "cifar10"]
    assert config(onebit, *base, *classic) == config(onebit, *base, *ours)


def test_a_data_set_is_named_by_its_path_too(onebit: Onebit, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(12):
            image = np.full((8, 8, 3), 10 * i + 100 * (name == "b"), np.uint8)
            Image.fromarray(image).save(tmp_path / "pictures" / name / f"{i}.png")
    flags = ["-a", "vgg", "--model.width", "0.02", "-b", "4", "--input_size", "8", "--epochs", "1", "-j", "0"]
    flags += ["--validation", "4", "--threads", "1"]
    done = onebit("train", "--dataset", tmp_path / "pictures", *flags, "--out", tmp_path / "run", "--json")
    assert done.status == 0, done.err
    assert done.json["dataset"] == "folder"
    assert sum(part["count"] for part in done.json["test"].values()) > 0
    resumed = onebit("train", "--resume", tmp_path / "run", "--json")
    assert resumed.json["test"] == done.json["test"]
    both = onebit("train", "--dataset", tmp_path / "pictures", "--data", tmp_path)
    assert f"--data {tmp_path} and --dataset {tmp_path / 'pictures'}: leave one of them out" in both.line
    (tmp_path / "cells" / "image").mkdir(parents=True)
    (tmp_path / "cells" / "label").mkdir()
    assert config(onebit, "--dataset", tmp_path / "cells", "--model", "unet")["dataset"] == "segmentation"
    assert config(onebit, "--dataset", "mine.npz")["dataset"] == "arrays"


def test_only_a_classic_command_writes_their_table(onebit: Onebit, tmp_path: Path) -> None:
    short = ["--dataset", "toy", "--threads", "1"]
    assert onebit("train", *short, "--epochs", "0.1", "--out", tmp_path / "ours").status == 0
    assert not (tmp_path / "ours" / "results.csv").exists()
    folder = tmp_path / "theirs"
    assert onebit("train", *short, "--epochs", "2", "--results_dir", tmp_path, "--save", "theirs").status == 0
    before = (folder / "results.csv").read_text()
    assert len(before.splitlines()) == 3
    (folder / "results.csv").write_text("")
    rows = (folder / "metrics.jsonl").read_text()
    write_results(folder)
    assert ((folder / "results.csv").read_text(), (folder / "metrics.jsonl").read_text()) == (before, rows)


def test_an_empty_resume_is_none(onebit: Onebit, tmp_path: Path) -> None:
    short = ["--dataset", "toy", "--epochs", "0.1", "--threads", "1", "--out", tmp_path / "run"]
    done = onebit("train", *short, "--resume", "")
    assert done.status == 0
    assert "starting afresh" not in done.err
    assert "holds a run already" in onebit("train", *short, "--resume=").line


def test_one_gpu_on_a_machine_without_is_one_line(onebit: Onebit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused = onebit("train", "--dataset", "toy", "--gpus", "99")
    assert refused.status == 2
    assert refused.line


def test_no_workers_means_none(onebit: Onebit) -> None:
    assert config(onebit, "--dataset", "folder", "--input_size", "32", "-j", "0")["workers"] == 0


def test_classic_flags_lie_over_a_recipe_too(onebit: Onebit) -> None:
    recipe = config(onebit, "digits-smoke", "-b", "500", "--lr", "0.5", "--seed", "4")
    assert (recipe["batch_size"], recipe["optimizer"]["lr"], recipe["seed"], recipe["epochs"]) == (500, 0.5, 4, 2)


def test_a_packed_net_is_evaluated_too(onebit: Onebit, packed_file: Path) -> None:
    assert onebit("train", "-e", packed_file, "--json").json == onebit("evaluate", packed_file, "--json").json


def test_depth_is_counted_as_there(onebit: Onebit) -> None:
    def net(*arguments: str) -> tuple[str, float | None]:
        model = config(onebit, *arguments)["model"]
        return model["name"], model["width"]

    cifar = ["--dataset", "cifar10", "--model_config"]
    assert net("-a", "resnet_binary", *cifar, "{'depth': 18}") == ("resnet14", 5.0)
    assert net("-a", "resnet_binary", *cifar, "{}") == ("resnet14", 5.0)
    assert net("-a", "resnet", *cifar, "{'depth': 56}") == ("resnet56", None)
    imagenet = ["-a", "resnet_binary", "--dataset", "imagenet"]
    for depth in (18, 34, 50):
        assert net(*imagenet, "--model_config", f"{{'depth': {depth}}}") == (f"resnet{depth}", None)
    assert net(*imagenet) == ("resnet50", None)
    deep = onebit("train", *imagenet, "--model_config", "{'depth': 152}").line
    assert "--model_config: depth of a resnet of ImageNet must be one of 18, 34, 50, got 152" in deep


def test_the_run_folder_is_results_dir_and_save() -> None:
    assert read_command(["-b", "4"]).flags.folder is None
    both = read_command(["--results_dir", "a", "--save", "b"]).flags
    assert (both.folder, both.named) == (Path("a/b"), True)
    assert read_command(["--save", "b"]).flags.folder == Path("results/b")
    alone = read_command(["--results_dir", "a"]).flags
    assert (alone.folder, alone.named) == (Path("a"), False)


def test_flags_that_are_not_classic_are_settings_and_win() -> None:
    command = read_command(["--lr", "1", "mnist-fast", "--optimizer.lr", "0.1", "--seed", "3", "--name=-b"])
    assert (command.recipe, command.flags.used) == ("mnist-fast", True)
    assert command.flags.settings == {"optimizer.lr": "0.1", "seed": "3", "name": "-b"}
    for unknown in ("-x", "--nope"):
        with pytest.raises(UsageError, match=f"unknown option {unknown}"):
            read_command(["mnist-fast", unknown])


def test_momentum_is_that_of_optimizers_that_have_one() -> None:
    assert set(TAKES_MOMENTUM) == {name for name, kind in OPTIMIZERS.items() if takes(kind, "momentum")}


def test_the_table_names_every_flag_once() -> None:
    assert {name.removesuffix(".name").replace("model.", "") for name in SHORT.values()} <= set(CLASSIC)
    assert set(OTHER_NAMES.values()) <= set(CLASSIC)
    assert {*FLAGS.values(), *SAME} == set(CLASSIC)
    assert len(CLASSIC) == 19


def test_what_is_understood_in_another_way_is_said(onebit: Onebit, tmp_path: Path) -> None:
    flags = ["--optimizer", "Adam", "--momentum", "0.9", "--type", "torch.HalfTensor", "--epochs", "0.1"]
    done = onebit("train", "--dataset", "toy", *flags, "--out", tmp_path / "run")
    assert done.status == 0
    assert "note: --momentum is not used: adam has none" in done.err
    assert "note: --type torch.HalfTensor: trained in bf16" in done.err


def test_a_bare_state_dict_is_evaluated_as_the_flags_say(onebit: Onebit, results: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.pth"
    save_plain(open_run(results / "try").model, plain)
    flags = ["--dataset", "toy", "-a", "resnet_binary", "--model_config", "{'depth':20,'width':0.25}"]
    done = onebit("train", *flags, "-e", plain, "--json")
    run = onebit("evaluate", results / "try", "--json")
    assert done.json["correct"] == run.json["correct"]
    other = onebit("train", "--dataset", "toy", "-a", "resnet_binary", "-e", results / "try")
    assert "holds a resnet20, --model says resnet14" in other.line
    assert "no such run folder or file" in onebit("train", "-e", tmp_path / "none.pth").line


WRONG = """-b
-b many
--lr fast
--lr -1
-p 0
-p often
--momentum nan
--momentum 1 --optimizer SGD
--start-epoch 3
--start-epoch -1
--optimizer Adamm
--model resnet_bin
--type torch.cuda.FlaotTensor
--gpus=0,2
--gpus all
--gpus 0,
--dataset ./gone
--dataset gone/images
--model_config {'depht':18}
--model_config depth=18
--model_config [18]
--model_config __import__('os')
--model_config {'depth':18}
--model_config {'depth':'18'}
-a resnet --dataset cifar10 --model_config {'depth':26}
-a resnet --dataset cifar10 --model_config {'depth':101}
--model_config {'num_classes':7}
--model_config {'width':'wide'}
--save b"""


@pytest.mark.parametrize("words", [*WRONG.splitlines(), "--model_config " + "{" * 5000])
def test_bad_values_are_one_line_and_leave_nothing(onebit: Onebit, tmp_path: Path, words: str) -> None:
    dataset = [] if "--dataset" in words else ["--dataset", "toy"]
    refused = onebit("train", *dataset, "--out", tmp_path / "run", *words.split())
    assert (refused.status, refused.out) == (2, "")
    assert "Traceback" not in refused.err
    assert list(tmp_path.iterdir()) == []


def test_several_gpus_are_a_command_of_torchrun(onebit: Onebit) -> None:
    refused = onebit("train", "--dataset", "toy", "-b", "64", "--gpus", "0,1", "--save", "my run")
    command = "CUDA_VISIBLE_DEVICES=0,1 torchrun --nproc-per-node 2 -m onebit train --dataset toy -b 64 --save 'my run'"
    assert refused.line.endswith(command)


def test_start_epoch_must_be_that_of_the_checkpoint(onebit: Onebit, results: Path) -> None:
    refused = onebit("train", "--resume", results / "try", "--start-epoch", "5")
    assert refused.status == 2
    note, line = refused.err.splitlines()
    assert note.startswith("onebit: note: optimizer.weight_decay 0.0001 has no effect")
    assert "has a checkpoint of epoch 1; leave the flag out" in line


def test_a_flag_without_its_value_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a value"):
        read_command(["--model_config"])


@pytest.mark.parametrize(
    ("flags", "optimizer", "noted"),
    [
        ("--lr 0.1 --momentum 0.9", ("sgd", 0.1, 0.9, 0.0), "--momentum"),
        ("--lr 0.1 --wd 5e-4", ("sgd", 0.1, 0.0, 5e-4), "--weight_decay"),
        ("--dataset cifar10 --model resnet20 --method bnn --momentum 0.8", ("sgd", 0.1, 0.8, 0.0), "--momentum"),
        ("-a alexnet --dataset cifar100 --momentum 0.8", ("sgd", 0.05, 0.8, 5e-4), None),  # which is SGD without it
        ("--lr 0.1", ("adam", 0.1, 0.0, 0.0), None),
        ("--momentum 0.9 --optimizer adam", ("adam", 0.001, 0.0, 0.0), None),
        ("--momentum 0.9 --optimizer RMSprop", ("rmsprop", 0.001, 0.9, 0.0), None),
        ("--optimizer.weight_decay 0.1", ("adam", 0.001, 0.0, 0.1), None),
        # a method or a recipe chooses its optimizer on purpose
        ("--method ste --momentum 0.9", ("adam", 0.01, 0.0, 0.0), None),
        ("--method bop --momentum 0.9", ("bop", 0.001, 0.0, 0.0), None),
        ("mnist-fast --momentum 0.9", ("adam", 0.02, 0.0, 0.0), None),
        ("cifar10-resnet20-real --momentum 0.8 --wd 1e-4", ("sgd", 0.1, 0.8, 1e-4), None),
    ],
)
def test_momentum_and_weight_decay_mean_sgd_where_nothing_chooses_an_optimizer(
    flags: str, optimizer: tuple[object, ...], noted: str | None
) -> None:
    asked = train_request(read_command(flags.split()))
    found = asked.recipe.optimizer
    assert (found.name, found.lr, found.momentum, found.weight_decay) == optimizer
    meaning = "trains with SGD, as in the scripts that this flag comes from; --optimizer adam keeps Adam"
    assert asked.notes == (() if noted is None else (f"{noted} without --optimizer {meaning}",))
