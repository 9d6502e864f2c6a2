"""Every optimizer by name, with what it declares. No torch here: `onebit train --help` prints the options."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any

from onebit.common.arguments import need, positive
from onebit.common.entries import Entry, Need, Table, option


@dataclass(frozen=True)
class OptimizerSetup:
    """What an optimizer is built from.

    Args:
        settings: the optimizer part of the recipe (`onebit.recipe.OptimizerRecipe`).
        options: the options that the entry declares; None where it declares none.
        groups: parameter groups, see `latent_groups`.
        count: number of training labels, of images or of pixels.
        steps_per_epoch, steps: optimizer steps in an epoch and in the whole training.
        initialized: the model starts from trained weights (`init_from`).
    """

    settings: Any
    options: Any
    groups: list[dict[str, Any]]
    count: int
    steps_per_epoch: int
    steps: int
    initialized: bool


@dataclass(frozen=True, eq=False)
class OptimizerEntry(Entry):
    """What an optimizer declares; the defaults are those of an ordinary torch optimizer.

    Args:
        options: dataclass of its own options, which become fields of a recipe; no option has the name of a common one.
        trains: the weight quantizers that it can train; None for all that do not name their optimizers.
        own_rule: it moves latents by a rule of its own, leaves other parameters to a companion, and needs latents.
        clips_latents: `latent_clip` has an effect.
        clips_gradients: False for gradients as large as the number of images, of which a clip would leave nothing.
        build: OptimizerSetup -> optimizer, or "module:name" of it; None for `target(groups, lr=…, momentum=…)`.
        factors: OptimizerSetup -> {setting of a group of latents: (step -> factor)}, where the setting ("lr" or
            another) does not follow the learning-rate schedule; or "module:name" of it.
    """

    options: type | None = None
    trains: tuple[str, ...] | None = None
    own_rule: bool = False
    clips_latents: bool = True
    clips_gradients: bool = True
    build: Any = None
    factors: Any = None


_DECAYS = Need("decay_epochs", lambda recipe: recipe.optimizer.decay_epochs is not None, "optimizer.decay_epochs")
_NEW = Need("a training from new weights", lambda recipe: recipe.init_from is None, "init_from")


@dataclass(frozen=True)
class BopOptions:
    """Options of Bop; `lr` is the learning rate of real parameters.

    Args:
        gamma: share of the newest gradient in the running mean
        threshold: a weight flips where its running mean is above this against it
        decay_epochs: epochs between decays; null lets gamma follow the schedule and keeps the threshold
        gamma_decay: factor on gamma at each decay
        threshold_decay: factor on the threshold at each decay
    """

    gamma: float = 1e-4
    threshold: float = 1e-8
    decay_epochs: float | None = None
    gamma_decay: float = option(0.1, _DECAYS)
    threshold_decay: float = option(1.0, _DECAYS)

    def __post_init__(self) -> None:
        need("optimizer.gamma", self.gamma, 0 < self.gamma <= 1, "in (0, 1]")
        need("optimizer.threshold", self.threshold, 0 <= self.threshold < math.inf, "0 or more")
        for name in ("decay_epochs", "gamma_decay", "threshold_decay"):
            value = getattr(self, name)
            need(f"optimizer.{name}", value, value is None or positive(value), "positive")


@dataclass(frozen=True)
class BayesBiNNOptions:
    """Options of BayesBiNN.

    Args:
        latent_init: latents start at plus or minus this
        data_scale: factor on the number of training images (with masks: pixels); above 1 for augmented images
        prior: the weights that training starts from (init_from) are also the prior; otherwise it is 0
    """

    latent_init: float = option(10.0, _NEW)
    data_scale: float = 1.0
    prior: bool = False

    def __post_init__(self) -> None:
        for name in ("latent_init", "data_scale"):
            need(f"optimizer.{name}", getattr(self, name), positive(getattr(self, name)), "positive")


OPTIMIZERS = Table(
    OptimizerEntry,
    {
        "adafactor": OptimizerEntry("torch.optim:Adafactor"),
        "adadelta": OptimizerEntry("torch.optim:Adadelta"),
        "adagrad": OptimizerEntry("torch.optim:Adagrad"),
        "adam": OptimizerEntry("torch.optim:Adam"),
        "adamax": OptimizerEntry("torch.optim:Adamax"),
        "adamw": OptimizerEntry("torch.optim:AdamW"),
        "asgd": OptimizerEntry("torch.optim:ASGD"),
        "nadam": OptimizerEntry("torch.optim:NAdam"),
        "radam": OptimizerEntry("torch.optim:RAdam"),
        "rmsprop": OptimizerEntry("torch.optim:RMSprop"),
        "rprop": OptimizerEntry("torch.optim:Rprop"),
        "sgd": OptimizerEntry("torch.optim:SGD"),
        "bop": OptimizerEntry(
            "onebit.optim.bop:Bop",
            options=BopOptions,
            trains=("sign", "ste_sign"),
            own_rule=True,
            clips_latents=False,
            build="onebit.optim.bop:build_bop",
            factors="onebit.optim.bop:bop_factors",
        ),
        "bayesbinn": OptimizerEntry(
            "onebit.optim.bayesbinn:BayesBiNN",
            options=BayesBiNNOptions,
            trains=("concrete_sign",),
            own_rule=True,
            clips_gradients=False,
            build="onebit.optim.bayesbinn:build_bayesbinn",
        ),
    },
)
"""torch's optimizers for dense parameters (LBFGS needs a closure, SparseAdam sparse gradients, Muon matrices), then
those that move latents by a rule of their own."""

AFTER_STEP = {"prox_growth": "onebit.optim.prox:prox_group_"}
"""Key of a parameter group -> what is done after each step to its parameters that moved, before their clip."""


def takes(kind: Any, option: str) -> bool:
    """Whether an optimizer has an option of that name.

    Example:
        >>> takes(torch.optim.SGD, "momentum"), takes(torch.optim.Adam, "momentum")
        (True, False)
    """
    return option in inspect.signature(kind).parameters
