"""The flags of BinaryNet.pytorch's `main_binary.py`."""

from __future__ import annotations

import dataclasses
import shlex
from ast import literal_eval as read_literal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onebit.common.tables import did_you_mean, resolve
from onebit.errors import UsageError
from onebit.recipe.flags import flag_names
from onebit.recipe.settings import Recipe

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
    "print_freq": "steps between two lines with loss and precision",
    "resume": "--resume",
    "evaluate": "onebit evaluate FILE",
}
"""Classic flag -> its meaning here. Dashes and underscores are the same."""
SAME = ("dataset", "model", "input_size", "epochs", "batch_size", "optimizer", "workers", "resume")
"""Classic flags that `onebit train` has under the same name."""
OTHER_NAMES = {"learning_rate": "lr", "wd": "weight_decay"}
FLAGS = {name: name for name in CLASSIC if name not in SAME} | OTHER_NAMES
"""The other classic flags in every spelling -> in the usual one."""
SHORT = {"-a": "model.name", "-b": "batch_size", "-e": "evaluate", "-j": "workers", "-p": "print_freq"}
"""Short flag -> its flag here."""
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

CIFAR_DEPTHS = (14, 20, 32, 44, 56, 110)
"""Depths of these names on other data, so counted."""
IMAGENET_DEPTHS = (18, 34, 50)
"""Depths of these names on ImageNet."""
IMAGENET_DEPTH = 50
"""The depth on ImageNet unless `depth` says another."""


@dataclass(frozen=True)
class BinaryNetFlags:
    """The meaning of a command line's flags.

    Args:
        settings: fields of a recipe -> values.
        net: settings of the model that a depth stands for, in place of those of its name.
        model: the model as it was named.
        folder: RESULTS_DIR/SAVE; without a SAVE the name of the recipe is still to be added.
        named: whether `folder` is complete.
        momentum: for an optimizer that has one.
        of_sgd: those flags among --momentum and --weight_decay that were given.
        classes: number of classes that the data set must have.
        start_epoch: number of epochs that a resumed training must have done.
        print_freq: steps between two lines of progress.
        evaluate: file to evaluate instead of training.
        data: path of the data set, where `--dataset` gives one.
        used: whether any of these flags was given: the run then has that repository's table, too.
        notes: what was understood in another way than it was written.
    """

    settings: dict[str, Any]
    net: dict[str, Any]
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
    used: bool = False
    notes: tuple[str, ...] = ()

    def with_momentum(self, recipe: Recipe) -> Recipe:
        """The recipe with the momentum of `--momentum`, if its optimizer has one."""
        if self.momentum is None or recipe.optimizer.name not in TAKES_MOMENTUM:
            return recipe
        nesterov = recipe.optimizer.nesterov and self.momentum > 0
        optimizer = dataclasses.replace(recipe.optimizer, momentum=self.momentum, nesterov=nesterov)
        return dataclasses.replace(recipe, optimizer=optimizer)

    def notes_on(self, recipe: Recipe) -> list[str]:
        """What was understood in another way than it was written."""
        if self.momentum is None or recipe.optimizer.name in TAKES_MOMENTUM:
            return [*self.notes]
        return [*self.notes, f"--momentum is not used: {recipe.optimizer.name} has none; --optimizer sgd has"]

    def run_folder(self, recipe: Recipe) -> Path | None:
        """The run folder that `--results_dir` and `--save` name."""
        return self.folder if self.named or self.folder is None else self.folder / recipe.name


def translate(
    flags: Mapping[str, str], settings: Mapping[str, Any], *, short: bool = False, without_gpus: Sequence[str] = ()
) -> BinaryNetFlags:
    """Translate the flags of `main_binary.py`; UsageError for a value that cannot be understood.

    Args:
        flags: name in `FLAGS` -> value.
        settings: fields of a recipe that were given beside them; they win.
        short: whether a flag was written as in `SHORT`.
        without_gpus: the command line without `--gpus`, for a message that says what to type instead.
    """
    config, classes = _model_config(flags.get("model_config") or "{}")
    given = dict(settings) | {name: config.pop(name) for name in ("dataset", "input_size") if name in config}
    data, dataset = _data_path(given.get("dataset"))
    given |= {} if dataset is None else {"dataset": dataset}
    if "optimizer.name" in given:
        given["optimizer.name"] = given["optimizer.name"].lower()  # torch's own names are capitalized: SGD, Adam
    model = given.get("model.name")
    if model in CIFAR_RESNETS and given.get("dataset") == "imagenet":
        config.setdefault("depth", IMAGENET_DEPTH)
    net = _resnet(model, given, config.pop("depth")) if "depth" in config else {}
    notes: list[str] = []
    translated = {f"model.{name}": value for name, value in config.items()}
    translated |= {f"optimizer.{name}": flags[name] for name in ("lr", "weight_decay") if name in flags}
    translated |= _device(flags, notes, without_gpus)
    folder = None
    if "results_dir" in flags or flags.get("save"):
        folder = Path(flags.get("results_dir", "results")) / flags.get("save", "")
    return BinaryNetFlags(
        translated | given,
        net,
        model=model,
        folder=folder,
        named=bool(flags.get("save")),
        momentum=_number(flags, "momentum", float),
        of_sgd=tuple(f"--{name}" for name in ("momentum", "weight_decay") if name in flags),
        classes=classes,
        start_epoch=_number(flags, "start_epoch", int),
        print_freq=_number(flags, "print_freq", int, least=1),
        evaluate=flags.get("evaluate"),
        data=data,
        used=short or bool(flags),
        notes=tuple(notes),
    )


def _number(flags: Mapping[str, str], name: str, kind: type, *, least: int = 0) -> Any:
    if name not in flags:
        return None
    try:
        value = kind(flags[name])
    except ValueError:
        raise UsageError(f"--{name}: expected {kind.__name__}, got {flags[name]}") from None
    if not value >= least:
        raise UsageError(f"--{name} must be {least} or more, got {flags[name]}")
    return value


def _model_config(text: str) -> tuple[dict[str, Any], int | None]:
    """(settings of --model_config, its number of classes)."""
    try:
        config = read_literal(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise UsageError(f"--model_config must be a Python dictionary such as \"{{'depth': 18}}\", got {text[:200]!r}")
    fields = [name.partition(".")[2] for name in flag_names() if name.startswith("model.") and name != "model.name"]
    known = ["depth", "input_size", "dataset", "num_classes", *fields]
    for name in config:
        if name not in known:
            raise UsageError(f"--model_config: unknown key {name!r}{did_you_mean(str(name), known)}")
    classes = config.pop("num_classes", None)
    for name, value in (("num_classes", classes), ("depth", config.get("depth"))):
        if value is not None and type(value) is not int:
            raise UsageError(f"--model_config: {name} must be a whole number, got {value!r}")
    return {name: value for name, value in config.items() if value is not None or name in fields}, classes


def _resnet(model: str | None, given: Mapping[str, Any], depth: int) -> dict[str, Any]:
    if model not in CIFAR_RESNETS:
        raise UsageError(
            f"--model_config: depth belongs to --model {' and '.join(CIFAR_RESNETS)}: name the model itself"
        )
    if "imagenet" in given.get("dataset", "imagenet"):
        _need_depth(depth, IMAGENET_DEPTHS, "a resnet of ImageNet", given=depth)
        return {"name": f"resnet{depth}", "width": None}
    counted = 6 * ((depth - 2) // 6) + 2
    _need_depth(counted, CIFAR_DEPTHS, f"a resnet of {given.get('dataset')}", given=depth)
    return {"name": f"resnet{counted}"}


def _need_depth(depth: int, known: Sequence[int], of: str, *, given: int) -> None:
    if depth not in known:
        raise UsageError(f"--model_config: depth of {of} must be one of {', '.join(map(str, known))}, got {given}")


def _data_path(dataset: Any) -> tuple[str | None, Any]:
    """(path, name): a path in place of the name of a data set, and the name of its format."""
    path = Path(str(dataset or ""))
    if "/" not in str(dataset) and path.suffix != ".npz":
        return None, dataset
    masks = (path / "image").is_dir() and (path / "label").is_dir()
    return str(path), "arrays" if path.suffix == ".npz" else "segmentation" if masks else "folder"


def _device(flags: Mapping[str, str], notes: list[str], without_gpus: Sequence[str]) -> dict[str, str]:
    """The device and precision that --type and --gpus stand for."""
    device, precision = resolve(TYPES, flags["type"], kind="tensor type") if "type" in flags else ("auto", None)
    if "half" in flags.get("type", "").lower():
        notes.append(f"--type {flags['type']}: trained in bf16, whose range is that of float32")
    if "gpus" in flags and device != "cpu":
        gpus = [gpu.strip() for gpu in flags["gpus"].split(",")]
        if not all(gpu.isdecimal() for gpu in gpus):
            raise UsageError(f"--gpus must be the number of a GPU, or several such as 0,1, got {flags['gpus']!r}")
        if len(gpus) > 1:
            launcher = f"CUDA_VISIBLE_DEVICES={','.join(gpus)} torchrun --nproc-per-node {len(gpus)} -m onebit train"
            command = f"{launcher} {shlex.join(without_gpus)}".rstrip()
            raise UsageError(f"--gpus {flags['gpus']}: one process for each GPU; type: {command}")
        device = f"cuda:{gpus[0]}"
    found = {"device": device} if device != "auto" or "type" in flags else {}
    return found | ({"precision": precision} if precision else {})
