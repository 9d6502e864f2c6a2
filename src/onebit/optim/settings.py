"""All optimizers by name, with their settings, which build them. Imports no torch: they are fields of recipes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from onebit.common.entries import Entry, Table
from onebit.common.fields import Checked, Count, NotNegative, Positive, PositiveShare, Share, checked, within
from onebit.errors import UsageError

FUSED = ("adam", "adamw", "sgd")
"""Optimizers that torch can fuse into one pass over parameters and state."""


class StepPlan(NamedTuple):
    """The steps of a training.

    Args:
        labels: number of training labels, of images or of pixels.
        epochs: passes over the training data.
        steps_per_epoch: optimizer steps per epoch.
        initialized: the model starts from trained weights (`init_from`).
    """

    labels: int
    epochs: float
    steps_per_epoch: int
    initialized: bool = False

    @property
    def steps(self) -> int:
        """All optimizer steps."""
        return round(self.epochs * self.steps_per_epoch)


@checked(frozen=True)
class StepSettings(Checked):
    """What an optimizer step does with a batch.

    Args:
        samples: draws of random weights per batch; their gradients are averaged
        accumulate: parts into which a batch is split to save memory, each of at least two samples; the gradient is that
            of the whole batch, but BatchNorm sees one part at a time
        clip_grad_norm: clips the norm of all gradients
        clip_grad_value: clips each gradient to ±this
    """

    samples: Count = 1
    accumulate: Count = 1
    clip_grad_norm: Positive | None = None
    clip_grad_value: Positive | None = None


@checked(frozen=True)
class Optimizer(StepSettings):
    """An optimizer of torch, or the base of the settings of another; the defaults suit ordinary ones.

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
        prox_strength: of the quantizer prox, times lr, the pull to ±1 in the last step before the freeze
        prox_freeze: of the quantizer prox, share of training after which latents stay ±1
    """

    PART: ClassVar[str] = "optimizer"
    trains: ClassVar[tuple[str, ...] | None] = None
    """The weight quantizers that it can train; None for all that do not name their optimizers."""
    own_rule: ClassVar[bool] = False
    """It has a rule for latents, a companion for other parameters, and needs latents."""
    lr_of_latents: ClassVar[bool] = True
    """`lr` is the rate of latents, not a setting of another name."""
    clips_gradients: ClassVar[bool] = True
    """False for gradients as large as the number of images, which a clip would shrink to nothing."""

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
    prox_strength: Positive | None = None
    prox_freeze: Annotated[float, within("[0, 1]")] | None = None

    def build(self, model: Any, plan: StepPlan) -> Any:
        """The torch optimizer over `latent_groups` of a model, with the prox and the latent clip."""
        from onebit.layers import binary_layers
        from onebit.optim.latents import clip_latents_, latent_groups
        from onebit.optim.prox import prox_latents_

        real_lr = self.real_lr if any(binary_layers(model)) else None
        groups = latent_groups(
            model,
            lr=self.lr if real_lr is None else real_lr,
            latent_clip=self.latent_clip,
            lr_scale=self.lr_scale,
            weight_decay=self.weight_decay,
            decay_latents=self.decay_latents,
            decay_norm=self.decay_norm,
        )
        if not self.own_rule and real_lr is not None:
            for group in groups:
                group["lr"] *= self.lr / real_lr if group.get("latent") else 1
        optimizer = self.make(OPTIMIZERS[self.name], groups, plan)
        if self.prox_strength is not None:
            last = math.inf if self.prox_freeze is None else round(self.prox_freeze * plan.steps)
            prox_latents_(optimizer, growth=self.prox_strength / max(1, min(plan.steps, last)), freeze=last)
        return clip_latents_(optimizer)

    def make(self, kind: Any, groups: list[dict[str, Any]], plan: StepPlan) -> Any:
        """The optimizer of a class; the fields that a subclass adds are its arguments, unless it overrides this."""
        given = {"momentum": self.momentum, "nesterov": self.nesterov, "fused": self.name in FUSED}
        own = {item.name for item in fields(self)} - {item.name for item in fields(Optimizer)}
        return kind(
            groups,
            lr=self.lr,
            **{name: value for name, value in given.items() if value},
            **{name: getattr(self, name) for name in own},
        )

    def rate(self, *, binary: bool) -> float:
        """The rate of which a schedule's `final_lr` is a part, in a net with binary weights or a real one.

        `lr` is the rate of latents, unless that has another name, and of all parameters of a real net.
        """
        return self.lr if self.lr_of_latents or self.real_lr is None or not binary else self.real_lr

    def factors(self, plan: StepPlan) -> dict[str, Callable[[int], float]]:
        """Setting of a group of latents ("lr" or another) -> its factor by step, where it does not follow the
        learning-rate schedule."""
        return {}


@checked(frozen=True)
class Adam(Optimizer):
    """Adam, and the optimizers of torch that average in the same way.

    Args:
        betas: shares of the past in the means of gradients and of squares
    """

    betas: tuple[Share, Share] = (0.9, 0.999)


@checked(frozen=True)
class Bop(Optimizer):
    """Flips a weight when the running mean of its gradient is steadily against it, see `onebit.optim.Bop`.

    Args:
        gamma: share of the newest gradient in the running mean
        threshold: a weight flips where its running mean is above this against it
        decay_epochs: epochs between decays; null lets gamma follow the schedule
        gamma_decay: factor on gamma at each decay
        threshold_decay: factor on the threshold at each decay
    """

    trains = ("sign", "ste_sign")
    own_rule = True
    lr_of_latents = False

    name: str = "bop"
    gamma: PositiveShare = 1e-4
    threshold: NotNegative = 1e-8
    decay_epochs: Positive | None = None
    gamma_decay: Positive = 0.1
    threshold_decay: Positive = 1.0

    def make(self, kind: Any, groups: list[dict[str, Any]], plan: StepPlan) -> Any:
        return kind(groups, gamma=self.gamma, threshold=self.threshold)

    def factors(self, plan: StepPlan) -> dict[str, Callable[[int], float]]:
        if self.decay_epochs is None:
            return {}
        every = max(1, round(self.decay_epochs * plan.steps_per_epoch))
        return {
            "lr": lambda step: self.gamma_decay ** (step // every),
            "threshold": lambda step: self.threshold_decay ** (step // every),
        }


@checked(frozen=True)
class BayesBiNN(Optimizer):
    """The Bayesian learning rule of random weights, see `onebit.optim.BayesBiNN`.

    Args:
        latent_init: latents start at plus or minus this
        data_scale: factor on the number of training images; above 1 if augmented
        lagged_mean: take the slope of draws from the step before, as the authors' code does
        prior: the weights of init_from are also the prior; otherwise it is 0
    """

    trains = ("concrete_sign",)
    own_rule = True
    clips_gradients = False

    name: str = "bayesbinn"
    latent_init: Positive = 10.0
    data_scale: Positive = 1.0
    lagged_mean: bool = False
    prior: bool = False

    def make(self, kind: Any, groups: list[dict[str, Any]], plan: StepPlan) -> Any:
        """Trained latents continue, others start at ±`latent_init`."""
        from onebit.optim.bayesbinn import is_posterior

        if self.prior and not plan.initialized:
            raise UsageError("optimizer.prior makes a prior of the weights it starts from: add --init_from")
        optimizer = kind(
            groups,
            count=plan.labels * self.data_scale,
            lr=self.lr,
            momentum=self.momentum,
            init=None if plan.initialized or is_posterior(groups) else self.latent_init,
            lagged_mean=self.lagged_mean,
        )
        if self.prior:
            optimizer.set_prior_()
        return optimizer


@dataclass(frozen=True, eq=False)
class OptimizerEntry(Entry):
    """An optimizer and the class of its settings."""

    settings: type[Optimizer] = Optimizer


OPTIMIZERS = Table(
    OptimizerEntry,
    {
        "adafactor": "torch.optim:Adafactor",
        "adadelta": "torch.optim:Adadelta",
        "adagrad": "torch.optim:Adagrad",
        "adam": OptimizerEntry("torch.optim:Adam", settings=Adam),
        "adamax": OptimizerEntry("torch.optim:Adamax", settings=Adam),
        "adamw": OptimizerEntry("torch.optim:AdamW", settings=Adam),
        "asgd": "torch.optim:ASGD",
        "nadam": OptimizerEntry("torch.optim:NAdam", settings=Adam),
        "radam": OptimizerEntry("torch.optim:RAdam", settings=Adam),
        "rmsprop": "torch.optim:RMSprop",
        "rprop": "torch.optim:Rprop",
        "sgd": "torch.optim:SGD",
        "bop": OptimizerEntry("onebit.optim.bop:Bop", settings=Bop),
        "bayesbinn": OptimizerEntry("onebit.optim.bayesbinn:BayesBiNN", settings=BayesBiNN),
    },
)
"""torch's optimizers for dense parameters (LBFGS needs a closure, SparseAdam sparse gradients, Muon matrices), then
those with a rule for latents."""
