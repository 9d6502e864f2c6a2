"""AdaBin (Tu et al. 2022, arXiv:2208.08084): two values per channel that may differ in magnitude."""

from __future__ import annotations

from torch import Tensor

from onebit.quantizers.base import BinaryWeight, Surrogate, autocast_dtype
from onebit.quantizers.channels import Standardized, from_rows, rows, standardized
from onebit.quantizers.irnet import EdeSign
from onebit.quantizers.surrogates import bell, ede_height


def _gradient(gradient: Tensor, latent: Tensor, unit: Tensor, mean: Tensor, inverse: Tensor, t: Tensor) -> Tensor:
    """The gradient of center + distance·sign(ŵ) through center, distance and ŵ.

    q + mean(g − q) + ŵ·mean(g·sign(ŵ) − q·ŵ) with q = g·k·t·(1 − tanh²(t·ŵ)) and means over a channel; the distance
    cancels.
    """
    parts = Standardized(rows(latent, latent), unit, mean, inverse)
    gradient = rows(gradient, latent).to(unit.dtype)
    q = bell(gradient, unit, t).mul_(ede_height(t))
    along = (gradient * parts.signs() - q * unit).mean(1, keepdim=True).masked_fill(parts.flat, 0)
    shift = gradient.mean(1, keepdim=True) - q.mean(1, keepdim=True)
    return from_rows((q + shift).addcmul_(unit, along), latent)


class AdaBin(EdeSign):
    """center + distance·sign(w − center): mean and population std per output channel (AdaBin, arXiv:2208.08084).

    Gradient: through mean and std, and through the sign by IR-Net's estimator (`EdeSign`) on ŵ = (w − mean)/std. The
    distance is at least 1e-12 (1e-3 in float16), which matters in a channel of equal latents. For weights, the authors'
    code agrees with the paper.

    Args:
        t_start, t_end: t of the estimator at the beginning and at the end of training.

    Shapes:
        latent: (O, …) with at least two dimensions.
    """

    def forward(self, latent: Tensor) -> Tensor:
        """(O, …) latent -> (O, …) of center ± distance."""
        parts = standardized(rows(latent, latent))
        weight = parts.signs().div_(parts.inverse).add_(parts.mean).to(autocast_dtype(latent))
        return Surrogate.apply(latent, from_rows(weight, latent), _gradient, (self.t,), *parts[1:])

    def decompose(self, latent: Tensor) -> BinaryWeight:
        parts = standardized(rows(latent, latent))
        distance = parts.inverse.reciprocal().flatten()
        return BinaryWeight(from_rows(parts.signs(), latent), distance, parts.mean.flatten())

    def binary_input(self) -> None:
        return None
