"""The prox of ProxQuant's W-shaped penalty after each step of any optimizer (Bai et al. 2018, arXiv:1810.00861)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from onebit.quantizers.base import sign
from onebit.quantizers.chunks import in_chunks


def prox_(latent: Tensor, strength: float) -> Tensor:
    """w ← sign(w) + soft(w − sign(w), strength), in place: each weight nearer to its ±1 by `strength`, at most to it.

    soft(x, s) = x − clamp(x, −s, s), so that w ← w − clamp(w − sign(w), ±strength).
    """
    for (w,) in in_chunks(latent):
        signs = sign(w)
        if math.isinf(strength):
            w.copy_(signs)
        else:
            w.sub_(torch.sub(w, signs, out=signs).clamp_(-strength, strength))
    return latent


def next_strength(group: dict[str, Any]) -> float:
    """Count one more step of a group of latents; the strength of its prox, lr·λ_t, or infinite to freeze them."""
    group["prox_step"] += 1
    if group["prox_step"] > group["prox_freeze"]:
        return math.inf
    return float(group["lr"]) * group["prox_growth"] * group["prox_step"]
