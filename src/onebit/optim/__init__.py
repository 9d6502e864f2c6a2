"""Optimizers by name: those of torch with the latent clip, and those with update rules for binary weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebit.common.lazy import lazy
from onebit.optim.settings import OPTIMIZERS, OptimizerEntry

if TYPE_CHECKING:
    from onebit.optim.bayesbinn import BayesBiNN as BayesBiNN
    from onebit.optim.bop import Bop as Bop
    from onebit.optim.companion import CompanionOptimizer as CompanionOptimizer
    from onebit.optim.latents import (
        clip_latents_ as clip_latents_,
        finish_steps_ as finish_steps_,
        latent_groups as latent_groups,
        latent_rate as latent_rate,
        switch_ as switch_,
    )
    from onebit.optim.prox import prox_ as prox_, prox_latents_ as prox_latents_

_MODULES = {
    "bayesbinn": "BayesBiNN",
    "bop": "Bop",
    "companion": "CompanionOptimizer",
    "latents": "clip_latents_ finish_steps_ latent_groups latent_rate switch_",
    "prox": "prox_ prox_latents_",
}
__getattr__, __dir__, _NAMES = lazy(__name__, _MODULES)
__all__ = ["OPTIMIZERS", "OptimizerEntry", *_NAMES]
