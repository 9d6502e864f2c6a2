"""Elementwise operations, with one parameter per channel (the first axis)."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from onebit.errors import FormatError
from onebit.packed.bits import sign
from onebit.packed.nodes.node import (
    Node,
    Value,
    integer,
    operation,
    per_channel,
    require_alike,
    require_channels,
    signs,
)


@operation()
class Pointwise(Node):
    """Base class of elementwise operations, whose results are real by default."""

    def infer(self, x: Value) -> Value:
        return Value(x.shape, "real")


@operation()
class PerChannel(Pointwise):
    """Base class of operations whose arrays have one number per channel."""

    def infer(self, x: Value) -> Value:
        for array in self.stored.values():
            require_channels(x, len(array))
        return super().infer(x)


@operation("affine")
class Affine(PerChannel):
    """y = scale · x + shift, per channel: a folded BatchNorm, or a bias.

    Args:
        scale: (C,) float32 or None for 1.
        shift: (C,) float32 or None for 0.
    """

    scale: np.ndarray | None = None
    shift: np.ndarray | None = None

    affine = True

    def levels(self) -> tuple[np.float32, np.float32] | None:
        """The images of -1 and +1 if they are finite and the same for every channel; else None."""
        scale, shift = (
            np.float64(x) if array is None else array.astype(np.float64)
            for array, x in ((self.scale, 1), (self.shift, 0))
        )
        with np.errstate(over="ignore"):
            low, high = (np.unique(np.float32(sign * scale + shift)) for sign in (-1, 1))
        if len(low) == len(high) == 1 and np.isfinite(low[0]) and np.isfinite(high[0]):
            return low[0], high[0]
        return None

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        # rounded once, like the fused multiply-add of torch's BatchNorm: two roundings would differ in the last bit
        y = v.astype(np.float64)
        if self.scale is not None:
            y *= per_channel(self.scale, v.ndim)
        if self.shift is not None:
            y += per_channel(self.shift, v.ndim)
        return y.astype(dtype)


@operation("threshold")
class Threshold(PerChannel):
    """A folded BatchNorm + sign of integers, per channel.

    direction +1: +1 where x >= threshold, else -1; direction -1: +1 where x <= threshold, else -1.
    A threshold at a limit of int32 gives a constant, because sums stay below it.

    Args:
        threshold: (C,) int32.
        direction: (C,) int8, +1 or -1.
    """

    threshold: np.ndarray
    direction: np.ndarray

    def infer(self, x: Value) -> Value:
        if not x.exact:
            raise FormatError(f"got {x.kind} values, expected integers; real values are binarized by `sign`")
        return signs(super().infer(x).shape)

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        threshold = per_channel(self.threshold, v.ndim)
        rising = per_channel(self.direction > 0, v.ndim)
        return np.where(np.where(rising, v >= threshold, v <= threshold), np.int8(1), np.int8(-1))

    def check_values(self, *inputs: Value) -> None:
        if count := int(np.count_nonzero(np.abs(self.direction) != 1)):
            raise FormatError(f"{count} of {self.direction.size} values of direction are neither +1 nor -1")


@operation("sign")
class Sign(PerChannel):
    """+1 where x >= shift, per channel, else -1; -0.0 is 0.

    Args:
        shift: (C,) float32 or None for 0.
    """

    shift: np.ndarray | None = None

    rounds = True

    def infer(self, x: Value) -> Value:
        return signs(super().infer(x).shape)

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        return sign(v if self.shift is None else v - per_channel(self.shift, v.ndim))


@operation()
class Bounded(Pointwise):
    """Base class of min(max(x, low), high) of each number."""

    monotonic = True

    @property
    def bounds(self) -> tuple[float, float]:
        """(low, high), infinite where there is none."""
        raise NotImplementedError

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        y = v.astype(dtype)
        for bound, beyond in zip(self.bounds, (np.less, np.greater), strict=True):
            if abs(bound) < inf:  # unlike np.clip, keeps -0.0 at a bound of 0.0
                np.copyto(y, bound, where=beyond(y, bound))
        return y


@operation("relu")
class Relu(Bounded):
    """max(x, 0)."""

    bounds = 0, inf

    def infer(self, x: Value) -> Value:
        return Value(x.shape, "integer", x.bound, 0, max(0, x.limits[1])) if x.exact else Value(x.shape, "real")


@operation("prelu")
class Prelu(PerChannel):
    """x where x > 0, else slope · x, per channel.

    Args:
        slope: (C,) float32, of either sign.
    """

    slope: np.ndarray

    monotonic = True

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        y = v.astype(dtype)
        return np.where(y > 0, y, y * per_channel(self.slope, v.ndim))


@operation("hardtanh")
class Hardtanh(Bounded):
    """min(max(x, -1), 1)."""

    bounds = -1, 1

    def infer(self, x: Value) -> Value:
        # an integer may become 0, which is not a sign
        return Value(x.shape, "integer", 1) if x.exact else Value(x.shape, "real")


@operation("clamp")
class Clamp(Bounded):
    """min(max(x, low), high), in float32.

    Args:
        low: (1,) float32 or None for no lower bound.
        high: (1,) float32 or None for no upper bound.
    """

    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def shape_of(self, name: str) -> tuple[int, ...]:
        return (1,)

    @property
    def bounds(self) -> tuple[float, float]:
        return -inf if self.low is None else float(self.low[0]), inf if self.high is None else float(self.high[0])

    def check_values(self, *inputs: Value) -> None:
        super().check_values(*inputs)
        low, high = self.bounds
        if low > high:
            raise FormatError(f"low is {low}, expected at most high, {high}")


@operation("add")
class Add(Node):
    """The sum of two values of the same shape, as in a residual net."""

    arity = 2

    def infer(self, a: Value, b: Value) -> Value:
        require_alike([a.shape, b.shape])
        if a.bound is None or b.bound is None:
            return Value(a.shape, "real")
        least, most = (sum(limits) for limits in zip(a.limits, b.limits, strict=True))
        return integer(a.shape, a.bound + b.bound, least, most, min(a.step, b.step))

    def compute(self, dtype: Any, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.add(v, w, dtype=dtype, casting="unsafe")


@operation("multiply")
class Multiply(Node):
    """The product of two values of the same shape, such as features and their gates, in float32."""

    arity = 2

    def infer(self, a: Value, b: Value) -> Value:
        require_alike([a.shape, b.shape])
        return Value(a.shape, "real")

    def compute(self, dtype: Any, v: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.multiply(v, w, dtype=dtype, casting="unsafe")
