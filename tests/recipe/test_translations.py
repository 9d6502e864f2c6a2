"""Command lines of BinaryNet.pytorch's users, and the JSON files of BayesBiNN's reproduction."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from onebit.cli.train_command import read_command, train_request, translated
from onebit.errors import UsageError
from onebit.models import MODELS as OURS
from onebit.optim import OPTIMIZERS
from onebit.recipe import Recipe, build_recipe, flag_text, read_settings, recipe_names, recipe_path
from onebit.recipe.translations.binarynet import FLAGS, MODELS, SHORT, TAKES_MOMENTUM
from onebit.recipe.translations.json_config import ARCHITECTURES, flags_of, read_config
from support.command_line import CLASSIC

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


def request(words: str) -> Recipe:
    """What `onebit train` trains."""
    meant = translated(shlex.split(words)) or ["train", *shlex.split(words)]
    assert meant[0] == "train"
    return train_request(read_command(meant[1:]))


def shipped(name: str) -> Recipe:
    return build_recipe(read_settings(recipe_path(name)))


# ------------------------------------------------------------------------------------------------- BinaryNet.pytorch
def test_their_words_mean_ours() -> None:
    for theirs, ours in MEANT.items():
        meant = translated(shlex.split(theirs))
        assert meant == ["train", *shlex.split(ours)]
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
    recipe = shipped(data.draw(st.sampled_from(recipe_names())))
    values = {name: value for name, value in recipe.values().items() if value not in MODELS and value != {}}
    names = data.draw(st.lists(st.sampled_from(sorted(values)), unique=True))
    words = [text for name in names for text in (f"--{name}", flag_text(values[name]))]
    assert translated([*data.draw(st.sampled_from([[], [recipe.name]])), *words]) is None


def test_a_weight_file_is_evaluated() -> None:
    for words in ("-e f", "--evaluate f -b 64 -a resnet --lr 1", "-a vgg_cifar10_binary -e=f -p 3"):
        assert translated(shlex.split(words)) == ["evaluate", "f"]
        assert translated([*shlex.split(words), "--data", "d", "--json"]) == ["evaluate", "f", "--data", "d", "--json"]
    for words in (["toy.yaml", "--resume", ""], ["toy.yaml", "--resume="]):
        assert not read_command(words).resume


def test_depth_is_counted_as_there() -> None:
    for dataset, depth, model, width in (
        ("cifar10", 20, "resnet20", 5),
        ("cifar10", 33, "resnet32", 5),
        ("imagenet", 34, "resnet34", None),
    ):
        found = request(f"-a resnet_binary --dataset {dataset} --model_config \"{{'depth': {depth}}}\"").model
        assert (found.name, found.width) == (model, width)


@pytest.mark.parametrize(
    ("words", "noun"),
    [
        ("-b", "-b"),
        ("-b many", "batch_size"),
        ("--momentum nan --optimizer SGD", "momentum"),
        ("-p 0", "print-freq"),
        ("--start-epoch 3", "start-epoch"),
        ("--type torch.cuda.FlaotTensor", "tensor type"),
        ("--model_config depth=18", "--model_config"),
        (f"--model_config {'{' * 5000}", "--model_config"),
        ("""--model_config "{'depht': 18}" """, "depht"),
        ("""--model_config "{'depth': 18}" """, "depth"),
        ("""-a resnet --dataset cifar10 --model_config "{'depth': 101}" """, "101"),
    ],
)
def test_bad_values_are_refused(words: str, noun: str) -> None:
    with pytest.raises(UsageError, match=noun):
        request(words if "--dataset" in words else f"--dataset toy {words}")


def test_a_folder_of_images_and_masks_is_a_segmentation_data_set(tmp_path: Path) -> None:
    for name in ("image", "label"):
        (tmp_path / "cells" / name).mkdir(parents=True)
    meant = translated(["--dataset", str(tmp_path / "cells"), "--model", "unet"])
    assert meant == ["train", "--dataset", "segmentation", "--model", "unet", "--data", str(tmp_path / "cells")]


# ----------------------------------------------------------------------------------------------------------- JSON files
EXAMPLES = Path(__file__).parents[2] / "examples"
MNIST = json.loads((EXAMPLES / "mnist_bayesbinn.json").read_text())
CIFAR = json.loads((EXAMPLES / "cifar10_ste.json").read_text())
Config = Callable[..., Recipe]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The recipe of a file with these keys; None takes a key away."""

    def ask(base: dict[str, Any], flags: str = "", **changed: Any) -> Recipe:
        path = tmp_path / "config.json"
        path.write_text(json.dumps({key: value for key, value in {**base, **changed}.items() if value is not None}))
        return request(f"{path} {flags}")

    return ask


def test_the_files_are_the_recipes(config: Config) -> None:
    changes = request(str(EXAMPLES / "mnist_bayesbinn.json")).changed_from(shipped("mnist-bayesbinn"))
    assert {name: here for name, _, here in changes} == {
        "draws": 0,
        "optimizer.real_lr": 1e-3,  # of the method: that net has no real parameters
    }
    bayes = {"weight_clip_value": None, "grad_clip_value": None, "mc_steps": 1, "lr_init": 3e-4}
    # the reproduction's file for CIFAR-100 has 1e-10; the authors' script, logs and table 9 have 1e-8
    for data, classes, temperature in (("cifar10", 10, 1e-10), ("cifar100", 100, 1e-8)):
        keys = {"dataset": data, "output_shape": classes}
        assert config(CIFAR, **keys).changed_from(shipped(f"{data}-ste")) == []
        published = shipped(f"{data}-bayesbinn")
        assert published.model.weight_options == {"temperature": temperature}
        assert published.optimizer.data_scale == 10  # augmented images
        left_open = config(CIFAR, **bayes, **keys)
        assert {name for name, _, _ in left_open.changed_from(published)} == {"draws", "optimizer.real_lr"}
        given = config(CIFAR, **bayes | keys | {"temperature": 1e-9, "mc_steps": 3, "evaluate_steps": 20})
        assert given.model.weight_options == {"temperature": 1e-9}
        assert (given.optimizer.samples, given.draws) == (3, 20)


def test_every_architecture_and_clipping(config: Config) -> None:
    names = ("BinaryConnect", "VGGBinaryConnect", "LRNetSmall", "LRNetBig")
    for architecture, model in zip(names, ARCHITECTURES.values(), strict=True):
        found = config(CIFAR, model_architecture=architecture).model
        assert (found.name, found.dense_norm_momentum) == (model, None if model == "mlp" else 0.1)
        assert getattr(found, "widths", None) == ((3072, 2048, 2048, 2048, 10) if model == "mlp" else None)
    # BayesBiNN clips no gradients, as its reproduction does not
    assert config(MNIST, grad_clip_value=1).optimizer.clip_grad_value is None
    assert config(CIFAR, grad_clip_value=2).optimizer.clip_grad_value == 2


def test_flags_and_the_method_that_is_asked_for_win(config: Config) -> None:
    assert config(MNIST, "--method real").model.weight_quantizer is None
    ste = config(MNIST, "--method ste", mc_steps=None, temperature=None, evaluate_steps=None).optimizer
    assert (ste.name, ste.lr) == ("adam", 1e-4)
    assert config(MNIST, "--method bayesbinn", weight_clip_value=1).optimizer.latent_clip is None
    recipe = config(MNIST, "--epochs 3 --optimizer.samples 2", drop_prob=None)
    assert (recipe.epochs, recipe.optimizer.samples, recipe.model.dropout) == (3, 2, 0)


def test_a_continual_file_takes_the_smaller_net_and_needs_its_task() -> None:
    path = EXAMPLES / "mnist_continual.json"
    changes = request(f"{path} --task permuted-mnist").changed_from(shipped("mnist-permuted"))
    zero = {"model.dropout": 0.0, "model.input_dropout": 0.0, "continual.own": "bayesbinn"}
    assert {name: here for name, _, here in changes} == zero
    with pytest.raises(UsageError, match="--task permuted-mnist"):
        request(str(path))
    plain = request(f"{path} --task image")
    assert (plain.continual.tasks, plain.model.widths) == (0, (784, 2048, 2048, 2048, 10))


@pytest.mark.parametrize(
    ("changed", "noun"),
    [
        ({"lr_inti": 1}, "lr_inti"),
        ({"lr_init": None}, "lr_init"),
        ({"model_architecture": "BinaryConect"}, "model_architecture"),
        ({"weight_clip_value": 1}, "--method"),
        ({"mc_steps": None, "temperature": None}, "--method"),
        *(
            ({key: value}, key)
            for key in ("epochs", "lr_init", "lr_scheduler", "batch_affine", "drop_prob")
            for value in ("neither", [1], float("nan"), -1)
        ),
    ],
)
def test_a_bad_file_is_refused_by_its_key(changed: dict[str, Any], noun: str) -> None:
    keys = {key: value for key, value in {**MNIST, **changed}.items() if value is not None}
    with pytest.raises(UsageError, match=noun):
        flags_of(keys, source="c.json")


def test_wandb_on_is_a_word_of_its_own() -> None:
    for words in (["wandb_on"], ["--epochs", "3", "wandb_on"], ["--out", "X", "wandb_on", "--seed=3"]):
        meant = translated([str(EXAMPLES / "mnist_bayesbinn.json"), *words])
        assert meant is not None
        assert read_command(meant[1:]).trackers == ("wandb",)
    assert translated(["mnist-fast", "--name", "wandb_on"]) is None


def test_a_recipe_in_json_stays_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_bytes(b"\xef\xbb\xbf" + b'{\n\t"dataset": "toy",\n\t"epochs": 3,\t"batch_size": 64}')
    assert read_config(path) is None
    assert read_settings(path) == {"dataset": "toy", "epochs": 3, "batch_size": 64}
    for text in ('{"lr_init": 1,', "[" * 90_000):
        path.write_text(text)
        with pytest.raises(UsageError, match="line 1"):
            read_config(path)
