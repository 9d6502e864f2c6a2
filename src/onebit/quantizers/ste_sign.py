"""Sign with the clipped straight-through gradient of BinaryNet (Hubara et al. 2016, arXiv:1602.02830)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onebit.common.fields import Positive, read
from onebit.quantizers.base import BinaryInput, Quantizer, SignedWeight, clipped
from onebit.quantizers.surrogates import signed


def _just_above(bound: float) -> dict[torch.dtype, float]:
    """The next representable number above `bound`, by dtype."""
    number, infinity = torch.tensor([bound, torch.inf], dtype=torch.float64, device="cpu")
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    return {d: float(torch.nextafter(number.to(d), infinity.to(d))) for d in dtypes}


class SteSign(Quantizer):
    """sign(x) with gradient g·1{|x| <= clip_value}, for weights and for inputs (arXiv:1602.02830, eq. 4).

    Args:
        clip_value: where the surrogate gradient is cut.
    """

    separate_rows = True
    latent_bound = 1.0

    def __init__(self, clip_value: float = 1.0) -> None:
        super().__init__()
        self.clip_value = read(clip_value, Positive, name="clip_value")
        self._above = _just_above(self.clip_value)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> ±1 of the same shape."""
        return signed(x, *self.surrogate())

    def surrogate(self) -> tuple[Any, ...]:
        return clipped, self._above

    def signed_weight(self, latent: Tensor) -> SignedWeight:
        return SignedWeight(latent, bound=self.clip_value)

    def binary_input(self) -> BinaryInput:
        return BinaryInput()
