"""The prox of ProxQuant's W-shaped penalty after each step of any optimizer (Bai et al. 2018, arXiv:1810.00861)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from onebit.common.fields import Positive, read
from onebit.errors import UsageError
from onebit.optim.latents import finish_steps_
from onebit.quantizers.base import sign
from onebit.quantizers.chunks import in_chunks


def prox_(latent: Tensor, strength: float) -> Tensor:
    """w ← sign(w) + soft(w − sign(w), strength), in place: moves weights by `strength` to their signs, no further.

    soft(x, s) = x − clamp(x, −s, s), so that w ← w − clamp(w − sign(w), ±strength).
    """
    for (w,) in in_chunks(latent):
        signs = sign(w)
        if math.isinf(strength):
            w.copy_(signs)
        else:
            w.sub_(torch.sub(w, signs, out=signs).clamp_(-strength, strength))
    return latent


def prox_group_(group: dict[str, Any], moved: list[Tensor]) -> None:
    """Count a step of a group of latents, and apply the prox of strength lr·λ_t; after the freeze it is infinite."""
    group["prox_step"] += 1
    frozen = group["prox_step"] > group["prox_freeze"]
    strength = math.inf if frozen else float(group["lr"]) * group["prox_growth"] * group["prox_step"]
    for latent in moved if strength else ():
        prox_(latent, strength)


def freeze_group_(group: dict[str, Any]) -> None:
    """Drop the gradients of frozen latents: a step longer than 1 would flip their signs."""
    if group["prox_step"] > group["prox_freeze"]:
        for latent in group["params"]:
            latent.grad = None


def prox_latents_(
    optimizer: torch.optim.Optimizer, *, growth: float, freeze: float = math.inf
) -> torch.optim.Optimizer:
    """After each `step()`, apply the prox of strength lr·λ_t to the updated latents, before any clip.

    λ_t = growth·t after t steps; in the authors' code it grows by epochs (1e-4 each in its ResNet-20 script). Works
    with any torch optimizer and its schedules; idempotent: the settings and t are in the groups of latents, and so in
    the state_dict. For the quantizer `prox`.

    Args:
        optimizer: over `latent_groups`.
        growth: of λ per step.
        freeze: number of steps after which the next step sets latents to their signs for good.

    Returns:
        `optimizer` itself.

    Raises:
        UsageError: growth that is not positive, or no group of latents.
    """
    groups = [group for group in optimizer.param_groups if group.get("latent")]
    read(growth, Positive, name="growth")
    if not groups:
        raise UsageError("there are no groups of latents")
    for group in groups:
        group |= {"prox_growth": growth, "prox_freeze": freeze}
        group.setdefault("prox_step", 0)
    return finish_steps_(optimizer)
