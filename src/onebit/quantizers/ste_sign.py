"""Sign with the clipped straight-through gradient of BinaryNet (Hubara et al. 2016, arXiv:1602.02830)."""

from __future__ import annotations

import torch
from torch import Tensor

from onebit.common.fields import Positive, read
from onebit.common.torch_private import is_legacy_batched
from onebit.quantizers.base import BinaryInput, Quantizer, Surrogate, autocast_dtype, sign


def _just_above(bound: float) -> dict[torch.dtype, float]:
    """The next representable number above `bound`, by dtype."""
    number, infinity = torch.tensor([bound, torch.inf], dtype=torch.float64, device="cpu")
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    return {d: float(torch.nextafter(number.to(d), infinity.to(d))) for d in dtypes}


class _SignClipped(Surrogate):
    """`signs` of x; the gradient passes to x where |x| <= clip_value, given as the numbers just above it."""

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, _, ctx.above = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        # the kernel cuts at |x| >= its bound; a latent clipped to exactly clip_value must be able to come back
        bound = ctx.above[x.dtype]
        cast = gradient.to(x.dtype)
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or cast is gradient or is_legacy_batched(cast):
            return torch.ops.aten.hardtanh_backward(cast, x, -bound, bound), None, None
        # over the fresh cast: of a large dense layer, one more tensor would be the peak of the step's memory
        cut = torch.ops.aten.hardtanh_backward.grad_input(cast, x, -bound, bound, grad_input=cast)
        return cut, None, None


class SteSign(Quantizer):
    """sign(x) with gradient g·1{|x| <= clip_value}, for weights and for inputs (arXiv:1602.02830, eq. 4).

    Args:
        clip_value: where the surrogate gradient is cut.
    """

    latent_bound = 1.0

    def __init__(self, clip_value: float = 1.0) -> None:
        super().__init__()
        self.clip_value = read(clip_value, Positive, name="clip_value")
        self._above = _just_above(self.clip_value)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> ±1 of the same shape."""
        signs = self.take_prepared(x)
        if signs is None:
            signs = sign(x.detach()).to(autocast_dtype(x))
        return _SignClipped.apply(x, signs, self._above)

    def binary_input(self) -> BinaryInput:
        return BinaryInput()
