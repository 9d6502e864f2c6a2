"""Normalizations and softmax over channels, with a fixed order of sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from onebit.errors import FormatError
from onebit.packed.nodes.activation import exp_less
from onebit.packed.nodes.node import Node, Value, operation

LANES = 16


@operation("normalize")
class Normalize(Node):
    """(x - mean) / √(variance + eps) over each group of channels: LayerNorm and GroupNorm without their affine map.

    Args:
        eps: (1,) float32, positive.
        groups: groups of channels.
        whole: 1 to normalize all pixels of a group together; 0 for each pixel by itself.
        centered: 1 to subtract the mean; 0 for x / √(mean of x² + eps), as in RMSNorm.
    """

    eps: np.ndarray
    groups: int = 1
    whole: int = 0
    centered: int = 1

    def shape_of(self, name: str) -> tuple[int, ...]:
        return (1,)

    def infer(self, x: Value) -> Value:
        if not x.shape or x.shape[0] % self.groups:
            raise FormatError(f"got a value of shape {x.shape}, expected channels in {self.groups} groups")
        return Value(x.shape, "real")

    def check_values(self, *inputs: Value) -> None:
        super().check_values(*inputs)
        if self.eps[0] < 0:
            raise FormatError(f"eps is {self.eps[0]}, expected 0 or more")

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        x = v.astype(np.float32).reshape(len(v), self.groups, v.shape[1] // self.groups, -1)  # (N, G, C / G, pixels)
        count = x.shape[2] * (x.shape[3] if self.whole else 1)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if self.centered:
                x = x - (self._sums(x.astype(np.float64)) / count).astype(np.float32)
            squares = self._sums(np.square(x.astype(np.float64)))
            x = x * (1 / np.sqrt(squares / count + np.float64(self.eps[0]))).astype(np.float32)
        return x.reshape(v.shape)

    def _sums(self, x: np.ndarray) -> np.ndarray:
        """(N, G, 1, pixels or 1): over pixels, one after the other, then over channels."""
        if self.whole:
            x = np.cumsum(x, axis=3)[..., -1:]
        return lane_sum(np.moveaxis(x, 2, -1))[:, :, None]


@operation("softmax")
class Softmax(Node):
    """e^(x - largest) / sum over the channels of each pixel; e^-80 is the smallest power."""

    def infer(self, x: Value) -> Value:
        if not x.shape:
            raise FormatError("got one number, expected channels")
        return Value(x.shape, "real")

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        x = v.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            powers = exp_less(x - x.max(axis=1, keepdims=True), 0)
            factor = 1 / lane_sum(np.moveaxis(powers, 1, -1).astype(np.float64))
        return powers * factor.astype(np.float32)[:, None]


def lane_sum(x: np.ndarray) -> np.ndarray:
    """The sums of the last axis: of every `LANES`-th number, one after the other, then halves of these are added."""
    parts = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % LANES)])
    total = np.zeros((*x.shape[:-1], LANES), x.dtype)
    for start in range(0, parts.shape[-1], LANES):
        total = total + parts[..., start : start + LANES]
    while total.shape[-1] > 1:
        first, second = np.split(total, 2, axis=-1)
        total = first + second
    return total[..., 0]
