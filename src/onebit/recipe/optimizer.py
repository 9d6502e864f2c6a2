"""The settings of the optimizer and of its learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from onebit.common.fields import Checked, Count, NotNegative, NotNegativeInt, Positive, Share
from onebit.errors import UsageError
from onebit.recipe.options import Part
from onebit.train.settings import Schedule


@dataclass(frozen=True, init=False)
class OptimizerRecipe(Part):
    """The optimizer; its further options are declared in `onebit.optim.optimizer_table`.

    Args:
        name: see `onebit list optimizers`
        lr: learning rate
        real_lr: learning rate of real parameters beside binary weights; null takes lr
        lr_scale: factor on the latents' rate, glorot (1/sqrt(1.5/(fan_in + fan_out))) or glorot_squared
        latent_clip: clips latents to ±this after each step; value takes the quantizer's own bound; null for none
        weight_decay: weight decay of real weights, without latents, biases and BatchNorm
        decay_latents: weight decay also of latents
        decay_norm: weight decay also of biases and BatchNorm
        momentum: for optimizers with a momentum
        nesterov: Nesterov momentum of SGD
        samples: draws of random weights per batch; their gradients are averaged
        accumulate: parts into which a batch is split to save memory
        clip_grad_norm: clips the norm of all gradients
        clip_grad_value: clips each gradient to ±this
    """

    PART: ClassVar[str] = "optimizer"

    name: str = "adam"
    lr: Positive = 1e-3
    real_lr: Positive | None = None
    lr_scale: Literal["glorot", "glorot_squared"] | None = None
    latent_clip: Positive | Literal["value"] | None = "value"
    weight_decay: NotNegative = 0.0
    decay_latents: bool = False
    decay_norm: bool = False
    momentum: Share = 0.0
    nesterov: bool = False
    samples: Count = 1
    accumulate: Count = 1
    clip_grad_norm: Positive | None = None
    clip_grad_value: Positive | None = None
    own: dict[str, object] = field(default_factory=dict, hash=False)  # options that were read already


@dataclass(frozen=True)
class ScheduleRecipe(Checked):
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

    name: Schedule = "cosine"
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
