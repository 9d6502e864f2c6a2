"""The command line of BinaryNet.pytorch's `main_binary.py`."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onebit.common.tables import resolve
from onebit.errors import UsageError
from onebit.recipe.flags import Word, flag_text
from onebit.recipe.reading import methods

FLAGS = {
    **{name: name for name in ("results_dir", "save", "model_config", "type", "gpus", "momentum", "evaluate")},
    **{"lr": "optimizer.lr", "learning_rate": "optimizer.lr"},
    **{"weight_decay": "weight_decay", "wd": "weight_decay"},
}
"""Its flags that have another name in `onebit train` -> their names here; dashes and underscores are equivalent."""
SHORT = {"-a": "model.name", "-b": "batch_size", "-e": "evaluate", "-j": "workers", "-p": "print_freq"}
MODELS: dict[str, dict[str, str]] = {
    "alexnet": {"model.name": "alexnet", "method": "real"},
    "alexnet_binary": {"model.name": "alexnet", "method": "bnn"},
    **{name: {"model.name": "vgg_small", "method": "real"} for name in ("vgg", "vgg_cifar10", "vgg_cifar100")},
    **{f"vgg_cifar{n}_binary": {"model.name": "vgg_small", "method": "bnn"} for n in (10, 100)},
    "resnet": {"model.name": "resnet14", "method": "real"},
    "resnet_binary": {"model.name": "resnet14", "model.width": "5", "method": "bnn"},
}
"""Its models -> the flags of ours.

There `_binary` means binary weights and activations; the name alone means full precision. Our AlexNet and VGG have the
widths of the papers; that repository triples most channels of its binary nets, and `width: 3` is close to it. Its CIFAR
ResNets are called 18 layers deep but have two blocks a stage, so 6·2 + 2 = 14 layers, five times as wide in the binary
one; ours have shortcuts without parameters. The number of classes is that of the data set.
"""
RESNETS = ("resnet", "resnet_binary")
"""Models whose `depth` means (depth − 2) / 6 blocks a stage, rounded down, except on ImageNet."""
_PRECISIONS = {"Float": "fp32", "Half": "bf16", "BFloat16": "bf16"}
TYPES = {
    **{f"torch.{name}Tensor": ("cpu", precision) for name, precision in _PRECISIONS.items()},
    **{f"torch.cuda.{name}Tensor": ("cuda", precision) for name, precision in _PRECISIONS.items()},
    **{"float": ("auto", "fp32"), "half": ("auto", "bf16")},
}
"""Tensor type -> (device, precision); bf16 has the range of float32."""
TAKES_MOMENTUM = ("sgd", "rmsprop", "bayesbinn")


def translate(words: Sequence[Word]) -> list[str] | None:
    """The `onebit` words for a command line; None for one without any flag or name of that repository."""
    given = {FLAGS.get(word.name, word.name): str(word.value) for word in words if word.name}
    translated = {*FLAGS.values(), "model.name", "dataset", "optimizer.name"}
    taken = {name: value for name, value in given.items() if name in translated}
    meant = _meant(dict(taken), given, recipe=next((str(word.value) for word in words if not word.name), None))
    short = any(word.typed[0][:2] in SHORT for word in words)
    if meant == taken and not short and not any(word.name in FLAGS for word in words):
        return None
    if "evaluate" in taken:
        kept = [text for word in words if word.name in ("data", "json") for text in word.typed]
        return ["evaluate", taken["evaluate"], *kept]
    flags = [text for name, value in meant.items() for text in (f"--{name.removesuffix('.name')}", value)]
    rest: list[str] = []
    for word in words:
        if word.name and FLAGS.get(word.name, word.name) not in translated:
            rest += [f"--{word.name}", str(word.value)] if word.typed[0][:2] in SHORT else word.typed
        elif not word.name:
            rest += word.typed
    return ["train", *flags, *rest]


def _meant(found: dict[str, str], given: dict[str, str], *, recipe: str | None) -> dict[str, str]:
    """The translated flags `found`; `given` are all flags, `recipe` the word that names one."""
    config = _model_config(found.pop("model_config", "") or "{}")
    found |= {name: flag_text(config.pop(name)) for name in ("input_size", "dataset") if name in config}
    path = Path(found.get("dataset", ""))
    if "/" in found.get("dataset", "") or path.suffix == ".npz":
        masks = (path / "image").is_dir() and (path / "label").is_dir()
        kind = "arrays" if path.suffix == ".npz" else "segmentation" if masks else "folder"
        found |= {"dataset": kind, "data": str(path)}
    model = found.get("model.name", "")
    if model in RESNETS and found.get("dataset") == "imagenet":
        config.setdefault("depth", 50)
    flags = dict(MODELS.get(model, {})) if model in MODELS and (model != "alexnet" or "method" not in given) else {}
    if "depth" in config:
        flags |= _resnet(model, found.get("dataset", "imagenet"), config.pop("depth"))
    flags |= {f"model.{name}": flag_text(value) for name, value in config.items()}
    found |= {name: value for name, value in flags.items() if name not in given or name == "model.name"}
    if "optimizer.name" in found:
        found["optimizer.name"] = found["optimizer.name"].lower()  # there SGD, Adam
    elif recipe is None and (found.get("momentum") or "weight_decay" in found):
        row = methods().get(given.get("method", ""), {}).get("optimizer", {})
        found |= {} if row.get("name") else {"optimizer.name": "sgd"}  # as there
    if (momentum := found.pop("momentum", None)) and found.get("optimizer.name", "sgd") in TAKES_MOMENTUM:
        found |= {"optimizer.momentum": momentum} | ({} if momentum.strip("0.") else {"optimizer.nesterov": "false"})
    if "weight_decay" in found:
        found["optimizer.weight_decay"] = found.pop("weight_decay")
    found |= _device(found.pop("type", None), found.pop("gpus", None))
    if "results_dir" in found or found.get("save"):
        usual = Path(recipe or f"{found.get('dataset', 'mnist')}-{found.get('model.name', 'mlp')}").stem
        found["out"] = str(Path(found.pop("results_dir", "results")) / (found.get("save") or usual))
    found.pop("save", None)
    return found


def _model_config(text: str) -> dict[str, Any]:
    try:
        config = dict(literal_eval(text))
    except Exception:
        raise UsageError(f"--model_config: expected a dictionary such as \"{{'depth': 18}}\", got {text!r}") from None
    config.pop("num_classes", None)  # the data set has them
    return {str(name): value for name, value in config.items()}


def _resnet(model: str, dataset: str, depth: Any) -> dict[str, str]:
    """The flags of a resnet of a depth, which means what it means there."""
    known = (18, 34, 50) if "imagenet" in dataset else (14, 20, 32, 44, 56, 110)
    layers = depth if "imagenet" in dataset else 6 * ((int(depth) - 2) // 6) + 2
    if model not in RESNETS or layers not in known:
        raise UsageError(f"--model_config: depth of a resnet on {dataset}: expected one of {known}, got {depth}")
    return {"model.name": f"resnet{layers}"} | ({"model.width": "null"} if "imagenet" in dataset else {})


def _device(kind: str | None, gpus: str | None) -> dict[str, str]:
    """The device and precision that --type and --gpus stand for."""
    device, precision = (None, None) if kind is None else resolve(TYPES, kind, kind="tensor type")
    if gpus is not None and device != "cpu":
        device = f"cuda:{gpus}"
    return ({"device": device} if device else {}) | ({"precision": precision} if precision else {})
