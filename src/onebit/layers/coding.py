"""The first module of a model: from pixels to real numbers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from onebit.common.arguments import described
from onebit.common.tables import did_you_mean
from onebit.errors import UsageError, WrongTypeError

CODINGS = ("integer", "standardize")
OLD_CODINGS = {"standardise": "standardize"}
"""Name in recipes and scripts of earlier versions -> name."""


class InputCoding(nn.Module):
    """First module of a model: uint8 pixels -> float32, so that the coding travels with the net.

    Args:
        coding: "integer" is 2x − 255, odd integers that stay exact up to the first threshold (BatchNorm absorbs the
            scale); "standardize" is (x − mean)/std.
        mean, std: of pixels 0–255, per channel; for "standardize" only.
        scale: factor on `mean` and `std`: 255 where they are those of pixels 0–1, as in torchvision.

    Raises:
        UsageError: an unknown coding, a mean or std that it does not take, or those of pixels 0–1 without `scale`.

    Shapes:
        x: uint8 (N, C, H, W) -> float32 (N, C, H, W).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        coding: str = "integer",
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        if coding in OLD_CODINGS:
            warnings.warn(f"{coding!r} is now {OLD_CODINGS[coding]!r}", DeprecationWarning, stacklevel=2)
            coding = OLD_CODINGS[coding]
        if coding not in CODINGS:
            raise UsageError(f"unknown input coding {coding!r}{did_you_mean(coding, CODINGS)}")
        self.coding: Literal["integer", "standardize"] = cast(Any, coding)
        if coding == "standardize":
            factor = 1 if scale is None else scale
            if mean is None or std is None or len(mean) != len(std) or min(std) * factor <= 0:
                raise UsageError(f"coding 'standardize' needs mean and positive std per channel, got {mean} and {std}")
            if scale is None and max(*mean, *std) < 1:
                raise UsageError(f"got mean {mean} and std {std}, expected those of pixels 0–255: scale=255 makes them")
            for name, values in (("mean", mean), ("std", std)):
                numbers = torch.tensor([value * factor for value in values], dtype=torch.float32)
                self.register_buffer(name, numbers.view(-1, 1, 1))
        elif (mean, std, scale) != (None, None, None):
            raise UsageError("mean, std and scale belong to the coding 'standardize', got the coding 'integer'")

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, np.ndarray):
            raise WrongTypeError(f"images: got numpy {described(x)}, expected a tensor: torch.from_numpy(images)")
        if self.coding == "integer":
            return x.to(torch.float32, copy=True).mul_(2).sub_(255)
        return (x.float() - self.mean) / self.std

    def extra_repr(self) -> str:
        return repr(self.coding)
