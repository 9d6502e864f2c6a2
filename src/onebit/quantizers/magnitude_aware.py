"""The magnitude-aware sign of Bi-Real net (Liu et al. 2018, arXiv:1808.00278)."""

from __future__ import annotations

from torch import Tensor

from onebit.quantizers.base import BinaryWeight, Quantizer, SignedWeight, autocast_dtype, clipped, sign
from onebit.quantizers.channels import mean_magnitude, rows
from onebit.quantizers.surrogates import signed


class MagnitudeAware(Quantizer):
    """α·sign(w), α = mean|w| per output channel, with gradient α·g·1{|w| <= 1} (Bi-Real net, arXiv:1808.00278).

    No gradient runs through α, as in the authors' code, whose gradient also lacks the factor α. Latents beyond ±1 get
    no gradient and return by weight decay only: with a large learning rate, clip them. In a channel of zeros α is 1e-12
    (1e-3 in float16, and 6e-5 in the products of float16 autocast).

    Shapes:
        latent: (O, …) with at least two dimensions.
    """

    def forward(self, latent: Tensor) -> Tensor:
        """(O, …) latent -> (O, …) of ±α."""
        used = autocast_dtype(latent)
        scale = mean_magnitude(rows(latent.detach(), latent), used).view(-1, *[1] * (latent.dim() - 1))
        return signed(latent, clipped) * scale.to(used)

    def signed_weight(self, latent: Tensor) -> SignedWeight:
        weight = self(latent)
        return SignedWeight(weight, weight.detach(), weight.detach()[:, 0].float().abs())

    def decompose(self, latent: Tensor) -> BinaryWeight:
        latent = latent.detach()
        return BinaryWeight(sign(latent), mean_magnitude(rows(latent, latent)).flatten())
