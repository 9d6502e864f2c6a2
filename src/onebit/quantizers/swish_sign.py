"""Sign with the SignSwish gradient of BNN+ (Darabi et al. 2018, arXiv:1812.11800)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from onebit.common.fields import Positive, read
from onebit.quantizers.base import BinaryInput, Quantizer
from onebit.quantizers.surrogates import signed, swish


class SwishSign(Quantizer):
    """sign(x) with the derivative of SignSwish, β(2 − z·tanh(z/2))/(1 + cosh z), z = βx (BNN+, arXiv:1812.11800).

    SignSwish is 2σ(z)(1 + z(1 − σ(z))) − 1, a smooth sign; its derivative is β at 0 and slightly negative from
    |z| = 2.4 on. For weights and for inputs. The regularizers of the paper are not included.

    Args:
        beta: steepness.
    """

    separate_rows = True

    def __init__(self, beta: float = 5.0) -> None:
        super().__init__()
        self.beta = read(beta, Positive, name="beta")

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> ±1 of the same shape."""
        return signed(x, *self.surrogate())

    def surrogate(self) -> tuple[Any, ...]:
        return swish, self.beta

    def binary_input(self) -> BinaryInput:
        return BinaryInput()
