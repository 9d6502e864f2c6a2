"""The command lines of BinaryNet.pytorch's users."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from onebit.cli.train_command import read_command, train_request, translated
from onebit.models import MODELS as OURS
from onebit.optim import OPTIMIZERS
from onebit.recipe import build_recipe, flag_text, read_settings, recipe_names, recipe_path
from onebit.recipe.translations.binarynet import FLAGS, MODELS, SHORT, TAKES_MOMENTUM
from support.command_line import CLASSIC, Onebit

EVERY = """
    --results_dir {results} --save try --dataset toy -a resnet_binary --input_size 8
    --model_config "{{'depth':20,'width':0.25,'num_classes':4}}" --type torch.FloatTensor --gpus 0 -j 1 --epochs 1
    --start-epoch 0 -b 256 --optimizer SGD --lr 0.05 --momentum 0.8 --weight-decay 1e-4 -p 3 --resume '' --evaluate ''
"""
MEANT = {
    "--results_dir r --save s": "--out r/s",
    "--save s": "--out results/s",
    "--results_dir r --dataset toy": "--dataset toy --out r/toy-mlp",
    "--results_dir r mnist-fast": "--out r/mnist-fast mnist-fast",
    "--dataset ./images": "--dataset folder --data images",
    "--dataset mine.npz": "--dataset arrays --data mine.npz",
    "-a resnet20": "--model resnet20",
    "--model alexnet": "--model alexnet --method real",
    "--model alexnet_binary": "--model alexnet --method bnn",
    "--model alexnet_binary --method ste": "--model alexnet --method ste",
    "-a vgg": "--model vgg_small --method real",
    "-a vgg_cifar10 --seed 3": "--model vgg_small --method real --seed 3",
    "--model=vgg_cifar100": "--model vgg_small --method real",
    "-a vgg_cifar10_binary": "--model vgg_small --method bnn",
    "-a vgg_cifar100_binary": "--model vgg_small --method bnn",
    "-a resnet --dataset cifar10": "--model resnet14 --dataset cifar10 --method real",
    "-a resnet_binary --dataset cifar10": "--model resnet14 --dataset cifar10 --model.width 5 --method bnn",
    "-a resnet_binary --dataset imagenet": "--model resnet50 --dataset imagenet --model.width null --method bnn",
    "--lr 1 --input-size 8": "--optimizer.lr 1 --input-size 8",
    """--model_config "{'width': 2}" """: "--model.width 2",
    """--model-config "{'input_size': 224, 'stem': None}" """: "--input_size 224 --model.stem null",
    """--model_config "{'width': 2}" --model.width 3""": "--model.width 3",
    "--model_config ''": "",
    "--type half": "--device auto --precision bf16",
    "--type torch.cuda.FloatTensor": "--device cuda --precision fp32",
    "--type torch.FloatTensor --gpus 3": "--device cpu --precision fp32",
    "--gpus 3": "--device cuda:3",
    "-j 2": "--workers 2",
    "-a resnet20 --batch-size 7 --workers=3 --epochs 4": "--model resnet20 --batch-size 7 --workers=3 --epochs 4",
    "-b=7": "--batch_size 7",
    "-b7 --resume r --start-epoch 1": "--batch_size 7 --resume r --start-epoch 1",
    "--optimizer SGD --momentum 0.9": "--optimizer sgd --optimizer.momentum 0.9",
    "--optimizer SGD --momentum 0": "--optimizer sgd --optimizer.momentum 0 --optimizer.nesterov false",
    "--optimizer Adam --momentum 0.9": "--optimizer adam",
    "--lr 0.1": "--optimizer.lr 0.1",
    "--learning-rate=0.1": "--optimizer.lr 0.1",
    "--lr 1 mnist-fast --optimizer.lr 2": "--optimizer.lr 2 mnist-fast",
    # as there, where nothing chooses an optimizer
    "--momentum 0.9": "--optimizer sgd --optimizer.momentum 0.9",
    "--wd 0.1": "--optimizer sgd --optimizer.weight_decay 0.1",
    "--weight-decay 0.1 --method real": "--optimizer sgd --optimizer.weight_decay 0.1 --method real",
    "--weight_decay 0.1 --method ste": "--optimizer.weight_decay 0.1 --method ste",
    "--momentum 0.9 mnist-fast": "--optimizer.momentum 0.9 mnist-fast",
    "-p 10": "--print-freq 10",
    "-p10 --resume ''": "--print-freq 10 --resume ''",
}
"""Their words after `onebit train` -> ours."""


def request(words: str) -> list[str]:
    """What `onebit train` goes on with."""
    meant = translated(shlex.split(words)) or ["train", *shlex.split(words)]
    assert meant[0] == "train"
    return meant[1:]


@pytest.mark.parametrize("theirs", MEANT)
def test_their_words_mean_ours(theirs: str) -> None:
    meant = translated(shlex.split(theirs))
    assert meant == ["train", *shlex.split(MEANT[theirs])]
    assert translated(meant[1:]) is None or "alexnet" in theirs or "optimizer" in theirs


def test_the_tables_name_every_flag_and_every_model() -> None:
    assert len(CLASSIC) == len(set(CLASSIC)) == 19
    assert set(FLAGS) - {"learning_rate", "wd"} <= set(CLASSIC)
    words = shlex.split(" ".join([*MEANT, "-e f"]).replace("=", " "))
    long = {re.split("[ =]", word)[0][2:].replace("-", "_") for word in words if word.startswith("--")}
    assert {*CLASSIC, *FLAGS} - {"evaluate", "print_freq"} <= long
    assert set(SHORT) <= {word[:2] for word in words}
    assert set(MODELS) <= set(words)
    assert all(flags["model.name"] in OURS for flags in MODELS.values())
    assert set(TAKES_MOMENTUM) == {
        name for name, kind in OPTIMIZERS.items() if "momentum" in inspect.signature(kind).parameters
    }


@settings(max_examples=8)
@given(st.data())
def test_our_own_flags_mean_what_they_say(data: st.DataObject) -> None:
    recipe = build_recipe(read_settings(recipe_path(data.draw(st.sampled_from(recipe_names())))))
    values = {name: value for name, value in recipe.values().items() if value not in MODELS and value != {}}
    names = data.draw(st.lists(st.sampled_from(sorted(values)), unique=True))
    words = [text for name in names for text in (f"--{name}", flag_text(values[name]))]
    assert translated([*data.draw(st.sampled_from([[], [recipe.name]])), *words]) is None


@pytest.mark.parametrize("words", ["-e f", "--evaluate f -b 64 -a resnet --lr 1", "-a vgg_cifar10_binary -e=f -p 3"])
def test_a_weight_file_is_evaluated(words: str) -> None:
    assert translated(shlex.split(words)) == ["evaluate", "f"]
    assert translated([*shlex.split(words), "--data", "d", "--json"]) == ["evaluate", "f", "--data", "d", "--json"]


@pytest.mark.parametrize(
    ("dataset", "depth", "model", "width"),
    [("cifar10", 20, "resnet20", 5), ("cifar10", 33, "resnet32", 5), ("imagenet", 34, "resnet34", None)],
)
def test_depth_is_counted_as_there(dataset: str, depth: int, model: str, width: float | None) -> None:
    words = f"-a resnet_binary --dataset {dataset} --model_config \"{{'depth': {depth}}}\""
    found = train_request(read_command(request(words))).model
    assert (found.name, found.width) == (model, width)


@pytest.mark.parametrize(
    ("words", "noun"),
    [
        ("-b", "-b"),
        ("-b many", "batch_size"),
        ("--momentum nan --optimizer SGD", "momentum"),
        ("-p 0", "print-freq"),
        ("--start-epoch 3", "start-epoch"),
        ("--optimizer Adamm", "did you mean 'adam"),
        ("--type torch.cuda.FlaotTensor", "tensor type"),
        ("--gpus 0,1", "0,1"),
        ("--model_config depth=18", "--model_config"),
        (f"--model_config {'{' * 5000}", "--model_config"),
        ("""--model_config "{'depht': 18}" """, "depht"),
        ("""--model_config "{'depth': 18}" """, "depth"),
        ("""-a resnet --model_config "{'depth': '19x'}" """, "19x"),
        ("""-a resnet --dataset cifar10 --model_config "{'depth': 101}" """, "101"),
    ],
)
def test_bad_values_are_one_line_and_leave_nothing(onebit: Onebit, tmp_path: Path, words: str, noun: str) -> None:
    dataset = [] if "--dataset" in words else ["--dataset", "toy"]
    refused = onebit("train", *dataset, "--out", tmp_path / "run", *shlex.split(words))
    assert (refused.status, refused.out) == (2, "")
    assert noun in refused.err.splitlines()[-1]
    assert "Traceback" not in refused.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("default:optimizer.weight_decay:UserWarning")
def test_every_classic_flag_trains_resumes_and_evaluates(onebit: Onebit, tmp_path: Path) -> None:
    words = shlex.split(EVERY.format(results=tmp_path))
    flags = {word for word in words if word.startswith("-")}
    assert {SHORT.get(flag, flag).lstrip("-").replace("-", "_").removesuffix(".name") for flag in flags} == {*CLASSIC}
    words, run = words[:-4], tmp_path / "try"
    done = onebit("train", *words, "--json")
    assert done.status == 0, done.err
    assert "note: onebit train --dataset toy --model resnet20 --optimizer sgd " in done.err
    assert "weight_decay" in done.err
    assert done.json["folder"] == str(run)
    assert re.findall(r"step (\d)/7: ", done.err) == re.findall(r"step (\d)/7: ", (run / "log.txt").read_text())
    assert re.findall(r"step (\d)/7: ", done.err) == ["3", "6", "7"]
    recipe = build_recipe(read_settings(run / "recipe.yaml"))
    assert (recipe.model.name, recipe.model.width) == ("resnet20", 0.25)
    assert recipe.model.weight_quantizer == recipe.model.input_quantizer == "ste_sign"
    optimizer = recipe.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.05, 0.8, 1e-4)
    assert (recipe.device, recipe.precision, recipe.workers) == ("cpu", "fp32", 1)
    assert (recipe.batch_size, recipe.epochs, recipe.input_size) == (256, 1, 8)

    again = onebit("train", "--resume", run, "--start-epoch", "1", "--json")
    assert again.status == 0
    evaluated = onebit("train", *words, "-e", run / "best.safetensors", "--json").json
    assert evaluated["correct"] == done.json["test"]["binary"]["correct"] == again.json["test"]["binary"]["correct"]
    assert (evaluated["split"], evaluated["weights"]) == ("test", "binary")


def test_a_folder_of_images_and_masks_is_a_segmentation_data_set(tmp_path: Path) -> None:
    for name in ("image", "label"):
        (tmp_path / "cells" / name).mkdir(parents=True)
    meant = translated(["--dataset", str(tmp_path / "cells"), "--model", "unet"])
    assert meant == ["train", "--dataset", "segmentation", "--model", "unet", "--data", str(tmp_path / "cells")]


def test_an_empty_resume_is_none() -> None:
    for words in (["toy.yaml", "--resume", ""], ["toy.yaml", "--resume="]):
        assert not read_command(words).resume
