"""ReCU (Xu et al. 2021, arXiv:2103.12369): standardized latents whose outliers are clamped, and a learned scale."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor, nn

from onebit.common.fields import read, within
from onebit.quantizers.base import BinaryWeight, Scheduled, Surrogate, autocast_dtype, sign
from onebit.quantizers.channels import (
    Standardized,
    from_rows,
    rows,
    smallest_scale,
    standardized,
)

Tau = Annotated[float, within("(0.5, 1)")]

SHARPNESS = 2 * math.sqrt(2)
"""w1 in units of the standardized latent."""
EPSILON = 1e-5
"""Added to the variance by the authors' code."""


def _gradient(gradient: Tensor, latent: Tensor, unit: Tensor, mean: Tensor, inverse: Tensor, bound: Tensor) -> Tensor:
    """The gradient to w1, 0 where |unit| > bound, then through the standardization."""
    parts = Standardized(rows(latent, latent), unit, mean, inverse)
    through = parts.through((unit.abs() <= bound) * rows(gradient, latent).to(unit.dtype))
    return from_rows(through.mul_(SHARPNESS * parts.unbiased), latent)


class ReCU(Scheduled):
    """scale·sign(w1), w1 = 2√2(w − mean)/√(var + 1e-5) per output channel, scale learned (arXiv:2103.12369).

    Gradient: scale·g·1{|w1| <= Q}, then through mean and unbiased variance; to the scale Σ g·sign(w1) over its channel.
    Q = −mean|w1|·ln(2 − 2τ), with the mean over the layer, is the τ quantile of w1 if it follows a Laplace
    distribution; the paper clamps w1 to ±Q before its sign. τ = A·e^p + B grows with the progress p from `tau_start` to
    `tau_end`.

    The scale is drawn uniformly from [0, 1), one per output channel, when a layer binds the quantizer to its latent. A
    negative scale ships as opposite signs with a positive scale; 0 counts as 1e-12.

    Args:
        tau_start, tau_end: quantile at the beginning and at the end of training, between 0.5 and 1.
        learn_scale: False fixes the scale at 1. A BatchNorm behind the layer undoes every scale, so that its gradient
            is rounding noise, which Adam turns into full steps.

    Shapes:
        latent: (O, …) with at least two dimensions; scale (O,).

    Raises:
        UsageError: a quantile that is not between 0.5 and 1.
    """

    tau: Tensor
    scale: nn.Parameter | None

    def __init__(self, tau_start: float = 0.85, tau_end: float = 0.99, *, learn_scale: bool = True) -> None:
        super().__init__("tau", tau_start)
        self.tau_start = read(tau_start, Tau, name="tau_start")
        self.tau_end = read(tau_end, Tau, name="tau_end")
        self.learn_scale = learn_scale
        self.register_parameter("scale", None)

    def bind(self, latent: Tensor) -> None:
        scale = latent.new_ones(latent.shape[0])
        if self.learn_scale:
            scale.uniform_()
        self.scale = nn.Parameter(scale, requires_grad=self.learn_scale)

    def set_progress(self, progress: float) -> None:
        share = math.expm1(progress) / math.expm1(1)
        self.set_scheduled(self.tau_start + (self.tau_end - self.tau_start) * share)

    def forward(self, latent: Tensor) -> Tensor:
        """(O, …) latent -> (O, …) of ±scale."""
        parts = _parts(latent)
        # 2√2·√((n − 1)/n) cancels between |w1| and Q
        bound = parts.unit.abs().mean() * -torch.log(2 - 2 * self.tau)
        signs = from_rows(parts.signs().to(autocast_dtype(latent)), latent)
        scales = self._scales(latent).view(-1, *[1] * (latent.dim() - 1))
        return Surrogate.apply(latent, signs, _gradient, (bound,), *parts[1:]) * scales.to(signs.dtype)

    def _scales(self, latent: Tensor) -> Tensor:
        """(O,), never 0."""
        assert self.scale is not None  # `bind` makes it
        # added, so that a scale of 0 keeps its gradient
        return self.scale + (self.scale == 0).to(self.scale.dtype) * smallest_scale(latent.dtype)

    def decompose(self, latent: Tensor) -> BinaryWeight:
        scales = self._scales(latent).detach()
        signs = from_rows(_parts(latent).signs(), latent)
        return BinaryWeight(signs * sign(scales).view(-1, *[1] * (latent.dim() - 1)), scales.abs())


def _parts(latent: Tensor) -> Standardized:
    share = 1 - 1 / max(latent.shape[1:].numel(), 1)  # population variance / unbiased variance
    return standardized(rows(latent, latent), eps=EPSILON * share)
