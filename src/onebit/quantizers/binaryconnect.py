"""BinaryConnect (Courbariaux, Bengio, David 2015, arXiv:1511.00363): deterministic and stochastic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onebit.common.fields import Positive, read
from onebit.quantizers.base import (
    BinaryWeight,
    Quantizer,
    SignedWeight,
    Surrogate,
    autocast_dtype,
    is_transformed,
    memory_order,
    random_bits,
    sign,
)


class PassGradient(Surrogate):
    """A weight whose gradient is passed to the latent unchanged; autograd casts it."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def draw_signs(latent: Tensor, *, value: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Random ±1: +1 with probability p = clip((w/value + 1)/2, 0, 1), rounded to steps of 1/256 (eq. 2 and 3).

    One random byte r per weight: +1 where r <= 128·w/value + 127.5, so p = 0 and p = 1 are exact. This is 45 times
    faster than `torch.bernoulli`.

    Args:
        latent: real, any shape.
        value: the latent at which p reaches 1.
        generator: source of the bytes; torch's default generator of the device when None.
    """
    latent = latent.detach()
    threshold = random_bits(latent.numel(), torch.uint8, latent.device, generator).view(latent.shape).to(latent.dtype)
    if is_transformed():
        return 2 * (threshold <= 127.5 + latent * (128.0 / value)).to(latent.dtype) - 1
    threshold.add_(latent, alpha=-128.0 / value)
    torch.gt(threshold, 127.5, out=threshold)
    return torch.sub(latent.new_ones(()), threshold, alpha=2, out=threshold)


class Sign(Quantizer):
    """Deterministic BinaryConnect: value·sign(w) with the gradient passed on unchanged (eq. 1).

    Latents are clipped to ±value after each optimizer step (`onebit.clip_latents_`).

    Args:
        value: the two values are ±value.
    """

    separate_rows = True

    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = self.latent_bound = read(value, Positive, name="value")

    def forward(self, latent: Tensor) -> Tensor:
        """(O, …) latent -> (O, …) of ±value."""
        return PassGradient.apply(latent, self._scaled(sign(latent.detach())))

    def signed_weight(self, latent: Tensor) -> SignedWeight:
        return SignedWeight(latent, self._scale(latent))

    def _scale(self, latent: Tensor) -> Tensor | None:
        """(O,) or None for 1."""
        return None if self.value == 1.0 else latent.detach().new_full((latent.shape[0],), self.value)

    def _scaled(self, signs: Tensor) -> Tensor:
        """±value from ±1, which may be overwritten, in the dtype of the matrix product."""
        signs = signs.to(autocast_dtype(signs))
        return signs if self.value == 1.0 else signs.mul_(self.value)

    def decompose(self, latent: Tensor) -> BinaryWeight:
        return self._shipped(sign(latent.detach()))

    def sample(self, latent: Tensor, *, generator: torch.Generator | None = None) -> BinaryWeight:
        return self._shipped(draw_signs(latent, value=self.value, generator=generator))

    def _shipped(self, signs: Tensor) -> BinaryWeight:
        return BinaryWeight(signs, self._scale(signs))


class Stochastic(Sign):
    """Stochastic BinaryConnect: in training +value with p = clip((w/value + 1)/2, 0, 1), else −value (eq. 2).

    The gradient is passed on unchanged. In eval mode value·sign(w), which ships.

    Args:
        value: the two values are ±value.
        generator: source of the draws; None for torch's default generator, the only one that activation checkpointing
            restores.
    """

    random = True
    start = 1.0  # closer to 0 the draws would flip signs

    def __init__(self, value: float = 1.0, *, generator: torch.Generator | None = None) -> None:
        super().__init__(value)
        self.generator = generator

    def forward(self, latent: Tensor) -> Tensor:
        """(O, …) latent -> (O, …) of ±value: a draw in training, the sign in eval mode."""
        if not self.training:
            return super().forward(latent)
        order = memory_order(latent)
        draw = draw_signs(latent.detach().permute(order), value=self.value, generator=self.generator)
        return PassGradient.apply(latent, self._scaled(draw).permute([order.index(i) for i in range(latent.dim())]))

    def signed_weight(self, latent: Tensor) -> SignedWeight:
        seed = tuple(random_bits(2, torch.int32, latent.device, self.generator).tolist())
        return super().signed_weight(latent)._replace(seed=seed, steepness=2.0**23 / self.value)
