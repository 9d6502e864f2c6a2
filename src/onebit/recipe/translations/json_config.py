"""JSON files in the keys of the reproduction of BayesBiNN (Garg, Singhal 2021), as flags of `onebit train`.

    {"dataset": "mnist", "input_shape": 784, "output_shape": 10, "epochs": 500, "model_architecture": …, …}

The keys are those of its `train_bayesbinn.py`, `train_ste.py` and `test_cl.py`. Settings without a key (momentum 0 of
the optimizer, λ0 = ±10, N × 10 with augmented images) are those of the code of the BayesBiNN authors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from onebit.common.fields import (
    Bound,
    Checked,
    Count,
    NotNegative,
    NotNegativeInt,
    Positive,
    PositiveShare,
    Share,
    checked,
)
from onebit.errors import UsageError
from onebit.recipe.flags import flag_text

IMAGES = {
    "mnist": (60_000, 1, 28 * 28, 10),
    "cifar10": (50_000, 3, 3 * 32**2, 10),
    "cifar100": (50_000, 3, 3 * 32**2, 100),
}
"""Data set -> training images, channels, values of an image, classes."""
ARCHITECTURES = {
    **{"binaryconnect": "mlp", "vggbinaryconnect": "vgg_small"},
    **{"lrnetsmall": "lrnet_small", "lrnetbig": "lrnet_big"},
}
HIDDEN = {"image": (2048, 2048, 2048), "permuted-mnist": (100, 100)}
"""Hidden units of `BinaryConnect` by task."""
CONTINUAL_TEMPERATURE = 1e-2
"""Temperature of the continual configurations (BayesBiNN, section 4.3)."""
TEMPERATURES = {"mnist": 1e-10, "cifar10": 1e-10, "cifar100": 1e-8}
"""Temperature of other configurations without that key (BayesBiNN, table 9)."""
CRITERIA = {"crossentropy": "cross_entropy", "squarehinge": "squared_hinge"}
SCHEDULES = {"cosine": "cosine", "expo": "exponential", "exponential": "exponential", "constant": "constant"}


def _one_of(names: Mapping[str, Any]) -> Any:
    """The type of a name in any case, with dashes and underscores or without."""
    return Annotated[str, Bound(" or ".join(names), lambda name: _plain(name) in names)]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


@checked(frozen=True, kw_only=True)
class Config(Checked):
    """The keys of a file; null leaves a key open."""

    dataset: _one_of(IMAGES)  # type: ignore[valid-type]
    model_architecture: _one_of(ARCHITECTURES)  # type: ignore[valid-type]
    epochs: Count
    batch_size: Count
    lr_init: Positive
    lr_final: NotNegative = 1e-16
    lr_scheduler: _one_of(SCHEDULES) = "cosine"  # type: ignore[valid-type]
    criterion: _one_of(CRITERIA) = "crossentropy"  # type: ignore[valid-type]
    input_shape: Count | None = None
    output_shape: Count | None = None
    data_augmentation: bool = False
    validation_split: Share = 0.0
    drop_prob: Share = 0.0
    batch_affine: bool = False
    momentum: PositiveShare | None = None
    eps: Positive | None = None
    mc_steps: Count | None = None
    temperature: Positive | None = None
    evaluate_steps: NotNegativeInt | None = None
    grad_clip_value: Positive | None = None
    weight_clip_value: Positive | None = None


KEYS = tuple(field.name for field in fields(Config))


def read_config(path: Path) -> dict[str, Any] | None:
    """The keys of a JSON file of this format; None for a recipe."""
    if path.suffix != ".json" or not path.is_file():
        return None
    from onebit.recipe.yaml_loader import read_yaml  # only recipes need yaml: packed nets run without

    found = read_yaml(path)
    distinctive = {*KEYS} - {"dataset", "epochs", "batch_size"}  # recipes have these, too
    return found if isinstance(found, dict) and distinctive & found.keys() else None


def flags_of(
    keys: Mapping[str, Any], *, source: str, method: str | None = None, task: str | None = None
) -> dict[str, str]:
    """The flags of `onebit train` for the keys of the file `source`, without --method and --task if they are given.

    `drop_prob` is the dropout of inputs and hidden units of `BinaryConnect`; the convolutional nets have none there.
    `momentum` is that of BatchNorm. `validation_split` is a share of the training images.
    """
    config = _read(keys, source)
    data, model = config.dataset, ARCHITECTURES[config.model_architecture]
    if task is None and model == "mlp" and (config.temperature or 0) >= CONTINUAL_TEMPERATURE:
        raise UsageError(f"{source}: temperature {config.temperature:g} needs --task permuted-mnist")
    bayes, ste = config.mc_steps or config.temperature, config.weight_clip_value
    if method is None and bool(bayes) is bool(ste):
        raise UsageError(f"{source}: mc_steps, temperature, weight_clip_value imply no method: add --method NAME")
    chosen = method or ("bayesbinn" if bayes else "ste")
    images, channels, values, classes = IMAGES[data]
    augmented = config.data_augmentation
    flags: dict[str, Any] = {
        "name": Path(source).stem,
        "dataset": data,
        "model": model,
        "validation": math.floor(config.validation_split * images),
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "loss": CRITERIA[config.criterion],
        "model.coding": "standardize",
        "model.norm_affine": config.batch_affine,
        "model.norm_momentum": config.momentum or (0.15 if model == "mlp" else 0.2),
        # BatchNorm after the dense layers of a convolutional net is torch's there
        "model.dense_norm_momentum": None if model == "mlp" else 0.1,
        "model.norm_eps": config.eps or (1e-4 if model == "mlp" else 1e-5),
        "optimizer.lr": config.lr_init,
        "schedule": SCHEDULES[config.lr_scheduler],
        "schedule.final_lr": config.lr_final,
        # digits have no mirror image
        "augmentation.crop_padding": 4 * augmented,
        "augmentation.flip": augmented and channels == 3,
    }
    flags |= {} if method else {"method": chosen}
    if model == "mlp":
        widths = [values, *HIDDEN[task or "image"], classes]
        flags |= {"model.widths": widths, "model.dropout": config.drop_prob, "model.input_dropout": config.drop_prob}
    flags |= _method_flags(config, chosen, task)
    return {name: flag_text(value) for name, value in flags.items()}


def _method_flags(config: Config, method: str, task: str | None) -> dict[str, Any]:
    if method == "bayesbinn":
        return {
            "model.weight_options.temperature": config.temperature or TEMPERATURES[config.dataset],
            "optimizer.samples": config.mc_steps or 1,
            "optimizer.data_scale": 10 if config.data_augmentation else 1,
            "optimizer.lagged_mean": task == "permuted-mnist",  # as in the recipe of that task
            "draws": config.evaluate_steps or 0,
        }
    # train_bayesbinn.py ignores grad_clip_value; only its STE clips gradients
    flags = {"optimizer.clip_grad_value": config.grad_clip_value, "optimizer.latent_clip": config.weight_clip_value}
    if method == "real":
        del flags["optimizer.latent_clip"]
    return {name: value for name, value in flags.items() if value}


def _read(keys: Mapping[str, Any], source: str) -> Config:
    """The keys, with names in the spelling of the tables."""
    named = ("dataset", "model_architecture", "lr_scheduler", "criterion")
    plain = {key: _plain(value) if key in named and isinstance(value, str) else value for key, value in keys.items()}
    try:
        return Config(**plain)  # type: ignore[arg-type]  # it reads them
    except (TypeError, UsageError) as error:  # TypeError for an unknown or a missing key
        raise UsageError(f"{source}: {error}") from None
