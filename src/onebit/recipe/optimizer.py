"""The settings of the optimizer and of its learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from onebit.common.arguments import need, positive
from onebit.recipe.options import Part


@dataclass(frozen=True, init=False)
class OptimizerRecipe(Part):
    """The optimizer; options of its own are declared in `onebit.optim.optimizer_table`.

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
        clip_grad_norm: clips the norm of all gradients together
        clip_grad_value: clips each gradient to ±this
        compile: compile the update with torch.compile (slow to start, faster in long runs)
    """

    PART: ClassVar[str] = "optimizer"

    name: str = "adam"
    lr: float = 1e-3
    real_lr: float | None = None
    lr_scale: str | None = None
    latent_clip: float | str | None = "value"
    weight_decay: float = 0.0
    decay_latents: bool = False
    decay_norm: bool = False
    momentum: float = 0.0
    nesterov: bool = False
    samples: int = 1
    accumulate: int = 1
    clip_grad_norm: float | None = None
    clip_grad_value: float | None = None
    compile: bool = False
    own: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        need("optimizer.lr", self.lr, positive(self.lr), "positive")
        need("optimizer.weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "0 or more")
        clip = self.latent_clip in (None, "value") or (not isinstance(self.latent_clip, str) and self.latent_clip > 0)
        need("optimizer.latent_clip", self.latent_clip, clip, "a positive number, value or null")
        need("optimizer.momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        for name in ("accumulate", "samples"):
            need(f"optimizer.{name}", getattr(self, name), getattr(self, name) >= 1, "1 or more")
        for name in ("clip_grad_norm", "clip_grad_value", "real_lr"):
            limit = getattr(self, name)
            need(f"optimizer.{name}", limit, limit is None or positive(limit), "positive")


SCHEDULES = ("constant", "cosine", "exponential", "linear", "milestones", "one_cycle", "step")


@dataclass(frozen=True)
class ScheduleRecipe:
    """The learning-rate schedule.

    Args:
        name: constant, linear, cosine, one_cycle, exponential, step or milestones
        final_lr: lr at the end of linear, cosine, one_cycle and exponential; other rates fall by the same factor
        warmup: epochs of linear warm-up; for one_cycle, of its rise (0 means 30 % of training)
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
        need("schedule.final_lr", self.final_lr, 0 <= self.final_lr < math.inf, "0 or more")
        need("schedule.warmup", self.warmup, 0 <= self.warmup < math.inf, "0 or more epochs")
        need("schedule.gamma", self.gamma, positive(self.gamma), "positive")
        marks = all(map(positive, self.milestones)) and (len(self.milestones) > 0 or self.name != "milestones")
        need("schedule.milestones", self.milestones, marks, "positive (epochs), one or more")
        if self.name == "step":
            need("schedule.step_size", self.step_size, positive(self.step_size or 0), "positive (epochs)")
