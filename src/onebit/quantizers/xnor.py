"""The scaled sign of XNOR-Net (Rastegari et al. 2016, arXiv:1603.05279)."""

from __future__ import annotations

import torch
from torch import Tensor

from onebit.quantizers.base import SignedWeight, Surrogate, autocast_dtype, clipped, sign
from onebit.quantizers.channels import from_rows, rows
from onebit.quantizers.magnitude_aware import MagnitudeAware


def _gradient(gradient: Tensor, latent: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The gradient of α·sign(w): α·g·1{|w| <= 1} + sign(w)·mean(g·sign(w)), the mean over a channel."""
    # weight/rounded is sign(w) exactly, and saves two passes over the latent
    rounded = scale.to(weight.dtype).to(latent.dtype)
    # a list: of a generator, torch.compile of torch 2.14 says "already executing"
    gradient, weight = [rows(x, latent).to(latent.dtype) for x in (gradient, weight)]
    mean = torch.linalg.vecdot(gradient, weight)[:, None] / (rounded * max(weight.shape[1], 1))
    through = clipped(gradient, rows(latent, latent)).mul_(scale).addcmul_(weight, mean / rounded)
    return from_rows(through, latent)


class Xnor(MagnitudeAware):
    """α·sign(w), α = mean|w| per output channel, with the gradient of the whole product (XNOR-Net, arXiv:1603.05279).

    Gradient: α·g·1{|w| <= 1} + sign(w)·Σ_j(g_j·sign(w_j))/n over the n latents of a channel: the straight-through
    gradient of the sign, and that of α. The paper prints g·(1/n + α·1{|w| <= 1}), which ignores that all latents of a
    channel share α. Latents are clipped to ±1 after each step, as in the authors' code, which also subtracts their mean
    over input channels before each step; this is not done here. In a channel of zeros α is 1e-12 (1e-3 in float16, and
    6e-5 in the products of float16 autocast).

    Args:
        group: number of inputs of a row that share an α; None for the whole row. α is then rounded to a normal float16,
            as the groups of 128 of llama.cpp's Q1_0 hold it, so that the file has the very weights of float32 passes.

    Shapes:
        latent: (O, …) with at least two dimensions; with `group` (O, I), I a multiple of it.
    """

    separate_rows = True
    latent_bound = 1.0

    def forward(self, latent: Tensor) -> Tensor:
        """(O, …) latent -> (O, …) of ±α."""
        grouped = self._grouped(latent)
        latents = rows(grouped.detach(), grouped)
        weight = sign(latents).to(autocast_dtype(latent))
        scale = self._scale(latents, weight.dtype)
        weight = from_rows(weight.mul_(scale.to(weight.dtype)), grouped)
        return Surrogate.apply(grouped, weight, _gradient, (), weight.detach(), scale).view_as(latent)

    decompose = MagnitudeAware.decompose

    def signed_weight(self, latent: Tensor) -> SignedWeight | None:
        signed = super().signed_weight(latent)
        return signed and signed._replace(of_mean=True)
