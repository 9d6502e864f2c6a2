"""The settings of `fit` and of schedules. Imports no torch: they are fields of recipes, too."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from onebit.common.fields import Checked, Count, NotNegative, NotNegativeInt, Positive, Share, checked, within
from onebit.errors import UsageError
from onebit.optim.settings import StepSettings

ScheduleName = Literal["constant", "cosine", "exponential", "linear", "milestones", "one_cycle", "plateau", "step"]
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)


@checked(frozen=True)
class SharedSettings(Checked):
    """What `fit` and a recipe call the same.

    Args:
        epochs: passes over the training data, for each task; 0.5 trains on half of them
        patience: stop after this many epochs without a better validation figure; null trains all epochs
        batch_size: samples per optimizer step, over all processes
        class_weights: balanced, or a number for each class, on what its samples or pixels cost; null weighs all alike
        ema: decay of a moving average of the weights, which is then validated and saved; 0 for none
        seed: seed of initial weights, order, augmentation and draws
        precision: auto, bf16 or fp32
        memory_format: auto (channels_last for convolutional nets), channels_last or contiguous
        compile: run the model through torch.compile
        sync_norm: share BatchNorm statistics between processes
    """

    epochs: Annotated[float, within("(0, 1e6]")] | None = None
    patience: Count | None = None
    batch_size: Count | None = None
    class_weights: Literal["balanced"] | tuple[NotNegative, ...] | None = None
    ema: Share = 0.0
    seed: Annotated[int, within("[0, 9223372036854775808)")] = 0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    compile: bool = False
    sync_norm: bool = False


@checked(frozen=True)
class Fit(StepSettings, SharedSettings):
    """How `fit` trains: the settings of `SharedSettings` and `StepSettings`, and these.

    The batch size is 100 by default, or the number of samples if that is less; a loader keeps its batches. `patience`
    looks at the figure that selects the best epoch. Balanced class weights are N/(K·n) for n of N labels and K classes.
    `sync_norm` is not for models with activation checkpointing, which would repeat a part with the statistics of its
    rank.

    Args:
        steps: optimizer steps in all, instead of `epochs`.
        steps_per_epoch: optimizer steps between two validations and checkpoints; by default a pass, or all steps of a
            loader without length. An epoch goes on where the last one ended; on resume, a loader is read up to there.
        ignore_index: samples with this label count neither in the loss nor as errors.

    Raises:
        UsageError: a value of another type, or out of bounds.
    """

    steps: Count | None = None
    steps_per_epoch: Count | None = None
    ignore_index: int | None = None


@checked(frozen=True)
class Schedule(Checked):
    """The learning-rate schedule.

    Args:
        name: constant, linear, cosine, one_cycle, exponential, step, milestones or plateau
        final_lr: lr at the end of linear, cosine, one_cycle and exponential, and the least of plateau; other rates fall
            by the same factor
        warmup: epochs of linear warm-up; for one_cycle, of its rise (0 means 30 % of training)
        gamma: factor at each step, milestone or plateau
        step_size: epochs between steps
        milestones: epochs at which the rate falls
        patience: a plateau is more epochs than this without a better validation figure
    """

    PART: ClassVar[str] = "schedule"

    name: ScheduleName = "cosine"
    final_lr: NotNegative = 0.0
    warmup: NotNegative = 0.0
    gamma: Positive = 0.1
    step_size: Positive | None = None
    milestones: tuple[Positive, ...] = ()
    patience: NotNegativeInt = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, fits, needed in (
            ("step", self.step_size, "schedule.step_size"),
            ("milestones", self.milestones, "schedule.milestones"),
            ("plateau", self.gamma < 1 and not self.warmup, "schedule.gamma below 1 and schedule.warmup 0"),
        ):
            if name == self.name and not fits:
                raise UsageError(f"schedule {name} needs {needed}")
