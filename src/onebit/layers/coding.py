"""First modules of a model, which turn pixels or features into real numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from onebit.common.fields import read
from onebit.errors import UsageError
from onebit.quantizers.base import per_channel

Coding = Literal["integer", "standardize"]


class InputCoding(nn.Module):
    """First module of a model: uint8 pixels -> float32.

    Args:
        coding: "integer" is 2x − 255, odd integers that stay exact up to the first threshold (BatchNorm absorbs the
            scale); "standardize" is (x − mean)/std.
        mean, std: of pixels 0–255, per channel; for "standardize" only.
        scale: factor on `mean` and `std`: 255 for those of pixels 0–1, as in torchvision.

    Raises:
        UsageError: an unknown coding, mean and std with "integer" or missing with "standardize", or those of pixels 0–1
            without `scale`.

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
        self.coding: Coding = read(coding, Coding, name="coding")
        if (coding == "standardize") != bool(mean and std):
            raise UsageError(f"got mean {mean} and std {std}, expected both, with coding='standardize' only")
        if mean and std and scale is None and max(*mean, *std) < 1:
            raise UsageError(f"got mean {mean} and std {std} of pixels 0–1: add scale=255")
        for name, values in (("mean", mean), ("std", std)):
            if values:
                numbers = torch.tensor([value * (scale or 1) for value in values], dtype=torch.float32)
                self.register_buffer(name, numbers.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.coding == "integer":
            return x.to(torch.float32, copy=True).mul_(2).sub_(255)
        return (x.float() - self.mean) / self.std

    def extra_repr(self) -> str:
        return repr(self.coding)


class Normalize(nn.Module):
    """(x − mean)/std per channel, as torchvision's `ToTensor` and `Normalize`: uint8 pixels are divided by 255 first.

    For a model that was trained behind these, `onebit.pack(model, images, preprocess=Normalize(mean, std))` packs both.

    Args:
        mean, std: a number, or one per channel (axis 1): of pixels 0–1, or of float32 features.

    Raises:
        UsageError: in the forward pass, uint8 inputs with a mean or std above 1.

    Shapes:
        x: uint8 or float32 (N, C, …) -> float32 of the same shape.

    Example:
        >>> Normalize(0.5, 0.25)(torch.tensor([[0, 255]], dtype=torch.uint8))
        tensor([[-2.,  2.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        super().__init__()
        for name, given in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.as_tensor(given, dtype=torch.float32).detach().clone())
        self._pixel_units = max(float(self.mean.max()), float(self.std.max())) > 1

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8:
            if self._pixel_units:
                raise UsageError(f"got mean {self.mean.tolist()} for uint8 pixels, expected the mean of pixels 0–1")
            x = x.to(self.mean.dtype) / 255
        return (x - per_channel(self.mean, x)) / per_channel(self.std, x)

    def extra_repr(self) -> str:
        return f"mean={self.mean.tolist()}, std={self.std.tolist()}"
