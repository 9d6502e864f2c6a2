"""JSON files in the keys of the reproduction of BayesBiNN (Garg, Singhal 2021), translated into a recipe.

    {"dataset": "mnist", "input_shape": 784, "output_shape": 10, "epochs": 500, "model_architecture": …, …}

The keys mean what they mean in that repository's `train_bayesbinn.py`, `train_ste.py` and `test_cl.py`; what they leave
open (momentum 0 of the optimizer, λ0 = ±10, N × 10 with augmented images) is as in the code of the BayesBiNN authors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onebit.common.tables import did_you_mean
from onebit.errors import UsageError
from onebit.recipe.bounded import read_json

IMAGES = {
    "mnist": (60_000, 1, 28 * 28, 10),
    "cifar10": (50_000, 3, 3 * 32**2, 10),
    "cifar100": (50_000, 3, 3 * 32**2, 100),
}
"""Data set -> training images, channels, values of an image, classes."""

ARCHITECTURES = {
    "BinaryConnect": "mlp",
    "VGGBinaryConnect": "vgg_small",
    "LRNetSmall": "lrnet_small",
    "LRNetBig": "lrnet_big",
}
HIDDEN = {"image": (2048, 2048, 2048), "permuted-mnist": (100, 100)}
"""Hidden units of `BinaryConnect` in an ordinary training and in a continual one."""

CONTINUAL_TEMPERATURE = 1e-2
"""Temperature of the continual configurations (BayesBiNN, section 4.3)."""
TEMPERATURES = {"mnist": 1e-10, "cifar10": 1e-10, "cifar100": 1e-8}
"""Temperature of the others unless the file sets it (BayesBiNN, table 9)."""

CRITERIA = {"crossentropy": "cross_entropy", "squarehinge": "squared_hinge"}
SCHEDULES = {"cosine": "cosine", "expo": "exponential", "exponential": "exponential", "constant": "constant"}
EPS = {"mlp": 1e-4}
"""BatchNorm's epsilon unless the file sets it; torch's own for the other nets."""
EVALUATED = "evaluate_steps"
AUGMENTED_SCALE = 10.0
LIMIT = 1e300
"""Numbers in a file must be smaller; a larger whole number has no float."""


@dataclass(frozen=True)
class Key:
    """One key of the format.

    kind: type of its value; holds: a condition, `expected` in words.
    """

    kind: type
    holds: Callable[[Any], bool]
    expected: str


def _one(names: Mapping[str, Any]) -> Key:
    return Key(str, lambda value: True, " or ".join(names))


_COUNT = Key(int, lambda value: value >= 1, "a whole number, 1 or more")
_SHARE = Key(float, lambda value: 0 <= value < 1, "a number in [0, 1)")
_POSITIVE = Key(float, lambda value: value > 0, "a positive number")
_SWITCH = Key(bool, lambda value: True, "true or false")

KEYS: dict[str, Key] = {
    "dataset": _one(IMAGES),
    "model_architecture": _one(ARCHITECTURES),
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "lr_init": _POSITIVE,
    "lr_final": Key(float, lambda value: value >= 0, "a number, 0 or more"),
    "lr_scheduler": _one(SCHEDULES),
    "criterion": _one(CRITERIA),
    "input_shape": _COUNT,
    "output_shape": _COUNT,
    "data_augmentation": _SWITCH,
    "validation_split": _SHARE,
    "drop_prob": _SHARE,
    "batch_affine": _SWITCH,
    "momentum": Key(float, lambda value: 0 < value <= 1, "a number in (0, 1]"),
    "eps": _POSITIVE,
    "mc_steps": _COUNT,
    "temperature": _POSITIVE,
    EVALUATED: Key(int, lambda value: value >= 0, "a whole number, 0 or more"),
    "grad_clip_value": _POSITIVE,
    "weight_clip_value": _POSITIVE,
}
NEEDED = ("dataset", "model_architecture", "epochs", "batch_size", "lr_init")
METHOD_KEYS = {"bayesbinn": ("mc_steps", "temperature"), "ste": ("weight_clip_value",)}
"""Method -> the keys it follows from."""

OF_METHODS = ("mc_steps", "temperature", EVALUATED, "weight_clip_value", "grad_clip_value")
"""Keys that only some methods use."""
# train_bayesbinn.py does not look at grad_clip_value; only its STE clips gradients
USED = {"bayesbinn": {"mc_steps", "temperature", EVALUATED}, "real": {"grad_clip_value"}}
"""Method -> those that it uses; the other methods clip."""


@dataclass(frozen=True)
class Translation:
    """The content of a file: settings of a recipe, the method, and notes on keys that are not used."""

    settings: dict[str, Any]
    method: str
    notes: tuple[str, ...]


def read_config(path: Path) -> dict[str, Any] | None:
    """The keys of a JSON file of this format; None for a recipe, UsageError for text that is not JSON."""
    if path.suffix != ".json":
        return None
    found = read_json(path)
    own = KEYS.keys() - {"dataset", "epochs", "batch_size"}  # a recipe has these three, too
    return found if isinstance(found, dict) and own & found.keys() else None


def translate_config(
    config: Mapping[str, Any], *, source: str, method: str | None = None, task: str | None = None
) -> Translation:
    """Translate the keys of a file into settings of a recipe.

    The dropout of `drop_prob` is that of inputs and hidden units of `BinaryConnect`; the convolutional nets have none
    there. `momentum` is that of BatchNorm. `validation_split` is a share of the training images.

    Args:
        config: keys and values of the file.
        source: its name, for messages.
        method: the requested method; None derives it from the keys.
        task: "image", or "permuted-mnist" for a continual training, whose net is smaller; None for "image" where the
            settings are not those of a continual one.

    Raises:
        UsageError: an unknown or missing key, a value of another kind, a shape that the data set does not have, or keys
            from which no method follows.
    """
    given = _checked(config, source)
    if task is None:
        task = _plain_task(given, source)
    method = method or _method(given, source)
    model = ARCHITECTURES[given["model_architecture"]]
    images, channels, values, classes = IMAGES[given["dataset"]]
    for key, actual in (("input_shape", values if model == "mlp" else channels), ("output_shape", classes)):
        if given.get(key, actual) != actual:
            what = f"{given['model_architecture']} on {given['dataset']}"
            raise UsageError(f"{source}: {key} of {what} is {actual}, got {given[key]}")
    augmented = given.get("data_augmentation", False)
    settings: dict[str, Any] = {
        "name": Path(source).stem,
        "dataset": given["dataset"],
        "validation": math.floor(given.get("validation_split", 0) * images),
        "epochs": given["epochs"],
        "batch_size": given["batch_size"],
        "loss": CRITERIA[given.get("criterion", "crossentropy")],
        "model": {
            "name": model,
            "coding": "standardize",
            "norm_affine": given.get("batch_affine", False),
            "norm_momentum": given.get("momentum", 0.15 if model == "mlp" else 0.2),
            # BatchNorm after the dense layers of a convolutional net is torch's there
            "dense_norm_momentum": None if model == "mlp" else 0.1,
            "norm_eps": given.get("eps", EPS.get(model, 1e-5)),
        },
        "optimizer": {"lr": given["lr_init"]},
        "schedule": {
            "name": SCHEDULES[given.get("lr_scheduler", "cosine")],
            "final_lr": given.get("lr_final", 1e-16),
        },
        # digits have no mirror image
        "augmentation": {"crop_padding": 4 * augmented, "flip": augmented and channels == 3},
    }
    notes = []
    dropped = given.get("drop_prob", 0.0)
    if model == "mlp":
        settings["model"] |= {"widths": [values, *HIDDEN[task], classes], "dropout": dropped, "input_dropout": dropped}
    elif dropped:
        notes.append(f"drop_prob {dropped} is not used: {given['model_architecture']} has no dropout")
    if "grad_clip_value" in given and method != "bayesbinn":
        settings["optimizer"]["clip_grad_value"] = given["grad_clip_value"]
    if method == "bayesbinn":
        settings["model"]["weight_options"] = {"temperature": given.get("temperature", TEMPERATURES[given["dataset"]])}
        settings["optimizer"] |= {
            "samples": given.get("mc_steps", 1),
            "data_scale": AUGMENTED_SCALE if augmented else 1.0,
            "lagged_mean": task == "permuted-mnist",  # as in the recipe of that task
        }
        settings["draws"] = given.get(EVALUATED, 0)
    if "weight_clip_value" in given and method not in ("bayesbinn", "real"):
        settings["optimizer"]["latent_clip"] = given["weight_clip_value"]
    used = USED.get(method, {"weight_clip_value", "grad_clip_value"})
    other = [key for key in OF_METHODS if key in given.keys() - used]
    notes += [f"{key} is not used by --method {method}" for key in other]
    return Translation(settings, method, tuple(notes))


def _plain_task(given: Mapping[str, Any], source: str) -> str:
    """The task of a file that is trained without `--task`; UsageError for the temperature of `test_cl.py`."""
    if given["model_architecture"] == "BinaryConnect" and given.get("temperature", 0) >= CONTINUAL_TEMPERATURE:
        raise UsageError(
            f"{source}: temperature {given['temperature']:g} is that of a continual training (test_cl.py): "
            "add --task permuted-mnist, or --task image to train on the images as they are"
        )
    return "image"


def _method(given: Mapping[str, Any], source: str) -> str:
    """The method that the keys imply."""
    found = {method: key for method, keys in METHOD_KEYS.items() for key in keys if key in given}
    if len(found) == 1:
        return next(iter(found))
    ways = ", ".join(f"{' or '.join(keys)} for {method}" for method, keys in METHOD_KEYS.items())
    got = " and ".join(found.values()) or "none of them"
    raise UsageError(f"{source}: the method follows from {ways}; got {got}: name it with --method NAME")


def _checked(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The keys with every value checked, and names in the spelling of the tables."""
    for key in config:
        if key not in KEYS:
            raise UsageError(f"{source}: unknown key {key}{did_you_mean(key, KEYS)}")
    for key in NEEDED:
        if key not in config:
            raise UsageError(f"{source}: the key {key} is missing ({KEYS[key].expected})")
    given = {}
    for key, value in config.items():
        rule = KEYS[key]
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LIMIT
        whole = number and value == int(value) if rule.kind is int else number
        if not (whole if rule.kind in (int, float) else isinstance(value, rule.kind)) or not rule.holds(value):
            raise UsageError(f"{source}: {key} must be {rule.expected}, got {value!r}")
        given[key] = rule.kind(value)
    for key, table in (("criterion", CRITERIA), ("lr_scheduler", SCHEDULES), ("dataset", IMAGES)):
        if key in given:
            given[key] = _spelled(given[key], table, key, source)
    given["model_architecture"] = _spelled(given["model_architecture"], ARCHITECTURES, "model_architecture", source)
    return given


def _spelled(name: str, table: Mapping[str, Any], key: str, source: str) -> str:
    """The name as in the table; upper and lower case, dashes and underscores are the same."""
    plain = {known.lower(): known for known in table}
    found = plain.get(name.lower().replace("-", "").replace("_", ""))
    if found is None:
        raise UsageError(f"{source}: {key} {name!r} is not known{did_you_mean(name, table)}")
    return found
