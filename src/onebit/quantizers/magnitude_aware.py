"""The magnitude-aware sign of Bi-Real net (Liu et al. 2018, arXiv:1808.00278)."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from onebit.common.fields import Bound, Count, read
from onebit.quantizers.base import BinaryWeight, Quantizer, SignedWeight, autocast_dtype, clipped, sign
from onebit.quantizers.channels import mean_magnitude, rows
from onebit.quantizers.surrogates import signed

_NORMAL_FLOAT16 = 2.0**-14, 65504.0


class MagnitudeAware(Quantizer):
    """α·sign(w), α = mean|w| per output channel, with gradient α·g·1{|w| <= 1} (Bi-Real net, arXiv:1808.00278).

    No gradient runs through α, as in the authors' code, whose gradient also lacks the factor α. Latents beyond ±1 get
    no gradient and return by weight decay only: with a large learning rate, clip them. In a channel of zeros α is 1e-12
    (1e-3 in float16, and 6e-5 in the products of float16 autocast).

    Args:
        group: number of inputs of a row that share an α; None for the whole row. α is then rounded to a normal float16,
            as the groups of 128 of llama.cpp's Q1_0 hold it, so that the file has the very weights of float32 passes.

    Shapes:
        latent: (O, …) with at least two dimensions; with `group` (O, I), I a multiple of it.

    Raises:
        UsageError: from `bind`, for latents that have no such groups.
    """

    separate_rows = True

    def __init__(self, *, group: int | None = None) -> None:
        super().__init__()
        self.group = read(group, Count | None, name="group")

    def bind(self, latent: Tensor) -> None:
        if (group := self.group) is not None:
            fits = Bound(f"(O, I) with a multiple of {group}", lambda shape: len(shape) == 2 and shape[1] % group == 0)
            read(tuple(latent.shape), Annotated[tuple[int, ...], fits], name="group: the shape of the weights")

    def _grouped(self, latent: Tensor) -> Tensor:
        """Latents with a group in each row."""
        return latent if self.group is None else latent.reshape(-1, self.group)

    def _scale(self, latents: Tensor, used: torch.dtype | None = None) -> Tensor:
        """α of each row of (R, n), (R, 1)."""
        scale = mean_magnitude(latents, used)
        return scale if self.group is None else scale.clamp(*_NORMAL_FLOAT16).half().to(scale.dtype)

    def forward(self, latent: Tensor) -> Tensor:
        """(O, …) latent -> (O, …) of ±α."""
        latents, used = self._grouped(latent), autocast_dtype(latent)
        scale = self._scale(rows(latents.detach(), latents), used).view(-1, *[1] * (latents.dim() - 1))
        return (signed(latents, clipped) * scale.to(used)).view_as(latent)

    def signed_weight(self, latent: Tensor) -> SignedWeight | None:
        if self.group is not None:
            return None
        used = autocast_dtype(latent)
        scale = self._scale(latent.detach(), used).flatten().to(used).float()  # as `forward` rounds it
        return SignedWeight(latent, scale, bound=1.0, scaled=True)

    def decompose(self, latent: Tensor) -> BinaryWeight:
        latent = latent.detach()
        latents = self._grouped(latent)
        scale = self._scale(rows(latents, latents))
        return BinaryWeight(sign(latent), scale.flatten() if self.group is None else scale.view(len(latent), -1))
