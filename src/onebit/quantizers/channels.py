"""Statistics of a latent per output channel, and the gradient through standardization."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from onebit.quantizers.base import memory_order, sign


def _order(like: Tensor) -> tuple[int, ...]:
    order = memory_order(like)
    return order if order[0] == 0 else tuple(range(like.dim()))


def rows(x: Tensor, like: Tensor) -> Tensor:
    """(O, n): a row per output channel, in the memory order of `like` (O, …).

    A view if `x` and `like` are both contiguous or both channels_last.
    """
    return x.permute(_order(like)).reshape(x.shape[0], x.shape[1:].numel())


def from_rows(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of `rows`: a view of (O, n) in the shape of `like`."""
    order = _order(like)
    return x.view([like.shape[i] for i in order]).permute([order.index(i) for i in range(like.dim())])


def smallest_scale(dtype: torch.dtype) -> float:
    """The smallest scale: 0 would leave a channel with one value instead of two."""
    return max(1e-12, 16 * torch.finfo(dtype).tiny)  # 1e-3 in float16, whose inverse is finite


def mean_magnitude(latents: Tensor, used: torch.dtype | None = None) -> Tensor:
    """mean|w| of each row of (O, n), at least `smallest_scale`: (O, 1).

    Args:
        used: the dtype of matrix products, in which the mean must not become 0 either.
    """
    least = smallest_scale(latents.dtype)
    if used is not None:
        least = max(least, torch.finfo(used).tiny)
    return latents.abs().mean(1, keepdim=True).clamp_(min=least)


class Standardized(NamedTuple):
    """Standardized latents.

    latents: as rows, (O, n).

    unit: (w − mean)/√(var + eps), (O, n), with the variance of the population, Σ(w − mean)²/n.
    mean: (O, 1); inverse: 1/√(var + eps), (O, 1).
    """

    latents: Tensor
    unit: Tensor
    mean: Tensor
    inverse: Tensor

    @property
    def unbiased(self) -> float:
        """√((n − 1)/n), the factor from `unit` to latents standardized by the unbiased variance; 0 for n = 1."""
        return math.sqrt(1 - 1 / max(self.unit.shape[1], 1))

    @property
    def flat(self) -> Tensor:
        """Whether the latents of a row are equal, so that `unit` is 0 up to rounding: bool, (O, 1)."""
        return self.inverse > 0.5 / smallest_scale(self.inverse.dtype)

    def signs(self) -> Tensor:
        """sign(w − mean), (O, n)."""
        return sign(self.latents, self.mean)

    def through(self, gradient: Tensor) -> Tensor:
        """The gradient to the latents from that to `unit`: inverse·(g − mean g − unit·mean(g·unit)), all (O, n).

        `inverse` is 1 in a row of equal latents, where the true gradient is infinite.
        """
        sizes, inverse, needed = self.latents.shape[1:], self.inverse.masked_fill(self.flat, 1), [True, False, False]
        return torch.ops.aten.native_layer_norm_backward(
            gradient, self.latents, sizes, self.mean, inverse, None, None, needed
        )[0]


def standardized(latents: Tensor, *, eps: float = 0.0) -> Standardized:
    """Each row of (O, n) standardized, without gradient.

    Args:
        eps: added to the variance; at least `smallest_scale` squared.
    """
    latents = latents.detach()
    # a layer norm without parameters takes one pass, mean and deviation take four
    eps = max(eps, smallest_scale(latents.dtype) ** 2)
    return Standardized(latents, *torch.native_layer_norm(latents, latents.shape[1:], None, None, eps))
