"""JSON files in the keys of the reproduction of BayesBiNN (Garg, Singhal 2021), as flags of `onebit train`.

    {"dataset": "mnist", "input_shape": 784, "output_shape": 10, "epochs": 500, "model_architecture": …, …}

The keys mean what they mean in that repository's `train_bayesbinn.py`, `train_ste.py` and `test_cl.py`; what they leave
open (momentum 0 of the optimizer, λ0 = ±10, N × 10 with augmented images) is as in the code of the BayesBiNN authors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from onebit.common.fields import Bound, Checked, Count, NotNegative, NotNegativeInt, Positive, PositiveShare, Share
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
"""Hidden units of `BinaryConnect` in an ordinary training and in a continual one."""
CONTINUAL_TEMPERATURE = 1e-2
"""Temperature of the continual configurations (BayesBiNN, section 4.3)."""
TEMPERATURES = {"mnist": 1e-10, "cifar10": 1e-10, "cifar100": 1e-8}
"""Temperature of the others unless the file sets it (BayesBiNN, table 9)."""
CRITERIA = {"crossentropy": "cross_entropy", "squarehinge": "squared_hinge"}
SCHEDULES = {"cosine": "cosine", "expo": "exponential", "exponential": "exponential", "constant": "constant"}


def _one_of(names: Mapping[str, Any]) -> Any:
    """The type of a name in any case, with dashes and underscores or without."""
    return Annotated[str, Bound(" or ".join(names), lambda name: _plain(name) in names)]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


@dataclass(frozen=True, kw_only=True)
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
    own = {*KEYS} - {"dataset", "epochs", "batch_size"}  # a recipe has these three, too
    return found if isinstance(found, dict) and own & found.keys() else None


def flags_of(
    keys: Mapping[str, Any], *, source: str, method: str | None = None, task: str | None = None
) -> dict[str, str]:
    """The flags of `onebit train` that a file means, but for --method and --task where they are given.

    The dropout of `drop_prob` is that of inputs and hidden units of `BinaryConnect`; the convolutional nets have none
    there. `momentum` is that of BatchNorm. `validation_split` is a share of the training images.

    Args:
        keys: of the file; source: its name.
        method: the requested method; None derives it from the keys.
        task: "image", or "permuted-mnist" for a continual training, whose net is smaller; None for "image" where the
            settings are not those of a continual one.

    Raises:
        UsageError: an unknown or missing key, a value of another kind, or keys from which no method follows.
    """
    config = _read(keys, source)
    data, model = config.dataset, ARCHITECTURES[config.model_architecture]
    if task is None and model == "mlp" and (config.temperature or 0) >= CONTINUAL_TEMPERATURE:
        raise UsageError(
            f"{source}: temperature {config.temperature:g} is that of test_cl.py: add --task permuted-mnist"
        )
    bayes, ste = config.mc_steps or config.temperature, config.weight_clip_value
    if method is None and bool(bayes) is bool(ste):
        raise UsageError(
            f"{source}: no method follows from mc_steps, temperature, weight_clip_value: add --method NAME"
        )
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
    if chosen == "bayesbinn":
        flags |= {
            "model.weight_options.temperature": config.temperature or TEMPERATURES[data],
            "optimizer.samples": config.mc_steps or 1,
            "optimizer.data_scale": 10 if augmented else 1,
            "optimizer.lagged_mean": task == "permuted-mnist",  # as in the recipe of that task
            "draws": config.evaluate_steps or 0,
        }
    else:  # train_bayesbinn.py does not look at grad_clip_value; only its STE clips gradients
        flags |= {"optimizer.clip_grad_value": config.grad_clip_value} if config.grad_clip_value else {}
        flags |= {"optimizer.latent_clip": ste} if ste and chosen != "real" else {}
    return {name: flag_text(value) for name, value in flags.items()}


def _read(keys: Mapping[str, Any], source: str) -> Config:
    """The keys, with names in the spelling of the tables."""
    named = ("dataset", "model_architecture", "lr_scheduler", "criterion")
    plain = {key: _plain(value) if key in named and isinstance(value, str) else value for key, value in keys.items()}
    try:
        return Config(**plain)  # type: ignore[arg-type]  # it reads them
    except (TypeError, UsageError) as error:  # the first names an unknown key, or one that is missing
        raise UsageError(f"{source}: {error}") from None
