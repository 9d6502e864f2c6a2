"""IR-Net (Qin et al. 2020, arXiv:1909.10788): the error decay estimator, and Libra parameter binarization."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from onebit.common.fields import Positive, read
from onebit.quantizers.base import BinaryInput, BinaryWeight, Scheduled, Surrogate, autocast_dtype
from onebit.quantizers.channels import Standardized, from_rows, rows, standardized
from onebit.quantizers.surrogates import bell, ede, ede_height, signed


class EdeSign(Scheduled):
    """sign(x) with the error decay estimator g·k·t·(1 − tanh²(t·x)), k = max(1/t, 1) (IR-Net, arXiv:1909.10788).

    t grows geometrically with the progress p of training, t = t_start·(t_end/t_start)^p: at first the factor is nearly
    1, in the end nearly the derivative of the sign. The authors' code for ResNet-20 with binary inputs starts at 1e-3.

    Args:
        t_start, t_end: t at the beginning and at the end of training.
    """

    t: Tensor

    def __init__(self, t_start: float = 0.1, t_end: float = 10.0) -> None:
        super().__init__("t", t_start)
        self.t_start = read(t_start, Positive, name="t_start")
        self.t_end = read(t_end, Positive, name="t_end")

    def set_progress(self, progress: float) -> None:
        self.set_scheduled(self.t_start * (self.t_end / self.t_start) ** progress)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> ±1 of the same shape."""
        return signed(x, *self.surrogate())

    def surrogate(self) -> tuple[Any, ...]:
        return ede, self.t

    def binary_input(self) -> BinaryInput | None:
        return BinaryInput()


def _gradient(
    gradient: Tensor, latent: Tensor, unit: Tensor, mean: Tensor, inverse: Tensor, power: Tensor, t: Tensor
) -> Tensor:
    """The gradient of power·sign(ŵ) through the sign and the standardization."""
    parts = Standardized(rows(latent, latent), unit, mean, inverse)
    through = parts.through(bell(rows(gradient, latent), unit, t * parts.unbiased))
    return from_rows(through.mul_(power * (ede_height(t) * parts.unbiased)), latent)


class IRNet(EdeSign):
    """2^s·sign(ŵ), ŵ = (w − mean)/std per output channel, s = round(log2 mean|ŵ|) (Libra-PB, arXiv:1909.10788).

    Gradient: 2^s·g·k·t·(1 − tanh²(t·ŵ)) to ŵ (see `EdeSign`), then through mean and unbiased std; none through s. For
    equal latents in a channel, ŵ is 0, 2^s is 1, and std counts as 1 in the gradient.

    Args:
        t_start, t_end: t at the beginning and at the end of training.

    Shapes:
        latent: (O, …) with at least two dimensions.
    """

    def forward(self, latent: Tensor) -> Tensor:
        """(O, …) latent -> (O, …) of ±2^s."""
        parts, power = _libra(latent)
        weight = parts.signs().to(autocast_dtype(latent))
        weight = from_rows(weight.mul_(power.to(weight.dtype)), latent)
        return Surrogate.apply(latent, weight, _gradient, (self.t,), *parts[1:], power)

    def decompose(self, latent: Tensor) -> BinaryWeight:
        parts, power = _libra(latent)
        return BinaryWeight(from_rows(parts.signs(), latent), power.flatten())

    def binary_input(self) -> None:
        return None


def _libra(latent: Tensor) -> tuple[Standardized, Tensor]:
    """The latent standardized, and 2^s, (O, 1)."""
    parts = standardized(rows(latent, latent))
    mean = parts.unit.abs().mean(1, keepdim=True).mul_(parts.unbiased)
    return parts, mean.masked_fill_(parts.flat, 1).log2_().round_().exp2_()
