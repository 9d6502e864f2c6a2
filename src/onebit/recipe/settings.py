"""Every setting of a training, as dataclasses that check themselves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from onebit.errors import UsageError

DESCRIPTIVE = ("name", "summary", "reference", "measured")
"""Fields that tell about a training but do not change it."""
SILENT = (*DESCRIPTIVE, "threads", "workers")


@dataclass(frozen=True)
class ModelRecipe:
    """The net. An option that is null takes the model's own default; one that the model does not know is refused.

    Args:
        name: model, see `onebit list models`
        weight_quantizer: see `onebit list quantizers`; null for real weights
        input_quantizer: binarizes the inputs of every layer but the first; null for real activations
        weight_options: arguments of the weight quantizer, such as {temperature: 1e-10}
        input_options: arguments of the input quantizer
        value: the two weight values are ±value; a number or glorot
        real_first: keep real weights in the first layer
        real_last: keep real weights in the last layer
        norm_eps: BatchNorm's epsilon
        norm_momentum: BatchNorm's share of the newest batch
        norm_affine: BatchNorm with learnable scale and shift
        init: uniform (latents uniform in ±value) or default (torch's)
        coding: input coding, integer (2x − 255) or standardise
        width: factor on the channels of a convolutional net
        widths: units per layer of an mlp, input and classes included
        last_norm: BatchNorm of the logits
        padding_value: what ±1 inputs of a convolution are padded with, 0, 1 or -1
        stem: first layers of a resnet18 or alexnet, cifar or imagenet
        bireal: a shortcut around each convolution (resnet18)
        dropout: probability of zeroing a hidden unit
        input_dropout: probability of zeroing an input
    """

    name: str = "mlp"
    weight_quantizer: str | None = "sign"
    input_quantizer: str | None = None
    weight_options: dict[str, Any] | None = None
    input_options: dict[str, Any] | None = None
    value: float | str = 1.0
    real_first: bool = False
    real_last: bool = False
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    norm_affine: bool = True
    init: str = "uniform"
    coding: str = "integer"
    width: float | None = None
    widths: tuple[int, ...] | None = None
    last_norm: bool | None = None
    padding_value: float | None = None
    stem: str | None = None
    bireal: bool | None = None
    dropout: float | None = None
    input_dropout: float | None = None

    def __post_init__(self) -> None:
        if self.widths is not None:
            widths = len(self.widths) >= 2 and min(self.widths) >= 1
            _need("model.widths", self.widths, widths, "two or more positive numbers")
        value = self.value == "glorot" or (not isinstance(self.value, str) and _positive(self.value))
        _need("model.value", self.value, value, "a positive number or glorot")
        for name in ("dropout", "input_dropout"):
            _need(f"model.{name}", getattr(self, name), 0 <= (getattr(self, name) or 0) < 1, "in [0, 1)")
        _need("model.width", self.width, self.width is None or 0 < self.width <= 64, "positive, at most 64")
        _need("model.padding_value", self.padding_value, self.padding_value in (None, -1, 0, 1), "0, 1 or -1")
        _need("model.stem", self.stem, self.stem in (None, "cifar", "imagenet"), "cifar or imagenet")
        _need("model.norm_eps", self.norm_eps, _positive(self.norm_eps), "positive")
        _need("model.norm_momentum", self.norm_momentum, 0 < self.norm_momentum <= 1, "in (0, 1]")

    def options(self) -> dict[str, Any]:
        """The arguments of the model, without those that are left to its own defaults."""
        settings = dataclasses.asdict(self)
        kept = ("weight_quantizer", "input_quantizer")  # null says something there
        return {name: value for name, value in settings.items() if name in kept or value is not None}


@dataclass(frozen=True)
class OptimizerRecipe:
    """The optimizer.

    Args:
        name: see `onebit list optimizers`
        lr: learning rate
        lr_scale: glorot multiplies the latents' rate by 1/sqrt(1.5/(fan_in + fan_out)), glorot_squared by its square
        latent_clip: latents are clipped to ±this after each step; value takes the quantizer's own bound; null for never
        weight_decay: of real weights; latents, biases and BatchNorm get none
        decay_latents: weight decay of latents too
        decay_norm: weight decay of biases and BatchNorm too
        momentum: of SGD
        nesterov: Nesterov momentum of SGD
        accumulate: parts that a batch is computed in, one after the other, to save memory
        clip_grad_norm: largest norm of all gradients together
        clip_grad_value: largest magnitude of one gradient
        compile: compile the update with torch.compile (slow to start, faster in long runs)
    """

    name: str = "adam"
    lr: float = 1e-3
    lr_scale: str | None = None
    latent_clip: float | str | None = "value"
    weight_decay: float = 0.0
    decay_latents: bool = False
    decay_norm: bool = False
    momentum: float = 0.0
    nesterov: bool = False
    accumulate: int = 1
    clip_grad_norm: float | None = None
    clip_grad_value: float | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        _need("optimizer.lr", self.lr, _positive(self.lr), "positive")
        _need("optimizer.weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "0 or more")
        clip = self.latent_clip in (None, "value") or (not isinstance(self.latent_clip, str) and self.latent_clip > 0)
        _need("optimizer.latent_clip", self.latent_clip, clip, "a positive number, value or null")
        _need("optimizer.momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        _need("optimizer.accumulate", self.accumulate, self.accumulate >= 1, "1 or more")
        for name in ("clip_grad_norm", "clip_grad_value"):
            limit = getattr(self, name)
            _need(f"optimizer.{name}", limit, limit is None or _positive(limit), "positive")


@dataclass(frozen=True)
class ScheduleRecipe:
    """The learning-rate schedule.

    Args:
        name: constant, linear, cosine, one_cycle, exponential, step or milestones
        final_lr: learning rate at the end of linear, cosine, one_cycle and exponential
        warmup: epochs of linear warm-up; of one_cycle the epochs of its rise, 30 % of training when 0
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
        crop_padding: pad by so many pixels on each side and crop back at random
        flip: mirror left-right with probability one half
        padding_mode: what is padded with, zero or reflect
        cutout: side of a square that is blackened at a random place
        min_area: cut out a random part of at least this share of the area and resize it (ImageNet)
    """

    crop_padding: int = 0
    flip: bool = False
    padding_mode: str = "zero"
    cutout: int = 0
    min_area: float | None = None

    def __post_init__(self) -> None:
        _need("augmentation.crop_padding", self.crop_padding, 0 <= self.crop_padding <= 64, "from 0 to 64 pixels")
        _need(
            "augmentation.padding_mode", self.padding_mode, self.padding_mode in ("zero", "reflect"), "zero or reflect"
        )
        _need("augmentation.cutout", self.cutout, 0 <= self.cutout <= 4096, "from 0 to 4096 pixels")
        area = self.min_area is None or 0 < self.min_area <= 1
        _need("augmentation.min_area", self.min_area, area, "in (0, 1]")


@dataclass(frozen=True)
class Recipe:
    """Every setting of a training.

    Args:
        name: of the recipe
        summary: one line
        reference: where the settings come from and what was published
        measured: what was measured with this file, with test mode, seeds and epochs
        dataset: see `onebit list datasets`
        input_size: side that images are resized to; null leaves them as they are
        validation: training images held out to choose the best epoch; 0 for none, null for the data set's own number
        split_seed: chooses which images are held out
        model: the net
        optimizer: the optimizer
        schedule: the learning-rate schedule
        augmentation: random changes to training images
        init_from: run folder or weight file of the same net to start from, binary or full-precision
        loss: cross_entropy, hinge or squared_hinge
        label_smoothing: of cross_entropy
        epochs: passes over the training images; may be a fraction
        batch_size: images per optimizer step, over all processes
        ema: share of the old value in a moving average of the weights, which is then what ships; 0 for none
        seed: of initial weights, order, augmentation and draws
        precision: auto, bf16 or fp32
        memory_format: auto (channels_last for convolutional nets), channels_last or contiguous
        compile: run the model through torch.compile
        sync_norm: BatchNorm statistics over all processes, not of each alone
        threads: CPU threads; null for all
        workers: processes that decode images of a folder; null for as many as there are cores
        skip_broken: leave out images of a folder that do not decode
        device: cpu, cuda, or auto
    """

    name: str = "base"
    summary: str = ""
    reference: str = ""
    measured: str = ""
    dataset: str = "mnist"
    input_size: int | None = None
    validation: int | None = None
    split_seed: int = 0
    model: ModelRecipe = field(default_factory=ModelRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)
    init_from: str | None = None
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    epochs: float = 10
    batch_size: int = 100
    ema: float = 0.0
    seed: int = 0
    precision: str = "auto"
    memory_format: str = "auto"
    compile: bool = False
    sync_norm: bool = False
    threads: int | None = None
    workers: int | None = None
    skip_broken: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        _need("epochs", self.epochs, 0 < self.epochs <= 1e6, "positive, at most a million")
        _need("batch_size", self.batch_size, self.batch_size >= 2, "2 or more (BatchNorm needs two images)")
        _need("validation", self.validation, (self.validation or 0) >= 0, "0 or more images")
        _need("input_size", self.input_size, self.input_size is None or 1 <= self.input_size <= 4096, "from 1 to 4096")
        _need("ema", self.ema, 0 <= self.ema < 1, "in [0, 1)")
        _need("seed", self.seed, 0 <= self.seed < 2**63, "0 or more")
        _need("split_seed", self.split_seed, self.split_seed >= 0, "0 or more")
        _need("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "in [0, 1)")
        for name in ("threads", "workers"):
            count = getattr(self, name)
            _need(name, count, count is None or 1 <= count <= 4096, "from 1 to 4096")
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


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by flag name: `{"optimizer": {"lr": 1}}` -> `{"optimizer.lr": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat
