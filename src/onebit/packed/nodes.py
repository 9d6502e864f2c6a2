"""The operations of a packed net: one frozen dataclass each, all of them listed in `OPS`.

Every value flowing through a net is known before it runs: its shape without the batch, and its kind.

=========  ================================================================================
kind       values
=========  ================================================================================
`sign`     exactly ±1
`integer`  int32, at most `bound` in magnitude
`real`     float32
=========  ================================================================================

A new operation is a dataclass here, a line in `OPS` and a function in `onebit.runtime`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import ClassVar, NamedTuple

import numpy as np

from onebit.bits import byte_count, check_tail, word_count
from onebit.errors import FormatError

INT32 = np.iinfo(np.int32)
SUM_LIMIT = INT32.max - 1  # so that a threshold at an int32 extreme holds for every sum or for none


@dataclass(frozen=True)
class Value:
    """What is known of a value: `shape` without the batch axis, `kind`, and for integers the largest magnitude."""

    shape: tuple[int, ...]
    kind: str
    bound: int | None = None

    @property
    def exact(self) -> bool:
        """Whether the value holds integers (±1 included)."""
        return self.bound is not None


class Stored(NamedTuple):
    """How an array of a node lies in memory: dtype and rank, and whether it may be absent (None)."""

    dtype: str
    rank: int
    optional: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Node(ABC):
    """Base of the operations.

    Args:
        inputs: names of the values it reads.
        output: name of the value it makes; also the prefix of its arrays' names in a file.
    """

    inputs: tuple[str, ...]
    output: str

    arity: ClassVar[int] = 1
    arrays: ClassVar[dict[str, Stored]] = {}
    """Array fields. A node with `signs` (packed rows) also has the attribute `in_features`, the signs in a row."""
    attributes: ClassVar[tuple[str, ...]] = ()
    """Fields that are plain positive integers."""

    def __post_init__(self) -> None:
        if len(self.inputs) != self.arity:
            raise FormatError(f"got {len(self.inputs)} inputs, expected {self.arity}")
        for name in self.attributes:
            number = getattr(self, name)
            if type(number) is not int or number < 1:
                raise FormatError(f"{name} is {number!r}, expected a positive integer")
        for name, stored in self.arrays.items():
            array = getattr(self, name)
            if array is None and stored.optional:
                continue
            if not isinstance(array, np.ndarray) or array.dtype != stored.dtype or array.ndim != stored.rank:
                got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
                raise FormatError(f"{name} is {got}, expected a {stored.dtype} array with {stored.rank} axes")
            if array.size == 0:
                raise FormatError(f"{name} has shape {array.shape}, expected no empty axis")

    @abstractmethod
    def infer(self, x: Value) -> Value:
        """The value this node makes of `x`. Looks at shapes only, never at the contents of arrays.

        Raises:
            FormatError: `x` does not fit.
        """

    def check_values(self) -> None:
        """Refuse arrays that hold what no net can mean: reals that are not finite, set tail bits.

        Raises:
            FormatError: the array and how many of its values.
        """
        for name, stored in self.arrays.items():
            array = getattr(self, name)
            if array is not None and stored.dtype == "float32":
                check_finite(name, array)

    @property
    def binary_weights(self) -> int:
        """Number of weights stored in one bit."""
        return 0

    @property
    def real_parameters(self) -> int:
        """Number of parameters stored in 4 bytes."""
        arrays = (getattr(self, name) for name, stored in self.arrays.items() if stored.dtype in ("float32", "int32"))
        return sum(array.size for array in arrays if array is not None)

    @property
    def stored_bytes(self) -> int:
        """Bytes of its arrays in a file."""
        arrays = (getattr(self, name) for name in self.arrays if name != "signs")
        return sum(array.nbytes for array in arrays if array is not None)

    @property
    def macs(self) -> int:
        """Multiply-accumulates with its weights, for one image."""
        return 0


def check_finite(name: str, array: np.ndarray) -> None:
    """Raise FormatError when some values of `array` are NaN or infinite."""
    if count := array.size - int(np.count_nonzero(np.isfinite(array))):
        raise FormatError(f"{count} of {array.size} values of {name} are not finite")


def _require_features(x: Value, features: int) -> None:
    if x.shape != (features,):
        raise FormatError(f"got a value of shape {x.shape}, expected ({features},)")


def _require_channels(x: Value, channels: int) -> None:
    if x.shape[0] != channels:
        raise FormatError(f"got a value of shape {x.shape}, expected {channels} channels")


def _sum_bound(x: Value, features: int) -> int:
    """Largest magnitude of a sum of `features` values ±x."""
    assert x.bound is not None
    bound = features * x.bound
    if bound > SUM_LIMIT:
        raise FormatError(f"sums reach {bound}, more than int32 holds")
    return bound


@dataclass(frozen=True, eq=False, kw_only=True)
class Flatten(Node):
    """(C, H, W) -> (C·H·W,), the last axis fastest."""

    def infer(self, x: Value) -> Value:
        return Value((prod(x.shape),), x.kind, x.bound)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dense(Node):
    """Product with one-bit weights: y = scale · (signs · x) + centre · sum(x), per output.

    Without scale and centre the sums of integers stay integers; otherwise y is real.

    Args:
        signs: (O, ceil(in_features / 64)) uint64 words, see `onebit.bits.pack_signs`.
        in_features: number of inputs.
        scale: (O,) float32 or None for 1.
        centre: (O,) float32 or None for 0.
    """

    signs: np.ndarray
    in_features: int
    scale: np.ndarray | None = None
    centre: np.ndarray | None = None

    arrays: ClassVar[dict[str, Stored]] = {
        "signs": Stored("uint64", 2),
        "scale": Stored("float32", 1, optional=True),
        "centre": Stored("float32", 1, optional=True),
    }
    attributes: ClassVar[tuple[str, ...]] = ("in_features",)

    def __post_init__(self) -> None:
        super().__post_init__()
        outputs, words = self.signs.shape
        if words != word_count(self.in_features):
            raise FormatError(f"signs have {words} words a row, expected {word_count(self.in_features)}")
        for name in ("scale", "centre"):
            array = getattr(self, name)
            if array is not None and array.shape != (outputs,):
                raise FormatError(f"{name} has shape {array.shape}, expected ({outputs},)")

    def infer(self, x: Value) -> Value:
        _require_features(x, self.in_features)
        outputs = (len(self.signs),)
        if not x.exact:
            return Value(outputs, "real")
        bound = _sum_bound(x, self.in_features)
        if self.scale is None and self.centre is None:
            return Value(outputs, "integer", bound)
        return Value(outputs, "real")

    def check_values(self) -> None:
        super().check_values()
        check_tail(self.signs, self.in_features)

    @property
    def binary_weights(self) -> int:
        return len(self.signs) * self.in_features

    @property
    def stored_bytes(self) -> int:
        return len(self.signs) * byte_count(self.in_features) + super().stored_bytes

    @property
    def macs(self) -> int:
        return self.binary_weights


@dataclass(frozen=True, eq=False, kw_only=True)
class RealDense(Node):
    """Product with real weights, as a last layer often keeps: y = weight · x.

    Args:
        weight: (O, in_features) float32.
    """

    weight: np.ndarray

    arrays: ClassVar[dict[str, Stored]] = {"weight": Stored("float32", 2)}

    def infer(self, x: Value) -> Value:
        _require_features(x, self.weight.shape[1])
        return Value((len(self.weight),), "real")

    @property
    def macs(self) -> int:
        return self.weight.size


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine(Node):
    """y = scale · x + shift, per channel (the first axis): a folded BatchNorm, or a bias.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is None and self.shift is None:
            raise FormatError("has neither scale nor shift, expected at least one")

    def infer(self, x: Value) -> Value:
        for array in (self.scale, self.shift):
            if array is not None:
                _require_channels(x, len(array))
        return Value(x.shape, "real")


@dataclass(frozen=True, eq=False, kw_only=True)
class Threshold(Node):
    """A folded BatchNorm + sign of integers, per channel (the first axis).

    direction +1: +1 where x >= threshold, else -1; direction -1: +1 where x <= threshold, else -1.
    A threshold at an end of int32 makes a constant: sums never reach that far.

    Args:
        threshold: (C,) int32.
        direction: (C,) int8, +1 or -1.
    """

    threshold: np.ndarray
    direction: np.ndarray

    arrays: ClassVar[dict[str, Stored]] = {"threshold": Stored("int32", 1), "direction": Stored("int8", 1)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.direction.shape != self.threshold.shape:
            raise FormatError(f"direction has shape {self.direction.shape}, expected {self.threshold.shape}")

    def infer(self, x: Value) -> Value:
        if not x.exact:
            raise FormatError(f"got {x.kind} values, expected integers; real values are binarized by `sign`")
        _require_channels(x, len(self.threshold))
        return Value(x.shape, "sign", 1)

    def check_values(self) -> None:
        if count := int(np.count_nonzero(np.abs(self.direction) != 1)):
            raise FormatError(f"{count} of {self.direction.size} values of direction are neither +1 nor -1")


@dataclass(frozen=True, eq=False, kw_only=True)
class Sign(Node):
    """+1 where x >= 0 (also -0.0), else -1."""

    def infer(self, x: Value) -> Value:
        return Value(x.shape, "sign", 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Relu(Node):
    """max(x, 0)."""

    def infer(self, x: Value) -> Value:
        return Value(x.shape, "integer" if x.exact else "real", x.bound)


@dataclass(frozen=True, eq=False, kw_only=True)
class Hardtanh(Node):
    """min(max(x, -1), 1)."""

    def infer(self, x: Value) -> Value:
        # an integer may become 0, which is no sign
        return Value(x.shape, "integer", 1) if x.exact else Value(x.shape, "real")


OPS: dict[str, type[Node]] = {
    "flatten": Flatten,
    "dense": Dense,
    "real_dense": RealDense,
    "affine": Affine,
    "threshold": Threshold,
    "sign": Sign,
    "relu": Relu,
    "hardtanh": Hardtanh,
}
