"""Rounding to small integers: of exact sums or of real values, once, and clipped to a range."""

from __future__ import annotations

from typing import Any

import numpy as np

from onebit.errors import FormatError
from onebit.packed.nodes.node import Node, Value, operation, per_channel, require_alike, require_channels

EXACT_LIMIT = 2**52
"""Magnitudes below it, and the halves between them, are exact in float64 too."""


@operation()
class _Clipped(Node):
    """An operation that makes integers from `least` to `most`.

    Args:
        least: smallest result.
        most: largest result.
    """

    least: int
    most: int

    rounds = True

    @property
    def span(self) -> int:
        return self.most - self.least

    def clipped(self, shape: tuple[int, ...]) -> Value:
        """The output value."""
        return Value(shape, "integer", max(-self.least, self.most), self.least, self.most)


@operation("requantize")
class Requantize(_Clipped):
    """y = min(max(⌊(Σᵢ multiplier[i] · xᵢ + offset) / 2^right_shift⌋, least), most), per channel, of integers xᵢ.

    BatchNorm, ReLU, residual sum and rounding in one step that is the same in every executor. To round to the nearest,
    `offset` includes half of 2^right_shift.

    Args:
        multiplier: (inputs, C) int32.
        offset: (C,) int64.
        right_shift: 0 to 52.
    """

    multiplier: np.ndarray
    offset: np.ndarray
    right_shift: int

    arity = None
    min_inputs = 1

    def shape_of(self, name: str) -> tuple[int, ...]:
        channels = (len(self.offset),)
        return (len(self.inputs), *channels) if name == "multiplier" else channels

    def infer(self, *inputs: Value) -> Value:
        require_alike([x.shape for x in inputs])
        require_channels(inputs[0], len(self.offset))
        if real := [x.kind for x in inputs if not x.exact]:
            raise FormatError(f"got {real[0]} values, expected integers; real values are rounded by `quantize`")
        return self.clipped(inputs[0].shape)

    def compute(self, dtype: Any, *arrays: np.ndarray) -> np.ndarray:
        ndim = arrays[0].ndim
        total = np.broadcast_to(per_channel(self.offset, ndim), arrays[0].shape).copy()
        for v, multiplier in zip(arrays, self.multiplier.astype(np.int64), strict=True):
            total += v * per_channel(multiplier, ndim)
        total >>= self.right_shift  # of negative integers, too, the floor
        return np.clip(total, self.least, self.most, out=total).astype(dtype)

    def check_values(self, *inputs: Value) -> None:
        if count := int(np.count_nonzero(self.reach(*inputs) >= EXACT_LIMIT)):
            raise FormatError(
                f"multipliers and offset of {count} of {self.offset.size} channels may reach 2^52 or more, beyond "
                "exact arithmetic"
            )

    def reach(self, *inputs: Value) -> np.ndarray:
        """(C,) float64: the largest magnitude of each channel before the division, or any number from 2^52 on."""
        bounds = np.array([x.bound for x in inputs], np.float64)
        return bounds @ np.abs(self.multiplier.astype(np.float64)) + np.abs(self.offset.astype(np.float64))


@operation("quantize")
class Quantize(_Clipped):
    """y = min(max(round(x), least), most) of real values x, ties to even."""

    def infer(self, x: Value) -> Value:
        return self.clipped(x.shape)

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        y = v.astype(np.float32)
        if count := int(np.count_nonzero(np.isnan(y))):
            raise FormatError(f"{count} of {y.size} values are NaN, which cannot be rounded to an integer")
        return np.clip(np.rint(y, out=y), self.least, self.most, out=y).astype(dtype)
