"""Optimizers by name: any of torch's with the latent clip, and those that move binary weights by rules of their own."""

from __future__ import annotations

import torch

from onebit.optim.bayesbinn import BayesBiNN
from onebit.optim.bop import Bop
from onebit.optim.companion import CompanionOptimizer
from onebit.optim.compiled import compile_update_
from onebit.optim.latents import (
    check_optimizer,
    clip_latents_,
    finish_steps_,
    latent_groups,
    latent_rate,
    prox_latents_,
)
from onebit.optim.prox import prox_

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
    "bop": Bop,
    "bayesbinn": BayesBiNN,
}

__all__ = [
    "OPTIMIZERS",
    "BayesBiNN",
    "Bop",
    "CompanionOptimizer",
    "check_optimizer",
    "clip_latents_",
    "compile_update_",
    "finish_steps_",
    "latent_groups",
    "latent_rate",
    "prox_",
    "prox_latents_",
]
