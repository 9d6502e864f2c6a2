"""The schema of a recipe: every setting of a run, with its type and bounds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from onebit.common.augmentation import Augmentation, Side
from onebit.common.fields import (
    Bound,
    Checked,
    NotNegativeInt,
    Positive,
    PositiveShare,
    Share,
    field_types,
    within,
)
from onebit.recipe.custom_names import is_custom, is_same_code
from onebit.recipe.optimizer import OptimizerRecipe, ScheduleRecipe
from onebit.recipe.options import Part, declared
from onebit.train.settings import Fit, SharedSettings

DESCRIPTIVE = ("name", "summary", "reference", "measured")
"""Fields that describe a run but do not change it."""
LONGEST_NAME = 200
NOT_COMPARED = (*DESCRIPTIVE, "recompute_inputs", "threads", "workers")
RunName = Annotated[
    str,
    Bound(
        f"1 to {LONGEST_NAME} characters that print, without / and \\",
        lambda name: (
            name.isprintable() and len(name.strip()) >= 1 and len(name) <= LONGEST_NAME
            and not set(name) & set("/\\") and name not in (".", "..")
        ),
    ),
]  # fmt: skip
"""The name of a folder in runs/."""
CUSTOM_ONLY = ("arguments",)
"""Fields of custom models alone."""


@dataclass(frozen=True, init=False)
class ModelRecipe(Part):
    """The model; its further options are declared in `onebit.models.model_table`; null takes the model's default.

    Args:
        name: see `onebit list models`
        weight_quantizer: see `onebit list quantizers`, or a custom one, FILE.py:Class; null keeps real weights
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
        arguments: of a custom model (FILE.py:Class), by the names in its signature
    """

    PART: ClassVar[str] = "model"

    name: str = "mlp"
    weight_quantizer: str | None = "sign"
    input_quantizer: str | None = None
    weight_options: dict[str, Any] | None = None
    input_options: dict[str, Any] | None = None
    value: Positive | Literal["glorot"] = 1.0
    real_first: bool = False
    real_last: bool = False
    norm_eps: Positive = 1e-5
    norm_momentum: PositiveShare = 0.1
    dense_norm_momentum: PositiveShare | None = None
    norm_affine: bool = True
    activation: Literal["relu", "rprelu", "hardtanh"] = "relu"
    init: Literal["uniform", "default"] = "uniform"
    coding: Literal["integer", "standardize", "auto", "none"] = "integer"
    width: Annotated[float, within("(0, 64]")] | None = None
    last_norm: bool | None = None
    padding_value: Annotated[float, Bound("0, 1 or -1", lambda value: value in (0, 1, -1))] | None = None
    arguments: dict[str, object] | None = None
    own: dict[str, object] = field(default_factory=dict, hash=False)  # options that were read already

    @property
    def is_custom(self) -> bool:
        """Whether this is a custom model."""
        return is_custom(self.name)

    def code(self) -> dict[str, str]:
        """Flag -> name of the custom code of the model and its quantizers."""
        names = {"name": self.name, "weight_quantizer": self.weight_quantizer, "input_quantizer": self.input_quantizer}
        return {f"model.{field}": name for field, name in names.items() if name is not None and is_custom(name)}

    def settings(self) -> dict[str, Any]:
        """See `Part.settings`; only custom models have the fields `CUSTOM_ONLY`."""
        found = super().settings()
        return found if self.is_custom else {name: value for name, value in found.items() if name not in CUSTOM_ONLY}

    def options(self) -> dict[str, Any]:
        """The arguments of the model, without those left to its defaults."""
        settings = self.settings()
        kept = ("weight_quantizer", "input_quantizer")  # null means real ones
        return {name: value for name, value in settings.items() if name in kept or value is not None}


@dataclass(frozen=True)
class ContinualRecipe(Checked):
    """Continual learning: one net learns the data set several times, with a new permutation of the pixels each time.

    Args:
        tasks: number of tasks; 0 trains on the data set as it is
        prior: an optimizer with a prior takes the posterior of the previous task as its prior
        against: methods that learn the same tasks for comparison, each as with --method
        own: name of the recipe's own method; null derives it from the settings
    """

    PART: ClassVar[str] = "continual"

    tasks: Literal[0] | Annotated[int, within("[2, 1000)")] = 0
    prior: bool = True
    against: tuple[str, ...] = ()
    own: str | None = None


@dataclass(frozen=True)
class Recipe(SharedSettings):
    """Every setting of a run.

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
        first_stage: epochs of a first stage with real weights (in OUT/stage1), before `epochs`, which start from them
        teacher: run folder, weight file or packed net (its file or name) to distill from
        teacher_weight: share of the teacher in the loss; the rest is that of the labels
        teacher_temperature: softens the predictions of teacher and student
        loss: cross_entropy, hinge, squared_hinge or iou
        label_smoothing: label smoothing of cross_entropy
        draws: size of the test ensemble of a Bayesian net; 0 for none
        recompute_inputs: recompute binary inputs in the backward pass: less memory, slower, same gradients
        threads: CPU threads; null for all
        workers: threads that decode image files; null for one per core
        skip_broken: skip image files that do not decode
        device: cpu, cuda, or auto
    """

    name: RunName = "base"
    summary: str = ""
    reference: str = ""
    measured: str = ""
    dataset: str = "mnist"
    input_size: Side | None = None
    permutation: NotNegativeInt | None = None
    whitening: Literal["zca"] | None = None
    validation: NotNegativeInt | None = None
    split_seed: NotNegativeInt = 0
    model: ModelRecipe = field(default_factory=ModelRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    augmentation: Augmentation = field(default_factory=Augmentation)
    continual: ContinualRecipe = field(default_factory=ContinualRecipe)
    init_from: str | None = None
    first_stage: Annotated[float, within("[0, 1e6]")] = 0.0
    teacher: str | None = None
    teacher_weight: PositiveShare = 1.0
    teacher_temperature: Positive = 1.0
    loss: str = "cross_entropy"
    label_smoothing: Share = 0.0
    epochs: Annotated[float, within("(0, 1e6]")] = 10
    batch_size: Annotated[int, within("[2, inf)")] = 100
    draws: Annotated[int, within("[0, 10000]")] = 10
    recompute_inputs: bool = False
    threads: Annotated[int, within("[1, 4096]")] | None = None
    workers: Annotated[int, within("[0, 4096]")] | None = None
    skip_broken: bool = False
    device: str = "auto"

    @property
    def fit(self) -> Fit:
        """The settings of `onebit.fit`; those of a step stand in `optimizer`."""
        sources = [(SharedSettings, self), (OptimizerRecipe, self.optimizer)]
        names = {item.name for item in dataclasses.fields(Fit)}
        values = {item.name: getattr(of, item.name) for kind, of in sources for item in dataclasses.fields(kind)}
        return Fit(**{name: value for name, value in values.items() if name in names})

    def settings(self) -> dict[str, Any]:
        """All settings that apply to this run, as a tree like that of a file."""
        parts = {"model": self.model.settings(), "optimizer": self.optimizer.settings()}
        first = {name: getattr(self, name) for name in DESCRIPTIVE}
        return first | dataclasses.asdict(self) | parts

    def values(self) -> dict[str, Any]:
        """Flag name -> value of all settings, also options of other optimizers and models."""
        values = flatten(self.settings())
        for part in (self.model, self.optimizer):
            for name, found in declared(part.PART, part.name).items():
                values.setdefault(f"{part.PART}.{name}", found.option.default)
        return values

    def changed_from(self, other: Recipe) -> list[tuple[str, Any, Any]]:
        """(flag name, value there, value here) of every different setting that can change the trained weights."""
        here, there = self.values(), other.values()
        moved = [flag for flag, name in self.model.code().items() if is_same_code(name, there.get(flag))]
        ignored = (*NOT_COMPARED, *moved)
        # arguments of a quantizer may be in one of them only
        both = ((name, there.get(name), here.get(name)) for name in {**here, **there} if name not in ignored)
        return [(name, was, now) for name, was, now in both if was != now]

    def with_warmup_of(self, epochs: float) -> Recipe:
        """The recipe with its warm-up shortened to the share of training that it has in `epochs`.

        Example:
            >>> Recipe(epochs=1, schedule=ScheduleRecipe(warmup=5)).with_warmup_of(100).schedule.warmup
            0.05
        """
        warmup = self.schedule.warmup * min(1, self.epochs / epochs)
        return dataclasses.replace(self, schedule=dataclasses.replace(self.schedule, warmup=warmup))

    def to_yaml(self) -> str:
        """The complete recipe; `onebit train FILE` repeats it."""
        import yaml

        plain = json.loads(json.dumps(self.settings()))  # lists in place of tuples
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def flag_types(kind: Any = Recipe, prefix: str = "") -> dict[str, Any]:
    """`seed`, `optimizer.lr`, …: every field that is a flag, with its type."""
    found: dict[str, Any] = {}
    for name, hint in field_types(kind).items():
        if dataclasses.is_dataclass(hint):
            found |= flag_types(hint, f"{prefix}{name}.")
        elif not (issubclass(kind, Part) and name in ("own", *CUSTOM_ONLY)):
            found[prefix + name] = hint
    options = declared(kind.PART) if issubclass(kind, Part) else {}
    return found | {prefix + name: row.option.kind for name, row in options.items()}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings by flag name: `{"optimizer": {"lr": 1}}` -> `{"optimizer.lr": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value})
    return flat
