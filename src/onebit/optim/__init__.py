"""Optimizers by name: any of torch's with the latent clip, and those that move binary weights by rules of their own."""

from __future__ import annotations

import inspect

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


def takes(kind: type[torch.optim.Optimizer], option: str) -> bool:
    """Whether an optimizer has an option of that name.

    Example:
        >>> takes(torch.optim.SGD, "momentum"), takes(torch.optim.Adam, "momentum")
        (True, False)
    """
    return option in inspect.signature(kind).parameters


def _of_torch() -> dict[str, type[torch.optim.Optimizer]]:
    """Every optimizer of torch that moves any dense parameter: those with a `foreach` form.

    LBFGS (which needs a closure), SparseAdam (sparse gradients) and Muon (matrices) have none.
    """
    classes = [kind for kind in vars(torch.optim).values() if inspect.isclass(kind)]
    kinds = [kind for kind in classes if issubclass(kind, torch.optim.Optimizer)]
    return {kind.__name__.lower(): kind for kind in kinds if takes(kind, "foreach")}


OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    **_of_torch(),
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
    "takes",
]
