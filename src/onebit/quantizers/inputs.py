"""Quantizers of inputs alone: Bi-Real net's, ReActNet's and AdaBin's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onebit.quantizers.base import BinaryInput, Quantizer, Surrogate, autocast_dtype, per_channel, sign
from onebit.quantizers.surrogates import approx, signed


class ApproxSign(Quantizer):
    """sign(x) with gradient g·(2 − 2|x|) where |x| <= 1, else 0 (Bi-Real net, arXiv:1808.00278, eq. 7)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> ±1 of the same shape."""
        return signed(x, approx)

    def binary_input(self) -> BinaryInput:
        return BinaryInput()


class RSign(Quantizer):
    """sign(x − a) with a learnable shift a per channel (ReActNet, arXiv:2003.03488, eq. 1 and 4).

    Gradient to x: g·(2 − 2|x − a|) where |x − a| <= 1, else 0; to a: minus its sum over all but the channels. `shift`
    begins at 0. A quantizer that no layer has bound to its channels has none, and is `ApproxSign`.

    Shapes:
        x: (N, C, …), C as in `bind_inputs`.
    """

    shift: nn.Parameter | None

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("shift", None)

    def bind_inputs(self, channels: int) -> None:
        """Called once, by the layer, with the number of channels of its input."""
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) -> ±1 of the same shape."""
        return signed(x if self.shift is None else x - per_channel(self.shift, x), approx)

    def binary_input(self) -> BinaryInput:
        return BinaryInput(shift=None if self.shift is None else self.shift.detach())


class _Distant(Surrogate):
    """center + distance·sign(x − center), with the gradients that `InputAdaBin` states."""

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # torch.func needs the two-part form
        x, _, centre, distance = inputs
        ctx.save_for_backward(x, centre, distance)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        x, centre, distance = ctx.saved_tensors
        gradient = gradient.to(x.dtype)
        least = torch.finfo(distance.dtype).tiny  # 0/0 would be NaN
        z = ((x - centre) / distance.clamp(min=least)).clamp(-1, 1)  # unbounded, z·p(z) would be NaN at infinity
        through = 2 * (1 - z.abs()) * gradient
        to_center = (gradient - through).sum(dtype=centre.dtype)
        to_distance = (sign(z) * gradient - z * through).sum(dtype=distance.dtype)
        return through, None, to_center, to_distance


class InputAdaBin(Quantizer):
    """c + d·sign(x − c) with a learnable center c and distance d > 0 (AdaBin, arXiv:2208.08084, section 3.3).

    With z = (x − c)/d and p(z) = 2 − 2|z| where |z| <= 1, else 0 (Bi-Real net's polynomial), the gradients are g·p(z)
    to x, Σ g·(1 − p(z)) to c and Σ g·(sign(z) − z·p(z)) to d. They begin at c = 0 and d = 1. Only the magnitude of the
    parameter `distance` counts, so that c + d stays the upper value. The authors' code has the values d·(c ± 1).
    """

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(()))
        self.distance = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> c ± d of the same shape."""
        distance = self.distance.abs()
        centered = x.detach() - self.centre.detach()
        made = sign(centered) * distance.detach() + self.centre.detach()
        return _Distant.apply(x, made.to(autocast_dtype(x)), self.centre, distance)

    def binary_input(self) -> BinaryInput:
        centre = self.centre.detach()
        return BinaryInput(shift=centre, scale=self.distance.detach().abs(), centre=centre)
