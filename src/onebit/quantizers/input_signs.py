"""Binary quantizers of inputs only: those of Bi-Real net, ReActNet and AdaBin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from onebit.native import SHIFTED_SIGN
from onebit.quantizers.base import BinaryInput, Quantizer, Surrogate, autocast_dtype, per_channel, sign
from onebit.quantizers.fused_activations import activated, activation_gradients, summed
from onebit.quantizers.surrogates import approx, signed


class ApproxSign(Quantizer):
    """sign(x) with gradient g·(2 − 2|x|) where |x| <= 1, else 0 (Bi-Real net, arXiv:1808.00278, eq. 7)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> ±1 of the same shape."""
        return signed(x, *self.surrogate())

    def surrogate(self) -> tuple[Any, ...]:
        return (approx,)

    def binary_input(self) -> BinaryInput:
        return BinaryInput()


class RSign(Quantizer):
    """sign(x − a) with a learnable shift a per channel (ReActNet, arXiv:2003.03488, eq. 1 and 4).

    Gradient to x: g·(2 − 2|x − a|) where |x − a| <= 1, else 0; to a: minus its sum over all axes but the channels.
    `shift` begins at 0. Outside of a layer there is no shift: the quantizer is `ApproxSign`.

    Shapes:
        x: (N, C, …), C as in `bind_inputs`.
    """

    shift: nn.Parameter | None

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("shift", None)

    def bind_inputs(self, channels: int) -> None:
        """Called once by the layer with the number of channels of its input."""
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) -> ±1 of the same shape."""
        if self.shift is None:
            return signed(x, approx)
        return _shifted_sign(x, self.training, self.shift, None, None)

    def binary_input(self) -> BinaryInput:
        return BinaryInput(shift=None if self.shift is None else self.shift.detach())


class InputAdaBin(Quantizer):
    """c + d·sign(x − c) with a learnable center c and distance d > 0 (AdaBin, arXiv:2208.08084, section 3.3).

    With z = (x − c)/d and p(z) = 2 − 2|z| where |z| <= 1, else 0 (Bi-Real net's polynomial), the gradients are g·p(z)
    to x, Σ g·(1 − p(z)) to c and Σ g·(sign(z) − z·p(z)) to d. They begin at c = 0 and d = 1. The sign of the parameter
    `distance` is ignored. The authors' code has the values d·(c ± 1).
    """

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(()))
        self.distance = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> c ± d of the same shape."""
        # torch.compile does not accept a tensor twice
        return _shifted_sign(x, self.training, self.centre, self.distance.abs(), self.centre.view(()))

    def binary_input(self) -> BinaryInput:
        centre = self.centre.detach()
        return BinaryInput(shift=centre, scale=self.distance.detach().abs(), centre=centre)


def _shifted_sign(x: Tensor, training: bool, shift: Tensor, scale: Tensor | None, offset: Tensor | None) -> Tensor:
    """offset + scale·sign(x − shift), without what is None."""
    dtype = autocast_dtype(shift if shift.dim() else x)
    y = activated(SHIFTED_SIGN, x, (shift, scale, offset)) if training and dtype == x.dtype else None
    if y is None:
        y = sign(x.detach() - per_channel(shift.detach(), x))
        if scale is not None and offset is not None:
            y = y * scale.detach() + offset.detach()
        y = y.to(dtype)
    return Surrogate.apply(x, y, activation_gradients, (SHIFTED_SIGN, _gradients), shift, scale, offset)


def _gradients(
    gradient: Tensor, x: Tensor, shift: Tensor, scale: Tensor | None, offset: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradients of offset + scale·sign(x − shift), by Bi-Real net's polynomial."""
    z = x - per_channel(shift, x)
    if scale is not None:
        z = z / per_channel(scale.clamp(min=torch.finfo(scale.dtype).tiny), x)  # 0/0 would be NaN
    z = z.clamp(-1, 1)  # unbounded, z times a factor of 0 would be NaN at infinity
    gradient = gradient.to(z.dtype)
    through = z.abs().mul_(-2).add_(2) * gradient
    to_scale = None if scale is None else summed(sign(z.detach()) * gradient - z * through, scale)
    to_offset = None if offset is None else summed(gradient, offset)
    return through.to(x.dtype), -summed(through, shift), to_scale, to_offset
