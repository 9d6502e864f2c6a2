"""The flags of BinaryNet.pytorch's `main_binary.py`, said in ours (docs/coming-from.md)."""

from __future__ import annotations

import dataclasses
import json
import shlex
from ast import literal_eval as read_literal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onebit.common.tables import did_you_mean, resolve
from onebit.errors import UsageError
from onebit.recipe import ModelRecipe, Recipe

CLASSIC = {
    "results_dir": "--out RESULTS_DIR/SAVE",
    "save": "--out RESULTS_DIR/SAVE",
    "dataset": "--dataset",
    "model": "--model",
    "input_size": "--input_size",
    "model_config": "--model and --model.FIELD",
    "type": "--device and --precision",
    "gpus": "--device",
    "workers": "--workers",
    "epochs": "--epochs",
    "start_epoch": "compared with the checkpoint of --resume",
    "batch_size": "--batch_size",
    "optimizer": "--optimizer",
    "lr": "--optimizer.lr",
    "momentum": "--optimizer.momentum",
    "weight_decay": "--optimizer.weight_decay",
    "print_freq": "a line with loss and precision every so many steps",
    "resume": "--resume",
    "evaluate": "onebit evaluate FILE",
}
"""Classic flag -> what it means here. Dashes and underscores are the same."""
SAME = ("dataset", "model", "input_size", "epochs", "batch_size", "optimizer", "workers")
"""Classic flags that are fields of a recipe under the same name."""
SHORT = {"-a": "model", "-b": "batch_size", "-e": "evaluate", "-j": "workers", "-p": "print_freq"}
OTHER_NAMES = {"learning_rate": "lr", "wd": "weight_decay"}
TYPES = {
    "torch.FloatTensor": ("cpu", "fp32"),
    "torch.cuda.FloatTensor": ("cuda", "fp32"),
    "torch.HalfTensor": ("cpu", "bf16"),
    "torch.cuda.HalfTensor": ("cuda", "bf16"),
    "torch.BFloat16Tensor": ("cpu", "bf16"),
    "torch.cuda.BFloat16Tensor": ("cuda", "bf16"),
    "float": ("auto", "fp32"),
    "half": ("auto", "bf16"),
}
"""Tensor type -> (device, precision)."""
TAKES_MOMENTUM = ("sgd", "rmsprop", "bayesbinn")
CIFAR_RESNETS = ("resnet", "resnet_binary")
"""Names whose `depth` is counted as that repository does: (depth − 2) / 6 blocks a stage, rounded down."""

IMAGENET_DEPTHS = (18, 34, 50)
"""Depths of these names on ImageNet."""
IMAGENET_DEPTH = 50
"""Of them, where no depth is said."""


@dataclass(frozen=True)
class Classic:
    """A command line without classic flags.

    Args:
        rest: what was no classic flag, in its order.
        flags: recipe flags that the classic ones stand for.
        model: model asked for.
        folder: RESULTS_DIR/SAVE; without a SAVE the name of the recipe is still to be added.
        named: whether `folder` is complete.
        momentum: for an optimizer that takes one.
        of_sgd: those flags among --momentum and --weight_decay that were given.
        classes: number of classes that the data set must have.
        start_epoch: number of epochs that a resumed training must have done.
        print_freq: steps between two lines of progress.
        evaluate: file to evaluate instead of a training.
        spoken: whether a flag was said as that repository has it: the run then has its table, too.
        data: path of the data set, where `--dataset` gives one.
        notes: what was understood in another way than it was said, whatever the recipe.
    """

    rest: tuple[str, ...]
    flags: tuple[str, ...]
    model: str | None = None
    folder: Path | None = None
    named: bool = False
    momentum: float | None = None
    of_sgd: tuple[str, ...] = ()
    classes: int | None = None
    start_epoch: int | None = None
    print_freq: int | None = None
    evaluate: str | None = None
    data: str | None = None
    spoken: bool = False
    notes: tuple[str, ...] = ()

    def with_momentum(self, recipe: Recipe) -> Recipe:
        """The recipe with the momentum that was asked for, where its optimizer takes one."""
        if self.momentum is None or recipe.optimizer.name not in TAKES_MOMENTUM:
            return recipe
        nesterov = recipe.optimizer.nesterov and self.momentum > 0
        optimizer = dataclasses.replace(recipe.optimizer, momentum=self.momentum, nesterov=nesterov)
        return dataclasses.replace(recipe, optimizer=optimizer)

    def notes_on(self, recipe: Recipe) -> list[str]:
        """What was understood in another way than it was said."""
        ignored = self.momentum is not None and recipe.optimizer.name not in TAKES_MOMENTUM
        return [
            *self.notes,
            *([f"--momentum is not used: {recipe.optimizer.name} has none; --optimizer sgd has"] if ignored else []),
        ]

    def run_folder(self, recipe: Recipe) -> Path | None:
        """The run folder that `--results_dir` and `--save` name."""
        return self.folder if self.named or self.folder is None else self.folder / recipe.name


def translate(argv: Sequence[str], *, typed: Sequence[str] = ()) -> Classic:
    """Take the classic flags out of a command line.

    Args:
        typed: all words after `onebit train`, for a message that says what to type instead.

    Raises:
        UsageError: a value is missing or cannot be understood.
    """
    said, rest = _taken(argv)
    flags: list[str] = []
    notes: list[str] = []
    config, classes = _model_config(said)
    said |= {name: str(config.pop(name)) for name in ("dataset", "input_size") if name in config}
    spoken = bool(said.keys() - set(SAME)) or any(word[:2] in SHORT for word in argv)
    data = _data_path(said)
    if "optimizer" in said:
        said["optimizer"] = said["optimizer"].lower()  # torch's own names are capitalised: SGD, Adam
    for name in SAME:
        if name in said:
            flags += [f"--{name}", said[name]]
    if said.get("model") in CIFAR_RESNETS and said.get("dataset") == "imagenet":
        config.setdefault("depth", IMAGENET_DEPTH)
    if "depth" in config:
        flags += _resnet(said, config.pop("depth"))
    for name, value in config.items():
        flags += [f"--model.{name}", value if isinstance(value, str) else json.dumps(value, default=str)]
    if "lr" in said:
        flags += ["--optimizer.lr", said["lr"]]
    if "weight_decay" in said:
        flags += ["--optimizer.weight_decay", said["weight_decay"]]
    flags += _device(said, notes, typed)
    folder = None
    if "results_dir" in said or said.get("save"):
        folder = Path(said.get("results_dir", "results")) / said.get("save", "")
    momentum = _number(said, "momentum", float)
    return Classic(
        tuple(rest),
        tuple(flags),
        model=said.get("model"),
        folder=folder,
        named=bool(said.get("save")),
        momentum=momentum,
        of_sgd=tuple(f"--{name}" for name in ("momentum", "weight_decay") if name in said),
        classes=classes,
        start_epoch=_number(said, "start_epoch", int),
        print_freq=_number(said, "print_freq", int, least=1),
        evaluate=said.get("evaluate"),
        data=data,
        spoken=spoken,
        notes=tuple(notes),
    )


def _taken(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(classic flag -> its value, everything else); of a flag that stands twice the last one counts."""
    said: dict[str, str] = {}
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name, value = _read(word)
        if name is None:
            rest.append(word)
            continue
        value = next(words, None) if value is None else value
        if value is None:
            raise UsageError(f"{word} needs a value")
        said[name] = value
    return said, rest


def _read(word: str) -> tuple[str | None, str | None]:
    """(classic flag, its value where it is attached) of one word; (None, None) of any other."""
    if word[:2] in SHORT:
        return SHORT[word[:2]], word[2:].removeprefix("=") or None
    flag, equals, value = word.partition("=")
    name = flag[2:].replace("-", "_")
    name = OTHER_NAMES.get(name, name)
    if not flag.startswith("--") or name not in CLASSIC:
        return None, None
    return name, value if equals else None


def _number(said: dict[str, str], name: str, kind: type, *, least: int = 0) -> Any:
    if name not in said:
        return None
    try:
        value = kind(said[name])
    except ValueError:
        raise UsageError(f"--{name}: expected {kind.__name__}, got {said[name]}") from None
    if not value >= least:
        raise UsageError(f"--{name} must be {least} or more, got {said[name]}")
    return value


def _model_config(said: dict[str, str]) -> tuple[dict[str, Any], int | None]:
    """(settings of --model_config, its number of classes)."""
    text = said.get("model_config") or "{}"
    try:
        config = read_literal(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise UsageError(f"--model_config must be a Python dictionary such as \"{{'depth': 18}}\", got {text[:200]!r}")
    fields = [item.name for item in dataclasses.fields(ModelRecipe) if item.name != "name"]
    known = ["depth", "input_size", "dataset", "num_classes", *fields]
    for name in config:
        if name not in known:
            raise UsageError(f"--model_config: unknown key {name!r}{did_you_mean(str(name), known)}")
    classes = config.pop("num_classes", None)
    for name, value in (("num_classes", classes), ("depth", config.get("depth"))):
        if value is not None and type(value) is not int:
            raise UsageError(f"--model_config: {name} must be a whole number, got {value!r}")
    return {name: value for name, value in config.items() if value is not None or name in fields}, classes


def _resnet(said: dict[str, str], depth: int) -> list[str]:
    """The model of that depth."""
    if said.get("model") not in CIFAR_RESNETS:
        raise UsageError(
            f"--model_config: depth belongs to --model {' and '.join(CIFAR_RESNETS)}: name the model itself"
        )
    if "imagenet" in said.get("dataset", "imagenet"):
        if depth not in IMAGENET_DEPTHS:
            known = ", ".join(map(str, IMAGENET_DEPTHS))
            raise UsageError(f"--model_config: depth of a resnet of ImageNet must be one of {known}, got {depth}")
        return ["--model.name", f"resnet{depth}", "--model.width", "null"]
    return ["--model.name", f"resnet{6 * ((depth - 2) // 6) + 2}"]


def _data_path(said: dict[str, str]) -> str | None:
    """The path given in place of the name of a data set; that name becomes the one of its format."""
    word = said.get("dataset", "")
    path = Path(word)
    if "/" not in word and path.suffix != ".npz":
        return None
    masks = (path / "image").is_dir() and (path / "label").is_dir()
    said["dataset"] = "arrays" if path.suffix == ".npz" else "segmentation" if masks else "folder"
    return str(path)


def _device(said: dict[str, str], notes: list[str], typed: Sequence[str]) -> list[str]:
    """The device and precision that --type and --gpus stand for."""
    device, precision = resolve(TYPES, said["type"], kind="tensor type") if "type" in said else ("auto", None)
    if "type" in said and "half" in said["type"].lower():
        notes.append(f"--type {said['type']}: trained in bf16, whose range is that of float32")
    if "gpus" in said and device != "cpu":
        gpus = [gpu.strip() for gpu in said["gpus"].split(",")]
        if not all(gpu.isdecimal() for gpu in gpus):
            raise UsageError(f"--gpus must be the number of a GPU, or several such as 0,1, got {said['gpus']!r}")
        if len(gpus) > 1:
            launcher = f"CUDA_VISIBLE_DEVICES={','.join(gpus)} torchrun --nproc-per-node {len(gpus)} -m onebit train"
            command = f"{launcher} {shlex.join(_without_gpus(typed))}".rstrip()
            raise UsageError(f"--gpus {said['gpus']}: one process for each GPU; type: {command}")
        device = f"cuda:{gpus[0]}"
    return [
        *(["--device", device] if device != "auto" or "type" in said else []),
        *(["--precision", precision] if precision else []),
    ]


def _without_gpus(typed: Sequence[str]) -> list[str]:
    """A command line without `--gpus`."""
    kept: list[str] = []
    words = iter(typed)
    for word in words:
        if word == "--gpus":
            next(words, None)
        elif not word.startswith("--gpus="):
            kept.append(word)
    return kept
