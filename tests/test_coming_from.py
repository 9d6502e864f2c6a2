"""What docs/coming-from.md promises to people with habits."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import nullcontext
from functools import reduce
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch

import onebit
from onebit.__main__ import main
from onebit.cli.train_command import read_command, train_request, translated
from onebit.data import DATASETS
from onebit.layers import binary_layers
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import Recipe, build_recipe, flag_names, merge
from onebit.runs.model import build_model

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
BINARYNET, CONNECT, BAYES, JSON, RESNET, LARQ = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
SECTIONS = {"binarynet": BINARYNET, "binaryconnect": CONNECT, "bayesbinn": BAYES, "json": JSON, "resnet": RESNET}
ADAM = "--method real --optimizer adam --optimizer.lr"
STE = "mnist-ste --optimizer.lr 1e-4 --optimizer.clip_grad_value null"
RESNET_REAL = (
    "cifar10-resnet20-real --optimizer.lr 0.01 --optimizer.decay_norm true --batch_size 32 "
    "--augmentation.padding_mode zero --augmentation.cutout 0 --augmentation.first_size null"
)
RESNET_BINARY = (
    "cifar10-resnet20-binaryconnect --optimizer sgd --optimizer.momentum 0.9 --optimizer.nesterov true "
    "--optimizer.weight_decay 1e-3 --optimizer.decay_latents true --optimizer.decay_norm true --label_smoothing 0.1 "
    "--batch_size 32 --model.last_norm false --augmentation.padding_mode zero --augmentation.first_size null "
    "--epochs 150 --schedule.warmup 5"
)
BINARY_WEIGHTS = {
    "--model resnet_binary --save resnet18_binary --dataset cifar10": 4_267_760,
    "-a vgg_cifar10_binary --dataset cifar10 -b 256 --epochs 100 -j 4 --results_dir results --save vgg": 14_022_016,
    "--model alexnet_binary --dataset cifar10 --epochs 100": 28_702_400,
    "-a alexnet --dataset cifar100 --optimizer SGD --lr 0.05 --momentum 0.9 --wd 5e-4": 0,
    "--model vgg_cifar10_binary --dataset cifar10 --loss hinge": 14_022_016,
    "mnist-bnn": 10_014_720,
    "mnist-bnn-wide": 80_314_368,
    "mnist-binaryconnect-stochastic": 10_014_720,
    "mnist-binaryconnect": 10_014_720,
    "mnist-real": 0,
    "mnist-real --model.norm_momentum 0.1 --name mnist-standard": 0,
    "cifar10-binaryconnect-stochastic": 14_022_016,
    "cifar10-binaryconnect": 14_022_016,
    "mnist-bayesbinn": 10_014_720,
    "cifar10-bayesbinn": 14_022_016,
    "cifar100-bayesbinn": 14_114_176,
    "mnist-ste": 10_014_720,
    STE: 10_014_720,
    f"mnist-bayesbinn {ADAM} 1e-4": 0,
    "mnist-permuted": 89_400,
    "cifar10-resnet20-real": 0,
    RESNET_REAL: 0,
    RESNET_BINARY: 268_336,
    "cifar10-resnet20-binaryconnect": 268_336,
    "cifar10-resnet20-binaryconnect-two-stage": 268_336,
    "examples/mnist_bayesbinn.json": 10_014_720,
    "examples/cifar10_ste.json wandb_on": 14_022_016,
    "examples/mnist_continual.json --task permuted-mnist": 89_400,
}
"""Command, without `onebit train` -> the binary weights of the net that it trains."""
_BAYES_MLP: dict[str, Any] = {
    "name": "mlp", "widths": [784, 2048, 2048, 2048, 10], "dropout": 0.2, "input_dropout": 0.2, "norm_eps": 1e-4,
    "norm_momentum": 0.15, "norm_affine": False, "init": "default", "coding": "standardize",
}  # fmt: skip
_BAYES_VGG: dict[str, Any] = {
    "name": "vgg_small", "norm_momentum": 0.2, "dense_norm_momentum": 0.1, "norm_affine": False, "init": "default",
    "coding": "standardize",
}  # fmt: skip
_BAYES = {"schedule": {"name": "cosine", "final_lr": 1e-16}, "loss": "cross_entropy", "epochs": 500}
_BAYES_MNIST = _BAYES | {"dataset": "mnist", "validation": 6000, "batch_size": 100}
_BAYES_CIFAR = _BAYES | {"validation": 5000, "batch_size": 50, "augmentation": {"crop_padding": 4, "flip": True}}
_NO_WEIGHTS = {"weight_quantizer": None, "input_quantizer": None}
_SGD = {"name": "sgd", "lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3, "decay_norm": True}
_RESNET = {
    "dataset": "cifar10", "validation": 0, "loss": "cross_entropy", "label_smoothing": 0.1, "epochs": 150,
    "batch_size": 32, "schedule": {"name": "cosine", "warmup": 5, "final_lr": 0},
    "augmentation": {"crop_padding": 4, "flip": True, "padding_mode": "zero"},
}  # fmt: skip
WHAT_SCRIPTS_DO: dict[str, dict[str, Any]] = {
    # BinaryNet.pytorch 80f6d46, main_mnist.py
    "mnist-bnn-wide": {
        "dataset": "mnist", "validation": 0, "loss": "cross_entropy", "epochs": 100, "batch_size": 64,
        "model": {
            "name": "mlp", "widths": [784, 6144, 6144, 6144, 10], "weight_quantizer": "ste_sign",
            "input_quantizer": "ste_sign", "activation": "hardtanh", "real_last": True, "last_norm": False,
            "norm_eps": 1e-5, "norm_momentum": 0.1, "init": "default", "coding": "standardize",
        },
        "optimizer": {"name": "adam", "lr": 0.01, "latent_clip": 1.0},
        "schedule": {"name": "milestones", "milestones": [40, 80], "gamma": 0.1},
    },
    # BayesBiNN 67e0c6f, main_mnist.py, main_cifar10.py and main_cifar100.py without flags, then with --optim
    "mnist-bayesbinn": _BAYES_MNIST | {
        "model": _BAYES_MLP | {"weight_quantizer": "concrete_sign", "weight_options": {"temperature": 1e-10}},
        "optimizer": {"name": "bayesbinn", "lr": 1e-4, "latent_init": 10, "latent_clip": None},
    },
    "cifar10-bayesbinn": _BAYES_CIFAR | {
        "dataset": "cifar10",
        "model": _BAYES_VGG | {"weight_quantizer": "concrete_sign", "weight_options": {"temperature": 1e-10}},
        "optimizer": {"name": "bayesbinn", "lr": 3e-4, "latent_init": 10, "data_scale": 10, "latent_clip": None},
    },
    "cifar100-bayesbinn": _BAYES_CIFAR | {
        "dataset": "cifar100",
        "model": _BAYES_VGG | {"weight_quantizer": "concrete_sign", "weight_options": {"temperature": 1e-8}},
        "optimizer": {"name": "bayesbinn", "lr": 3e-4, "latent_init": 10, "data_scale": 10, "latent_clip": None},
    },
    STE: _BAYES_MNIST | {
        "model": _BAYES_MLP | {"weight_quantizer": "sign"},
        "optimizer": {"name": "adam", "lr": 1e-4, "latent_clip": 1.0},
    },
    f"mnist-bayesbinn {ADAM} 1e-4": _BAYES_MNIST | {
        "model": _BAYES_MLP | _NO_WEIGHTS, "optimizer": {"name": "adam", "lr": 1e-4, "latent_clip": None},
    },
    f"cifar10-bayesbinn {ADAM} 3e-4": _BAYES_CIFAR | {
        "dataset": "cifar10",
        "model": _BAYES_VGG | _NO_WEIGHTS, "optimizer": {"name": "adam", "lr": 3e-4, "latent_clip": None},
    },
    # BayesBiNN 67e0c6f, main_permute_mnist_CL.py; STE is our addition
    "mnist-permuted": _BAYES | {
        "dataset": "mnist", "validation": 0, "batch_size": 100, "epochs": 100, "draws": 100,
        "model": _BAYES_MLP | {
            "widths": [784, 100, 100, 10], "dropout": None, "input_dropout": None,
            "weight_quantizer": "concrete_sign", "weight_options": {"temperature": 1e-2},
        },
        "optimizer": {"name": "bayesbinn", "lr": 1e-3, "latent_init": 10, "latent_clip": None, "lagged_mean": True},
        "continual": {"tasks": 5, "prior": True, "against": ["ste"]},
    },
    # imt_efficient_deep_learning e9deeca, antonio/main.py and antonio/scripts/main_binary.py
    RESNET_REAL: _RESNET | {
        "model": _NO_WEIGHTS | {"name": "resnet20", "init": "default", "coding": "standardize"}, "optimizer": _SGD,
    },
    RESNET_BINARY: _RESNET | {
        "model": {
            "name": "resnet20", "weight_quantizer": "sign", "last_norm": False, "init": "default",
            "coding": "standardize",
        },
        "optimizer": _SGD | {"decay_latents": True, "latent_clip": 1.0},
    },
}  # fmt: skip
"""Command, without `onebit train` -> what the script does, as read there; what is not said is nothing."""
DAILY = [pytest.param(name, marks=[pytest.mark.nightly][: name != "binaryconnect"]) for name in SECTIONS]


def rows(section: str) -> list[list[str]]:
    """The cells of every row of every table."""
    lines = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def said_flags(cell: str) -> list[str]:
    return [flag for code in re.findall(r"`([^`]+)`", cell) for flag in re.findall(r"(?<![\w-])--?[\w][\w.-]*", code)]


def test_every_flag_that_is_called_ours_is_there() -> None:
    known = {*flag_names(), "model", "optimizer", "schedule", "method", "resume"}
    flags = [flag for cells in rows(TEXT) for flag in said_flags(cells[1])]
    assert len(flags) > 20
    for flag in flags:
        name = flag.removeprefix("--").removesuffix(".temperature")  # an argument of a quantizer
        assert name in known or flag == "-o", flag


def test_every_name_beside_one_of_larq_is_there() -> None:
    cells = " ".join(cells[1] for cells in rows(LARQ))
    names = re.findall(r"`onebit\.([\w.]+)", cells)
    assert len(names) > 5
    for name in names:
        assert callable(reduce(getattr, name.split("."), onebit)), name
    arguments = {"weight_quantizer", "input_quantizer", "padding_value"}
    assert arguments == set(re.findall(r"`(\w+)=", cells)) <= {*signature(onebit.BinaryConv2d).parameters}
    theirs = " ".join(cells[0] for cells in rows(LARQ) if cells[1] == "the same names")
    inputs = re.findall(r"`(\w+)`", theirs) + re.findall(r"`(uint\d)`", cells)
    assert {"ste_sign", "uint2"} <= set(inputs) <= {*INPUT_QUANTIZERS}
    assert "`magnitude_aware`" in cells
    assert "magnitude_aware" in WEIGHT_QUANTIZERS


def commands(section: str) -> list[str]:
    """The commands in the blocks of a section, in their order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    return [" ".join(line.partition("#")[0].split()) for line in lines]


def test_every_command_is_of_a_section_that_is_run() -> None:
    said = re.findall(r"^onebit .*$", TEXT, re.MULTILINE)
    assert len(said) == sum(len(commands(section)) for section in SECTIONS.values()) > 15


@pytest.mark.parametrize("line", BINARY_WEIGHTS)
def test_the_commands_ask_for_the_net_that_they_say(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert binary_weights(asked(line)) == BINARY_WEIGHTS[line]


@pytest.mark.parametrize("line", WHAT_SCRIPTS_DO)
def test_a_command_has_every_setting_of_its_script(line: str) -> None:
    recipe = asked(line)
    without_effect = {"augmentation.growing", "optimizer.latent_clip" * (recipe.model.weight_quantizer is None)}
    if recipe.optimizer.latent_clip == "value":
        recipe = build_recipe(merge(recipe.settings(), {"optimizer": {"latent_clip": recipe.model.value}}))
    told = {"name": recipe.name, "summary": recipe.summary, "reference": recipe.reference, "measured": recipe.measured}
    differs = recipe.changed_from(build_recipe(merge(WHAT_SCRIPTS_DO[line], told)))
    assert [change for change in differs if change[0] not in without_effect] == []


@pytest.mark.filterwarnings("ignore:.*keep their initial values")  # BatchNorm of the logits, which a real net lacks
@pytest.mark.parametrize("section", DAILY)
def test_the_commands_train(
    section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each as typed, one after the other; then on small images with a thin net, for part of an epoch."""

    def onebit(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return main([*words]), *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("onebit.runs.run.tracking", lambda *_, **__: nullcontext([]))  # wandb takes seconds to start
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for line in commands(SECTIONS[section]):
        words = shlex.split(line)[1:]
        count = BINARY_WEIGHTS.get(line.removeprefix("onebit train "))
        if words[0] != "train" or "-e" in words or "--print-config" in words:
            # of a net that has hardly been trained, verify says that its accuracy proves nothing
            assert onebit(*words)[0] in ((0, 1) if words[0] == "verify" else (0,)), line
            continue
        recipe = asked(shlex.join(words[1:]))
        assert binary_weights(recipe) == count, line
        status, out, err = onebit(*words, *smaller(recipe), "--json")
        assert status == 0, (line, err)
        results = [json.loads(path.read_text()) for path in Path(json.loads(out)["folder"]).rglob("result.json")]
        counts = [result["binary_weights"] for result in results if "binary_weights" in result]
        assert {bool(trained) for trained in counts} == {bool(count)}, line


def asked(line: str) -> Recipe:
    """The recipe of a command, without `onebit train`."""
    words = translated(shlex.split(line)) or ["train", *shlex.split(line)]
    return train_request(read_command(words[1:]))


def binary_weights(recipe: Recipe) -> int:
    entry = DATASETS[recipe.dataset]
    assert entry.input_shape is not None
    assert entry.classes is not None
    with torch.device("meta"):
        model = build_model(recipe.model, input_shape=entry.input_shape, classes=len(entry.classes))
    return sum(layer.weight.numel() for _, layer in binary_layers(model))


def smaller(recipe: Recipe) -> list[str]:
    """Flags that make a training take less than a second."""
    flags = ["--dataset", "toy", "--epochs", "0.1", "--schedule.warmup", "0", "--validation", "64", "--threads", "1"]
    if recipe.schedule.milestones:
        flags += ["--schedule.milestones", "[0.05]"]
    if recipe.continual.tasks:
        flags += ["--continual.tasks", "2"]
    if recipe.model.name == "mlp":
        return [*flags, "--model.widths", "[64,8,4]"]
    flags += ["--augmentation.first_size", "null", "--augmentation.cutout", "0"]
    return [*flags, "--model.width", "0.02", *(["--input_size", "16"] if recipe.model.name == "alexnet" else [])]
