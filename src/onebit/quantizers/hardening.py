"""Weights that harden: from the latents of a trained float net to the weights of any quantizer."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from onebit.common.fields import read, within
from onebit.quantizers.base import BinaryWeight, Quantizer, Scheduled

Until = Annotated[float, within("(0, 1]")]


class Hardening(Scheduled):
    """(1 − s)·w + s·q(w) in training, where s rises from 0 to 1, for a quantizer q; what ships is q(w).

    For training that starts from a float net. Yin et al. 2018 (BinaryRelax, arXiv:1801.06313) have s = λ/(1 + λ) with a
    growing λ, then 1; here s grows with the progress p of training: s = min(1, p/`until`).

    Args:
        quantizer: q, of weights; its parameters are trained as without this class.
        until: share of training after which the weights are those of q.

    Shapes:
        latent: those of q.

    Raises:
        UsageError: `until` is not in (0, 1].

    Example:
        >>> onebit.binarize_(model, weight_quantizer=lambda: Hardening(Xnor(group=128)))
    """

    share: Tensor
    relaxed = True

    def __init__(self, quantizer: Quantizer, until: float = 0.6) -> None:
        super().__init__("share", 0.0)
        self.quantizer, self.until = quantizer, read(until, Until, name="until")
        self.latent_bound, self.start = quantizer.latent_bound, quantizer.start

    @property
    def shipped(self) -> Quantizer:
        return self.quantizer

    def bind(self, latent: Tensor) -> None:
        self.quantizer.bind(latent)

    def set_progress(self, progress: float) -> None:
        self.set_scheduled(min(1.0, progress / self.until))
        self.quantizer.set_progress(progress)

    def forward(self, latent: Tensor) -> Tensor:
        """(O, …) latent -> (O, …) weights."""
        made: Tensor = self.quantizer(latent)
        return torch.lerp(latent.to(made.dtype), made, self.share.to(made.dtype)) if self.training else made

    def decompose(self, latent: Tensor) -> BinaryWeight:
        return self.quantizer.decompose(latent)

    def sample(self, latent: Tensor, *, generator: torch.Generator | None = None) -> BinaryWeight | None:
        return self.quantizer.sample(latent, generator=generator)
