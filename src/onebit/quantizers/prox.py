"""ProxQuant (Bai, Wang, Liberty 2018, arXiv:1810.00861): weights that stay real in training, pulled to ±1."""

from __future__ import annotations

from torch import Tensor

from onebit.quantizers.base import Quantizer, autocast_dtype, sign
from onebit.quantizers.binaryconnect import PassGradient


class Prox(Quantizer):
    """ProxQuant: the latent in training, pulled to ±1 by `onebit.optim.prox_latents_`; its sign in eval mode.

    The gradient is passed on unchanged in both.
    """

    latent_bound = 1.0
    relaxed = True
    start = 1.0  # the latents are the weights

    def forward(self, latent: Tensor) -> Tensor:
        """(O, …) latent -> the latent in training, its signs in eval mode."""
        if self.training:
            return latent
        return PassGradient.apply(latent, sign(latent.detach()).to(autocast_dtype(latent)))
