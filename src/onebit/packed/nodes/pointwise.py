"""Elementwise operations, with one parameter per channel (the first axis)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onebit.errors import FormatError
from onebit.packed.nodes.node import Node, Stored, Value, integer, require_alike, require_channels


@dataclass(frozen=True, eq=False, kw_only=True)
class _PerChannel(Node):
    """An operation whose arrays have one number per channel."""

    def infer(self, x: Value) -> Value:
        for array in self.stored.values():
            require_channels(x, len(array))
        return self.made(x)

    def made(self, x: Value) -> Value:
        """The output value, real by default."""
        return Value(x.shape, "real")


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine(_PerChannel):
    """y = scale · x + shift, per channel: a folded BatchNorm, or a bias.

    Args:
        scale: (C,) float32 or None for 1.
        shift: (C,) float32 or None for 0.
    """

    scale: np.ndarray | None = None
    shift: np.ndarray | None = None

    arrays: ClassVar[dict[str, Stored]] = {
        "scale": Stored("float32", 1, optional=True),
        "shift": Stored("float32", 1, optional=True),
    }

    def levels(self) -> tuple[np.float32, np.float32] | None:
        """What the signs -1 and +1 become, if this is the same finite number for every channel; else None."""
        scale, shift = (
            np.float64(x) if array is None else array.astype(np.float64)
            for array, x in ((self.scale, 1), (self.shift, 0))
        )
        with np.errstate(over="ignore"):
            low, high = (np.unique(np.float32(sign * scale + shift)) for sign in (-1, 1))
        if len(low) == len(high) == 1 and np.isfinite(low[0]) and np.isfinite(high[0]):
            return low[0], high[0]
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class Threshold(_PerChannel):
    """A folded BatchNorm + sign of integers, per channel.

    direction +1: +1 where x >= threshold, else -1; direction -1: +1 where x <= threshold, else -1.
    A threshold at a limit of int32 gives a constant, because sums stay below it.

    Args:
        threshold: (C,) int32.
        direction: (C,) int8, +1 or -1.
    """

    threshold: np.ndarray
    direction: np.ndarray

    arrays: ClassVar[dict[str, Stored]] = {"threshold": Stored("int32", 1), "direction": Stored("int8", 1)}

    def made(self, x: Value) -> Value:
        if not x.exact:
            raise FormatError(f"got {x.kind} values, expected integers; real values are binarized by `sign`")
        return Value(x.shape, "sign", 1)

    def check_values(self, *inputs: Value) -> None:
        if count := int(np.count_nonzero(np.abs(self.direction) != 1)):
            raise FormatError(f"{count} of {self.direction.size} values of direction are neither +1 nor -1")


@dataclass(frozen=True, eq=False, kw_only=True)
class Sign(_PerChannel):
    """+1 where x >= shift, per channel, else -1; -0.0 is 0.

    Args:
        shift: (C,) float32 or None for 0.
    """

    shift: np.ndarray | None = None

    arrays: ClassVar[dict[str, Stored]] = {"shift": Stored("float32", 1, optional=True)}

    def made(self, x: Value) -> Value:
        return Value(x.shape, "sign", 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Relu(Node):
    """max(x, 0)."""

    def infer(self, x: Value) -> Value:
        return Value(x.shape, "integer", x.bound, 0, max(0, x.limits[1])) if x.exact else Value(x.shape, "real")


@dataclass(frozen=True, eq=False, kw_only=True)
class Prelu(_PerChannel):
    """x where x > 0, else slope · x, per channel.

    Args:
        slope: (C,) float32, of either sign.
    """

    slope: np.ndarray

    arrays: ClassVar[dict[str, Stored]] = {"slope": Stored("float32", 1)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Hardtanh(Node):
    """min(max(x, -1), 1)."""

    def infer(self, x: Value) -> Value:
        # an integer may become 0, which is not a sign
        return Value(x.shape, "integer", 1) if x.exact else Value(x.shape, "real")


@dataclass(frozen=True, eq=False, kw_only=True)
class Clamp(Node):
    """min(max(x, low), high), in float32.

    Args:
        low: (1,) float32 or None for no lower bound.
        high: (1,) float32 or None for no upper bound.
    """

    low: np.ndarray | None = None
    high: np.ndarray | None = None

    arrays: ClassVar[dict[str, Stored]] = {
        "low": Stored("float32", 1, optional=True),
        "high": Stored("float32", 1, optional=True),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, array in self.stored.items():
            if array.shape != (1,):
                raise FormatError(f"{name} has shape {array.shape}, expected (1,)")

    def infer(self, x: Value) -> Value:
        return Value(x.shape, "real")

    def check_values(self, *inputs: Value) -> None:
        super().check_values(*inputs)
        if self.low is not None and self.high is not None and self.low[0] > self.high[0]:
            raise FormatError(f"low is {self.low[0]}, expected at most high, {self.high[0]}")


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Node):
    """The sum of two values of the same shape, as in a residual net."""

    arity: ClassVar[int | None] = 2

    def infer(self, a: Value, b: Value) -> Value:
        require_alike((a, b))
        if a.bound is None or b.bound is None:
            return Value(a.shape, "real")
        least, most = (sum(limits) for limits in zip(a.limits, b.limits, strict=True))
        return integer(a.shape, a.bound + b.bound, least, most)


@dataclass(frozen=True, eq=False, kw_only=True)
class Multiply(Node):
    """The product of two values of the same shape, such as features and their gates, in float32."""

    arity: ClassVar[int | None] = 2

    def infer(self, a: Value, b: Value) -> Value:
        require_alike((a, b))
        return Value(a.shape, "real")
