"""All optimizers by name, with their options. Does not import torch: `onebit train --help` prints the options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onebit.common.entries import Entry, Option, Table
from onebit.common.fields import NotNegative, Positive, PositiveShare, Share


@dataclass(frozen=True)
class OptimizerSetup:
    """The arguments of an optimizer.

    Args:
        settings: the optimizer part of the recipe (`onebit.recipe.OptimizerRecipe`), with the options of the entry.
        groups: of `latent_groups`.
        count: number of training labels, of images or of pixels.
        steps_per_epoch, steps: optimizer steps per epoch and in total.
        initialized: the model starts from trained weights (`init_from`).
    """

    settings: Any
    groups: list[dict[str, Any]]
    count: int
    steps_per_epoch: int
    steps: int
    initialized: bool


@dataclass(frozen=True, eq=False)
class OptimizerEntry(Entry):
    """An optimizer; the defaults are those of an ordinary torch optimizer.

    Args:
        trains: the weight quantizers that it can train; None for all that do not name their optimizers.
        own_rule: it has a rule for latents and a companion for other parameters, and needs latents.
        lr_of_latents: `lr` is the rate of latents, not an option of another name.
        clips_latents: `latent_clip` has an effect.
        clips_gradients: False for gradients as large as the number of images, which a clip would shrink to nothing.
        build: OptimizerSetup -> optimizer, or "module:name" of it; None for `target(groups, lr=…, momentum=…)` with
            each of `options` as an argument.
        factors: OptimizerSetup -> {setting of a group of latents: (step -> factor)}, where the setting ("lr" or
            another) does not follow the learning-rate schedule; or "module:name" of it.
    """

    trains: tuple[str, ...] | None = None
    own_rule: bool = False
    lr_of_latents: bool = True
    clips_latents: bool = True
    clips_gradients: bool = True
    build: Any = None
    factors: Any = None


BETAS = (
    Option("betas", tuple[Share, Share], (0.9, 0.999), "shares of the past in the means of gradients and of squares"),
)
BOP = (
    Option("gamma", PositiveShare, 1e-4, "share of the newest gradient in the running mean"),
    Option("threshold", NotNegative, 1e-8, "a weight flips where its running mean is above this against it"),
    Option("decay_epochs", Positive | None, None, "epochs between decays; null lets gamma follow the schedule"),
    Option("gamma_decay", Positive, 0.1, "factor on gamma at each decay"),
    Option("threshold_decay", Positive, 1.0, "factor on the threshold at each decay"),
)
BAYESBINN = (
    Option("latent_init", Positive, 10.0, "latents start at plus or minus this"),
    Option("data_scale", Positive, 1.0, "factor on the number of training images; above 1 if augmented"),
    Option("lagged_mean", bool, False, "take the slope of draws from the step before, as the authors' code does"),
    Option("prior", bool, False, "the weights of init_from are also the prior; otherwise it is 0"),
)

OPTIMIZERS = Table(
    OptimizerEntry,
    {
        "adafactor": "torch.optim:Adafactor",
        "adadelta": "torch.optim:Adadelta",
        "adagrad": "torch.optim:Adagrad",
        "adam": OptimizerEntry("torch.optim:Adam", options=BETAS),
        "adamax": OptimizerEntry("torch.optim:Adamax", options=BETAS),
        "adamw": OptimizerEntry("torch.optim:AdamW", options=BETAS),
        "asgd": "torch.optim:ASGD",
        "nadam": OptimizerEntry("torch.optim:NAdam", options=BETAS),
        "radam": OptimizerEntry("torch.optim:RAdam", options=BETAS),
        "rmsprop": "torch.optim:RMSprop",
        "rprop": "torch.optim:Rprop",
        "sgd": "torch.optim:SGD",
        "bop": OptimizerEntry(
            "onebit.optim.bop:Bop",
            options=BOP,
            trains=("sign", "ste_sign"),
            own_rule=True,
            lr_of_latents=False,
            clips_latents=False,
            build="onebit.optim.bop:build_bop",
            factors="onebit.optim.bop:bop_factors",
        ),
        "bayesbinn": OptimizerEntry(
            "onebit.optim.bayesbinn:BayesBiNN",
            options=BAYESBINN,
            trains=("concrete_sign",),
            own_rule=True,
            clips_gradients=False,
            build="onebit.optim.bayesbinn:build_bayesbinn",
        ),
    },
)
"""torch's optimizers for dense parameters (LBFGS needs a closure, SparseAdam sparse gradients, Muon matrices), then
those with a rule for latents."""

AFTER_STEP = {"prox_growth": "onebit.optim.prox:prox_group_"}
"""Key of a parameter group -> function of the group and its updated parameters, called between step and clip."""
BEFORE_STEP = {"prox_freeze": "onebit.optim.prox:freeze_group_"}
"""Key of a parameter group -> function of the group, called before each step."""
