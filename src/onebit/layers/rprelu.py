"""ReActNet's activation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.native import RPRELU
from onebit.quantizers.base import Surrogate, per_channel
from onebit.quantizers.fused_activations import activated, activation_gradients, summed


class RPReLU(nn.Module):
    """x − γ + ζ where x > γ, else β(x − γ) + ζ, per channel (ReActNet, arXiv:2003.03488, eq. 5).

    All three are learnable: γ is `shift_in` and ζ is `shift_out`, initially 0; β is `slope`, initially 0.25.

    Shapes:
        x: (N, C, …) -> the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift_in = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.full((channels,), 0.25))
        self.shift_out = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        parameters = self.shift_in, self.slope, self.shift_out
        y = activated(RPRELU, x, parameters) if self.training else None
        if y is not None:
            return Surrogate.apply(x, y, activation_gradients, (RPRELU, _gradients), *parameters)
        shape = (-1, *[1] * (x.dim() - 2))
        before, slope, after = (p.to(x.dtype) for p in (self.shift_in, self.slope, self.shift_out))
        return F.prelu(x - before.view(shape), slope) + after.view(shape)

    def extra_repr(self) -> str:
        return str(len(self.slope))


def _gradients(gradient: Tensor, x: Tensor, before: Tensor, slope: Tensor, after: Tensor) -> tuple[Tensor, ...]:
    """The gradients to x and the three parameters, in operations of torch."""
    inner = x - per_channel(before, x)
    through = torch.where(inner > 0, gradient, gradient * per_channel(slope, x)).to(x.dtype)
    along = torch.where(inner > 0, 0, gradient * inner)
    return through, -summed(through, before), summed(along, slope), summed(gradient, after)
