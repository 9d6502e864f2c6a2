"""Every setting of a training, as dataclasses that check themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from onebit.common.arguments import need, positive
from onebit.common.augmentation import Augmentation
from onebit.errors import UsageError
from onebit.recipe.optimizer import OptimizerRecipe, ScheduleRecipe
from onebit.recipe.options import Part, declared
from onebit.recipe.own_names import is_own, short_name

DESCRIPTIVE = ("name", "summary", "reference", "measured")
"""Fields that describe a training but do not change it."""
LONGEST_NAME = 200
SILENT = (*DESCRIPTIVE, "recompute_inputs", "threads", "workers")
OWN_ONLY = ("arguments",)
"""Fields of the model that only one of the user's own has."""


@dataclass(frozen=True, init=False)
class ModelRecipe(Part):
    """The model; options of its own are declared in `onebit.models.model_table`, and null takes the model's default.

    Args:
        name: see `onebit list models`
        weight_quantizer: see `onebit list quantizers`; null keeps real weights
        input_quantizer: signs, or integers of few bits, as inputs of all layers except the first; null keeps real ones
        weight_options: arguments of the weight quantizer, e.g. {temperature: 1e-10}
        input_options: arguments of the input quantizer, e.g. {range: pact}
        value: weights are ±value, a number or glorot
        real_first: keep real weights in the first layer
        real_last: keep real weights in the last layer
        norm_eps: BatchNorm's epsilon
        norm_momentum: BatchNorm's momentum, the share of the newest batch
        dense_norm_momentum: momentum of BatchNorm after dense layers; null takes norm_momentum
        norm_affine: BatchNorm with learnable scale and shift
        activation: relu, which a quantizer replaces; rprelu (ReActNet) and hardtanh are kept before one
        init: initial weights, uniform (latents uniform in ±value) or default (torch's)
        coding: input coding, integer (2x − 255) or standardize
        width: factor on the number of channels
        last_norm: BatchNorm of the logits
        padding_value: pads ±1 inputs of convolutions, 0, 1 or -1
        arguments: of a model of your own (FILE.py:Class), by the names in its signature
    """

    PART: ClassVar[str] = "model"

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
    dense_norm_momentum: float | None = None
    norm_affine: bool = True
    activation: str = "relu"
    init: str = "uniform"
    coding: str = "integer"
    width: float | None = None
    last_norm: bool | None = None
    padding_value: float | None = None
    arguments: dict[str, object] | None = None
    own: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        value = self.value == "glorot" or (not isinstance(self.value, str) and positive(self.value))
        need("model.value", self.value, value, "a positive number or glorot")
        need("model.width", self.width, self.width is None or 0 < self.width <= 64, "positive, at most 64")
        need("model.padding_value", self.padding_value, self.padding_value in (None, -1, 0, 1), "0, 1 or -1")
        activations = ("relu", "rprelu", "hardtanh")
        need("model.activation", self.activation, self.activation in activations, "relu, rprelu or hardtanh")
        if not self.is_own and self.arguments:
            raise UsageError(
                f"model.arguments are those of a model of your own (FILE.py:Class), but model.name is {self.name!r}"
            )
        need("model.norm_eps", self.norm_eps, positive(self.norm_eps), "positive")
        for name in ("norm_momentum", "dense_norm_momentum"):
            share = getattr(self, name)
            need(f"model.{name}", share, share is None or 0 < share <= 1, "in (0, 1]")

    @property
    def is_own(self) -> bool:
        """Whether the name is that of a model of the user's own."""
        return is_own(self.name)

    def settings(self) -> dict[str, Any]:
        """See `Part.settings`; only a model of the user's own has the fields `OWN_ONLY`."""
        found = super().settings()
        return found if self.is_own else {name: value for name, value in found.items() if name not in OWN_ONLY}

    def options(self) -> dict[str, Any]:
        """The arguments of the model, without those that are left to its own defaults."""
        settings = self.settings()
        kept = ("weight_quantizer", "input_quantizer")  # null says something there
        return {name: value for name, value in settings.items() if name in kept or value is not None}


@dataclass(frozen=True)
class ContinualRecipe:
    """Continual learning: one net learns the data set several times, each time with another permutation of the pixels.

    Args:
        tasks: number of tasks; 0 trains on the data set as it is
        prior: an optimizer with a prior takes the posterior of the previous task as its prior
        against: methods that learn the same tasks for comparison, each as with --method
        own: name of the recipe's own method; null recognizes it by its settings
    """

    tasks: int = 0
    prior: bool = True
    against: tuple[str, ...] = ()
    own: str | None = None

    def __post_init__(self) -> None:
        need("continual.tasks", self.tasks, self.tasks == 0 or 2 <= self.tasks < 1000, "0, or from 2 to 999")


@dataclass(frozen=True)
class Recipe:
    """Every setting of a training.

    Args:
        name: of the recipe
        summary: one line
        reference: source of the settings, and published results
        measured: results of this file, with test mode, seeds and epochs
        dataset: see `onebit list datasets`
        input_size: images are resized to this side; null keeps their size
        permutation: seed of one permutation of the pixels of all images; null for none
        whitening: zca (after contrast normalization; fitted on training images) or null for none
        validation: training images held out to choose the best epoch; null takes the data set's own number
        split_seed: seed that chooses the held-out images
        model: the model
        optimizer: the optimizer
        schedule: the learning-rate schedule
        augmentation: random changes to training images
        continual: several tasks one after the other
        init_from: run folder, weight file or packed net (its file or name) to start from, of the same model
        first_stage: epochs of a first training with real weights (into OUT/stage1), from which this one starts
        teacher: run folder, weight file or packed net (its file or name) to distill from
        teacher_weight: share of the teacher in the loss; the labels have the rest
        teacher_temperature: softens the predictions of teacher and student
        loss: cross_entropy, hinge, squared_hinge or iou
        label_smoothing: label smoothing of cross_entropy
        epochs: passes over the training images, for each task; may be a fraction
        batch_size: images per optimizer step, summed over all processes
        draws: size of the test ensemble of a Bayesian net; 0 for none
        ema: decay of a moving average of the weights, which is then saved; 0 for none
        seed: seed of initial weights, order, augmentation and draws
        precision: auto, bf16 or fp32
        memory_format: auto (channels_last for convolutional nets), channels_last or contiguous
        compile: compile the model with torch.compile
        recompute_inputs: recompute binary inputs in the backward pass: less memory, slower, same gradients
        sync_norm: share BatchNorm statistics between processes
        threads: CPU threads; null for all
        workers: threads that decode image files; null for one per core
        skip_broken: skip image files that do not decode
        device: cpu, cuda, or auto
    """

    name: str = "base"
    summary: str = ""
    reference: str = ""
    measured: str = ""
    dataset: str = "mnist"
    input_size: int | None = None
    permutation: int | None = None
    whitening: str | None = None
    validation: int | None = None
    split_seed: int = 0
    model: ModelRecipe = field(default_factory=ModelRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    augmentation: Augmentation = field(default_factory=Augmentation)
    continual: ContinualRecipe = field(default_factory=ContinualRecipe)
    init_from: str | None = None
    first_stage: float = 0.0
    teacher: str | None = None
    teacher_weight: float = 1.0
    teacher_temperature: float = 1.0
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    epochs: float = 10
    batch_size: int = 100
    draws: int = 10
    ema: float = 0.0
    seed: int = 0
    precision: str = "auto"
    memory_format: str = "auto"
    compile: bool = False
    recompute_inputs: bool = False
    sync_norm: bool = False
    threads: int | None = None
    workers: int | None = None
    skip_broken: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        plain = self.name.isprintable() and len(self.name.strip()) >= 1 and len(self.name) <= LONGEST_NAME
        folder = not set(self.name) & set("/\\") and self.name not in (".", "..")  # runs/NAME
        need("name", self.name, plain and folder, f"1 to {LONGEST_NAME} characters that print, without / and \\")
        need("epochs", self.epochs, 0 < self.epochs <= 1e6, "positive, at most a million")
        need("batch_size", self.batch_size, self.batch_size >= 2, "2 or more (BatchNorm needs two images)")
        need("validation", self.validation, (self.validation or 0) >= 0, "0 or more images")
        need("input_size", self.input_size, self.input_size is None or 1 <= self.input_size <= 4096, "from 1 to 4096")
        need("permutation", self.permutation, (self.permutation or 0) >= 0, "0 or more")
        need("whitening", self.whitening, self.whitening in (None, "zca"), "zca or null")
        need("draws", self.draws, 0 <= self.draws <= 10_000, "from 0 to 10000")
        need("first_stage", self.first_stage, 0 <= self.first_stage <= 1e6, "0 or more epochs, at most a million")
        need("teacher_weight", self.teacher_weight, 0 < self.teacher_weight <= 1, "in (0, 1]")
        need("teacher_temperature", self.teacher_temperature, positive(self.teacher_temperature), "positive")
        need("ema", self.ema, 0 <= self.ema < 1, "in [0, 1)")
        need("seed", self.seed, 0 <= self.seed < 2**63, "0 or more")
        need("split_seed", self.split_seed, self.split_seed >= 0, "0 or more")
        need("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "in [0, 1)")
        for name in ("threads", "workers"):
            count = getattr(self, name)
            least = 0 if name == "workers" else 1
            need(name, count, count is None or least <= count <= 4096, f"from {least} to 4096")

    def settings(self) -> dict[str, Any]:
        """Every setting that says something of this training, nested as in a file."""
        found: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            nested = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
            found[item.name] = value.settings() if isinstance(value, Part) else nested
        return found

    def values(self) -> dict[str, Any]:
        """Flag name -> value of all settings, also of options that belong to another optimizer or model."""
        values = flatten(self.settings())
        for part in (self.model, self.optimizer):
            for name, found in declared(part.PART, part.name).items():
                values.setdefault(f"{part.PART}.{name}", found.option.default)
        return values

    def changed_from(self, other: Recipe) -> list[tuple[str, Any, Any]]:
        """(flag name, value there, value here) of every setting that differs and can change what is trained."""
        here, there = self.values(), other.values()
        names = [name for name in {**here, **there} if name not in SILENT]
        # arguments of a quantizer may be in one of them only
        both = [(name, there.get(name), here.get(name)) for name in names]
        changed = [(name, was, now) for name, was, now in both if was != now]
        moved = self.model.is_own and other.model.is_own and short_name(self.model.name) == short_name(other.model.name)
        return [row for row in changed if not (moved and row[0] == "model.name")]

    def to_yaml(self) -> str:
        """The complete recipe; `onebit train FILE` repeats it."""
        import yaml

        return yaml.safe_dump(_plain(self.settings()), sort_keys=False, allow_unicode=True)


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
