"""The binary optimizer Bop (Helwegen et al. 2019, arXiv:1906.02107)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from onebit.common.fields import NotNegative, PositiveShare, read
from onebit.native import FLIP
from onebit.optim.companion import Companion, CompanionOptimizer
from onebit.optim.one_pass import update_latent
from onebit.quantizers.base import sign
from onebit.quantizers.chunks import in_chunks

MIN_MEAN = 1e-38
MAX_FACTOR = 3e38
"""MIN_MEAN · MAX_FACTOR > 2: a mean above MIN_MEAN flips a weight."""


class Bop(CompanionOptimizer):
    """Bop: weights are ±1 and flip where the running mean of their gradient is steadily against them.

    m ← m + γ·(g − m), then w ← −w where m·w > τ (algorithm 1). Latents are set to their signs, and stay ±1; of other
    weights that are loaded later only the signs count.

    Args:
        groups: of `latent_groups`; in those of latents `lr` becomes γ, so that schedulers change it, and `threshold` τ.
            A latent clip is dropped.
        gamma: γ, the share of the newest gradient in the mean.
        threshold: τ, at least 0.
        companion: makes the optimizer of real parameters from their groups; None for Adam.

    Raises:
        UsageError: γ not in (0, 1], τ below 0, no latents, or weight decay of latents.

    Example:
        >>> optimizer = Bop(latent_groups(model, lr=1e-3), gamma=1e-4, threshold=1e-8)  # doctest: +SKIP
    """

    lr_of_latents = False

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        gamma: float = 1e-4,
        threshold: float = 1e-8,
        companion: Companion | None = None,
    ) -> None:
        read(gamma, PositiveShare, name="gamma")
        read(threshold, NotNegative, name="threshold")
        super().__init__(groups, {"lr": gamma, "threshold": threshold}, companion)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        if param_group.get("latent"):
            param_group.pop("latent_clip", None)

    def start_(self, latent: Tensor) -> None:
        latent.copy_(sign(latent))

    def move_(self, latent: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[latent]
        if not state:
            state["mean"] = torch.zeros_like(latent, memory_format=torch.preserve_format)
        least = max(float(group["threshold"]), MIN_MEAN)
        if update_latent(FLIP, latent, gradient, state["mean"], share=float(group["lr"]), threshold=least):
            return
        for w, g, m in in_chunks(latent, gradient, state["mean"]):
            m.lerp_(g, float(group["lr"]))
            # 0 where |m| <= τ; a mean of the sign opposite to its weight is clamped away
            against = torch.nn.functional.hardshrink(m, least)
            # of the sign, as weights that are loaded later may be any numbers
            torch.sub(sign(w), against, alpha=MAX_FACTOR, out=w).clamp_(-1, 1)
