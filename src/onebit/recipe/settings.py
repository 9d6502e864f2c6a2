"""The schema of a recipe: every setting of a run, with its type and bounds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from onebit.common.augmentation import Augmentation, Side
from onebit.common.custom_names import is_same_code
from onebit.common.fields import Bound, Checked, NotNegativeInt, Positive, PositiveShare, Share, checked, within
from onebit.models.settings import Mlp, Model
from onebit.optim.settings import Adam, Optimizer, StepSettings
from onebit.train.settings import Fit, Schedule, SharedSettings

DESCRIPTIVE = ("name", "summary", "reference", "measured")
"""Fields that describe a run but do not change it."""
MAX_NAME_LENGTH = 200
NOT_COMPARED = (*DESCRIPTIVE, "recompute_inputs", "threads", "workers")
RunName = Annotated[
    str,
    Bound(
        f"1 to {MAX_NAME_LENGTH} characters that print, without / and \\",
        lambda name: (
            name.isprintable() and len(name.strip()) >= 1 and len(name) <= MAX_NAME_LENGTH
            and not set(name) & set("/\\") and name not in (".", "..")
        ),
    ),
]  # fmt: skip
"""The name of a folder in runs/."""


@checked(frozen=True)
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


@checked(frozen=True)
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
    model: Model = field(default_factory=Mlp)
    optimizer: Optimizer = field(default_factory=Adam)
    schedule: Schedule = field(default_factory=Schedule)
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
        parts = [(SharedSettings, self), (StepSettings, self.optimizer)]
        return Fit(**{item.name: getattr(of, item.name) for kind, of in parts for item in dataclasses.fields(kind)})

    def settings(self) -> dict[str, Any]:
        """All settings as a tree like that of a file."""
        return {name: getattr(self, name) for name in DESCRIPTIVE} | dataclasses.asdict(self)

    def values(self) -> dict[str, Any]:
        """Flag name -> value of all settings."""
        return flatten(self.settings())

    def changed_from(self, other: Recipe) -> list[tuple[str, Any, Any]]:
        """(flag name, value there, value here) of every different setting that can change the trained weights.

        Settings that the other model or optimizer does not have are compared with their defaults.
        """
        ours, theirs = (
            {f"{part.PART}.{item.name}": item.default for part in parts for item in dataclasses.fields(part)}
            for parts in ((self.model, self.optimizer), (other.model, other.optimizer))
        )
        here: dict[str, Any] = self.values()
        there: dict[str, Any] = ours | other.values()
        moved = [flag for flag, name in self.model.code().items() if is_same_code(name, there.get(flag))]
        ignored = (*NOT_COMPARED, *moved, *(theirs.keys() - ours))
        # arguments of a quantizer may be in one of them only
        both = ((name, there.get(name), here.get(name)) for name in {**here, **there} if name not in ignored)
        return [(name, was, now) for name, was, now in both if was != now]

    def with_warmup_of(self, epochs: float) -> Recipe:
        """The recipe with its warm-up shortened to the share of training that it has in `epochs`.

        Example:
            >>> Recipe(epochs=1, schedule=Schedule(warmup=5)).with_warmup_of(100).schedule.warmup
            0.05
        """
        warmup = self.schedule.warmup * min(1, self.epochs / epochs)
        return dataclasses.replace(self, schedule=dataclasses.replace(self.schedule, warmup=warmup))

    def to_yaml(self) -> str:
        """The complete recipe; `onebit train FILE` repeats it."""
        import yaml

        plain = json.loads(json.dumps(self.settings()))  # lists in place of tuples
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings by flag name: `{"optimizer": {"lr": 1}}` -> `{"optimizer.lr": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat
