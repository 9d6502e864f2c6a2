"""Recipes: every setting of a training, read from YAML, JSON and flags. No torch here: wrong flags answer at once."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from onebit.errors import UsageError
from onebit.tables import did_you_mean

RECIPE_FOLDER = Path(__file__).parent / "recipes"
METHODS_FILE = RECIPE_FOLDER / "methods.yaml"
NAMED_PARTS = ("model", "optimizer", "schedule")
"""Parts that `--model NAME` picks by name while `--model.widths ...` sets an option."""


DESCRIPTIVE = ("name", "summary", "reference", "measured")
"""Fields that tell about a training but do not change it."""
SILENT = (*DESCRIPTIVE, "threads")


@dataclass(frozen=True)
class ModelRecipe:
    """The net.

    Args:
        name: model, see `onebit list models`
        widths: units per layer, input and classes included
        weight_quantizer: see `onebit list quantizers`; null for real weights
        input_quantizer: binarizes the inputs of every layer but the first; null for real activations
        value: the two weight values are ±value; a number or glorot
        real_last: keep real weights in the last layer
        dropout: probability of zeroing a hidden unit
        input_dropout: probability of zeroing an input
        norm_eps: BatchNorm's epsilon
        norm_momentum: BatchNorm's share of the newest batch
        norm_affine: BatchNorm with learnable scale and shift
        init: uniform (latents uniform in ±value) or default (torch's)
        coding: input coding, integer (2x − 255) or standardise
    """

    name: str = "mlp"
    widths: tuple[int, ...] = (784, 512, 512, 10)
    weight_quantizer: str | None = "sign"
    input_quantizer: str | None = None
    value: float | str = 1.0
    real_last: bool = False
    dropout: float = 0.0
    input_dropout: float = 0.0
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    norm_affine: bool = True
    init: str = "uniform"
    coding: str = "integer"

    def __post_init__(self) -> None:
        widths = len(self.widths) >= 2 and min(self.widths) >= 1
        _need("model.widths", self.widths, widths, "two or more positive numbers")
        value = self.value == "glorot" or (not isinstance(self.value, str) and _positive(self.value))
        _need("model.value", self.value, value, "a positive number or glorot")
        _need("model.dropout", self.dropout, 0 <= self.dropout < 1, "in [0, 1)")
        _need("model.input_dropout", self.input_dropout, 0 <= self.input_dropout < 1, "in [0, 1)")
        _need("model.norm_eps", self.norm_eps, _positive(self.norm_eps), "positive")
        _need("model.norm_momentum", self.norm_momentum, 0 < self.norm_momentum <= 1, "in (0, 1]")


@dataclass(frozen=True)
class OptimizerRecipe:
    """The optimizer.

    Args:
        name: see `onebit list optimizers`
        lr: learning rate
        lr_scale: glorot multiplies the latents' rate by 1/sqrt(1.5/(fan_in + fan_out)), glorot_squared by its square
        latent_clip: latents are clipped to ±this after each step; value takes the quantizer's own bound; null for never
        weight_decay: of real weights; latents, biases and BatchNorm get none
        momentum: of SGD
        compile: compile the update with torch.compile (slow to start, faster in long runs)
    """

    name: str = "adam"
    lr: float = 1e-3
    lr_scale: str | None = None
    latent_clip: float | str | None = "value"
    weight_decay: float = 0.0
    momentum: float = 0.0
    compile: bool = False

    def __post_init__(self) -> None:
        _need("optimizer.lr", self.lr, _positive(self.lr), "positive")
        _need("optimizer.weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "0 or more")
        clip = self.latent_clip in (None, "value") or (not isinstance(self.latent_clip, str) and self.latent_clip > 0)
        _need("optimizer.latent_clip", self.latent_clip, clip, "a positive number, value or null")
        _need("optimizer.momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")


@dataclass(frozen=True)
class ScheduleRecipe:
    """The learning-rate schedule.

    Args:
        name: constant, linear, cosine, exponential, step or milestones
        final_lr: learning rate at the end of linear, cosine and exponential
        warmup: epochs of linear warm-up
        gamma: factor at each step or milestone
        step_size: epochs between steps
        milestones: epochs at which the rate falls
    """

    name: str = "cosine"
    final_lr: float = 0.0
    warmup: float = 0.0
    gamma: float = 0.1
    step_size: float | None = None
    milestones: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _need("schedule.final_lr", self.final_lr, 0 <= self.final_lr < math.inf, "0 or more")
        _need("schedule.warmup", self.warmup, 0 <= self.warmup < math.inf, "0 or more epochs")
        _need("schedule.gamma", self.gamma, _positive(self.gamma), "positive")
        _need("schedule.milestones", self.milestones, all(map(_positive, self.milestones)), "positive (epochs)")
        if self.name == "step":
            _need("schedule.step_size", self.step_size, _positive(self.step_size or 0), "positive (epochs)")


@dataclass(frozen=True)
class AugmentationRecipe:
    """Random changes to training images, whole batches at a time.

    Args:
        crop_padding: pad by so many zero pixels on each side and crop back at random
        flip: mirror left-right with probability one half
    """

    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        _need("augmentation.crop_padding", self.crop_padding, 0 <= self.crop_padding <= 64, "from 0 to 64 pixels")


@dataclass(frozen=True)
class Recipe:
    """Every setting of a training.

    Args:
        name: of the recipe
        summary: one line
        reference: where the settings come from and what was published
        measured: what was measured with this file, with test mode, seeds and epochs
        dataset: see `onebit list datasets`
        validation: training images held out to choose the best epoch; 0 for none, null for the data set's own number
        split_seed: chooses which images are held out
        model: the net
        optimizer: the optimizer
        schedule: the learning-rate schedule
        augmentation: random changes to training images
        loss: cross_entropy, hinge or squared_hinge
        label_smoothing: of cross_entropy
        epochs: passes over the training images; may be a fraction
        batch_size: images per optimizer step
        seed: of initial weights, order, augmentation and draws
        precision: auto, bf16 or fp32
        threads: CPU threads; null for all
        device: cpu, cuda, or auto
    """

    name: str = "base"
    summary: str = ""
    reference: str = ""
    measured: str = ""
    dataset: str = "mnist"
    validation: int | None = None
    split_seed: int = 0
    model: ModelRecipe = field(default_factory=ModelRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    epochs: float = 10
    batch_size: int = 100
    seed: int = 0
    precision: str = "auto"
    threads: int | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        _need("epochs", self.epochs, 0 < self.epochs <= 1e6, "positive, at most a million")
        _need("batch_size", self.batch_size, self.batch_size >= 2, "2 or more (BatchNorm needs two images)")
        _need("validation", self.validation, (self.validation or 0) >= 0, "0 or more images")
        _need("seed", self.seed, 0 <= self.seed < 2**63, "0 or more")
        _need("split_seed", self.split_seed, self.split_seed >= 0, "0 or more")
        _need("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "in [0, 1)")
        if self.threads is not None:
            _need("threads", self.threads, 1 <= self.threads <= 4096, "from 1 to 4096")
        if self.label_smoothing and self.loss != "cross_entropy":
            raise UsageError(f"label_smoothing belongs to cross_entropy, the loss is {self.loss!r}")

    def changed_from(self, other: Recipe) -> list[tuple[str, Any, Any]]:
        """(flag name, value there, value here) of every setting that differs and can change what is trained."""
        here, there = (flatten(dataclasses.asdict(recipe)) for recipe in (self, other))
        return [(name, there[name], here[name]) for name in here if name not in SILENT and here[name] != there[name]]

    def to_yaml(self) -> str:
        """The complete recipe; `onebit train FILE` repeats it."""
        return yaml.safe_dump(_plain(dataclasses.asdict(self)), sort_keys=False, allow_unicode=True)


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _need(name: str, value: Any, holds: bool, expected: str) -> None:
    if not holds:
        raise UsageError(f"{name} must be {expected}, got {value!r}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(map(_plain, value)) if isinstance(value, (tuple, list)) else value


def recipe_names() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.yaml") if path != METHODS_FILE)


def methods() -> dict[str, dict[str, Any]]:
    """Method name -> the part of a recipe that it sets."""
    return yaml.safe_load(METHODS_FILE.read_text(encoding="utf-8"))


def recipe_path(name: str) -> Path:
    """The file of a recipe: a name that ships, or a path to a YAML or JSON file.

    Raises:
        UsageError: neither.
    """
    if name in recipe_names():
        return RECIPE_FOLDER / f"{name}.yaml"
    path = Path(name)
    if os.path.isfile(path / "recipe.yaml"):  # os.path: a name too long for a file is no error there
        return path / "recipe.yaml"
    if path.suffix in (".yaml", ".yml", ".json") or os.path.exists(name):
        if not os.path.isfile(name):
            raise UsageError(f"{name}: no such recipe file")
        return path
    raise UsageError(f"unknown recipe {name!r}{did_you_mean(name, recipe_names())}")


def read_settings(path: Path) -> dict[str, Any]:
    """The keys and values of a recipe file (JSON is YAML too), every key checked against the dataclasses.

    Raises:
        UsageError: unreadable, not a mapping, or an unknown field.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not valid YAML or JSON") from None
    check_keys(settings, Recipe, source=str(path))
    return settings


def check_keys(settings: Any, kind: type, *, source: str, prefix: str = "") -> None:
    """Walk nested settings against a tree of dataclasses.

    Raises:
        UsageError: a part that must be a mapping is not, or a key that no field has.
    """
    if not isinstance(settings, Mapping):
        where = f"{prefix[:-1]!r} must hold" if prefix else "a recipe is"
        raise UsageError(f"{source}: {where} a mapping of fields, got {settings!r}")
    parts = _fields(kind)
    for key, value in settings.items():
        if key not in parts:
            raise UsageError(f"{source}: unknown field {prefix}{key!s}{did_you_mean(str(key), parts)}")
        if parts[key] is not None:
            check_keys(value, parts[key], source=source, prefix=f"{prefix}{key}.")  # type: ignore[arg-type]


def _fields(kind: type) -> dict[str, type | None]:
    """Field name -> its dataclass, or None for a plain value."""
    found: dict[str, type | None] = {}
    for item in dataclasses.fields(kind):
        factory = item.default_factory
        found[item.name] = factory if isinstance(factory, type) and dataclasses.is_dataclass(factory) else None
    return found


def flag_names() -> list[str]:
    """`seed`, `optimizer.lr`, …: every field that is a flag."""
    return list(flatten(dataclasses.asdict(Recipe())))


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by flag name: `{"optimizer": {"lr": 1}}` -> `{"optimizer.lr": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings `over` laid on `base`."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def make_parser(prog: str = "onebit train") -> Any:
    """The jsonargparse parser of all recipe fields."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=prog, exit_on_error=False, allow_abbrev=False, add_help=False)
    parser.add_class_arguments(Recipe, as_group=False)
    return parser


def build_recipe(settings: Mapping[str, Any], flags: Sequence[str] = ()) -> Recipe:
    """A recipe from checked settings with flags laid over them.

    Args:
        settings: nested fields, as `read_settings` returns them.
        flags: `["--optimizer.lr", "0.01", "--model", "mlp"]`.

    Raises:
        UsageError: an unknown flag, a value of the wrong type, or one out of range.
    """
    check_keys(settings, Recipe, source="recipe")
    parser = make_parser()
    try:
        namespace = parser.parse_object(dict(settings), defaults=True)
        namespace = parser.parse_args(_checked_flags(flags), namespace=namespace, defaults=False)
        _refuse_nulls(namespace.as_dict(), Recipe)
        built = parser.instantiate(namespace)
    except argparse.ArgumentError as error:
        raise UsageError(_one_line(error)) from None
    return Recipe(**{item.name: built[item.name] for item in dataclasses.fields(Recipe)})


def _checked_flags(flags: Sequence[str]) -> list[str]:
    """Flags with `--model NAME` spelled `--model.name NAME`, each known.

    Raises:
        UsageError: an unknown flag.
    """
    known = flag_names()
    checked = []
    for flag in flags:
        if flag.startswith("--"):
            name, equals, value = flag[2:].partition("=")
            name = f"{name}.name" if name in NAMED_PARTS else name.replace("-", "_")
            if name not in known:
                raise UsageError(f"unknown option --{name}{did_you_mean(f'--{name}', [f'--{flag}' for flag in known])}")
            flag = f"--{name}{equals}{value}"
        checked.append(flag)
    return checked


def _refuse_nulls(settings: Mapping[str, Any], kind: type, prefix: str = "") -> None:
    """null stands only where the type says so; jsonargparse takes it for any field."""
    parts = _fields(kind)
    for item in dataclasses.fields(kind):
        value = settings[item.name]
        if value is None and "None" not in str(item.type):
            raise UsageError(f"{prefix}{item.name}: expected {item.type}, got null")
        part = parts[item.name]
        if part is not None:
            _refuse_nulls(value, part, f"{prefix}{item.name}.")


def _one_line(error: Exception) -> str:
    """A jsonargparse message, which spreads over lines, as `field: expected type, got value`."""
    text = " ".join(line.strip(" -") for line in str(error).splitlines())
    text = re.sub(r'Parser key "([\w.]+)":', r"\1:", text)
    text = re.sub(r"Expected an? <class '(\w+)'>\. Got value: ", r"expected \1, got ", text)
    union = re.search(r"(.*)Does not validate against any of the Union subtypes Subtypes: (.*?) Errors: .*: (.*)", text)
    if union:
        kinds = " or ".join(re.findall(r"<class '(\w+)'>", union[2]))
        text = f"{union[1]}expected {kinds}, got {union[3]}"
    return text.removeprefix("argument ")
