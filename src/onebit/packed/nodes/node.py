"""`Node`, the base class of all operations of a packed net, and `Value`, a value between them without its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from onebit.errors import FormatError, short

INT32 = np.iinfo(np.int32)
SUM_LIMIT = INT32.max - 1  # so that a threshold at a limit of int32 is true for every sum or for none
MOST_VALUES = 2**27  # per value and image: half a gigabyte of float32
MOST_SIZE = 2**20  # of a kernel, stride, padding, …
MOST_RANK = 6  # axes of a value, without the batch
_OR_MORE = {1: "one or more", 2: "two or more"}


@dataclass(frozen=True)
class Value:
    """A value without its data: shape without the batch axis, kind, and for integers their limits.

    bound: the largest magnitude. least, most: the smallest and the largest integer; None for -`bound` and `bound`.
    """

    shape: tuple[int, ...]
    kind: str
    bound: int | None = None
    least: int | None = field(default=None, compare=False)
    most: int | None = field(default=None, compare=False)

    @property
    def exact(self) -> bool:
        """Whether the value consists of integers (including ±1)."""
        return self.bound is not None

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest integer; of integers only."""
        assert self.bound is not None
        return -self.bound if self.least is None else self.least, self.bound if self.most is None else self.most


class Stored(NamedTuple):
    """dtype and rank of an array of a node, and whether it may be None."""

    dtype: str
    rank: int
    optional: bool = False


class Numbers(NamedTuple):
    """An attribute of a node: an integer, or a tuple of `length` integers, each from `least` to `most`.

    `length` is None for a tuple of up to MOST_RANK integers, and `default` is the default of each integer, None for a
    required attribute.
    """

    length: int | None
    least: int = 1
    most: int = MOST_SIZE
    default: int | None = None

    def check(self, name: str, value: object) -> None:
        """Raise FormatError unless `value` is such an integer or tuple."""
        numbers: Any = (value,) if self.length == 1 else value
        fits = isinstance(numbers, tuple) and len(numbers) == min(self.length or len(numbers), MOST_RANK)
        if not fits or any(type(number) is not int or not self.least <= number <= self.most for number in numbers):
            count = self.length or f"at most {MOST_RANK}"
            raise FormatError(f"{name} is {short(value)}, expected {count} integers from {self.least} to {self.most}")


def read_only(array: np.ndarray) -> np.ndarray:
    """The same numbers, which nobody can change: plans and certificates of a net hold for those that it has."""
    view = array.copy() if array.flags.writeable else array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False, kw_only=True)
class Node(ABC):
    """Base class of the operations.

    Args:
        inputs: names of the input values.
        output: name of the output value.
    """

    inputs: tuple[str, ...]
    output: str

    arity: ClassVar[int | None] = 1
    """Number of inputs; None for `fewest` or more."""
    fewest: ClassVar[int] = 2
    arrays: ClassVar[dict[str, Stored]] = {}
    """Array fields. A node with `signs` (packed rows) also has the field `in_features`, the signs per row."""
    attributes: ClassVar[dict[str, Numbers]] = {}
    """Fields that are integers or tuples of them."""

    def __post_init__(self) -> None:
        if len(self.inputs) != self.arity and (self.arity is not None or len(self.inputs) < self.fewest):
            raise FormatError(f"got {len(self.inputs)} inputs, expected {self.arity or _OR_MORE[self.fewest]}")
        for name, numbers in self.attributes.items():
            numbers.check(name, getattr(self, name))
        for name, stored in self.arrays.items():
            array = getattr(self, name)
            if array is None and stored.optional:
                continue
            if array.dtype != stored.dtype or array.ndim != stored.rank or not array.size:
                expected = f"{stored.dtype} with {stored.rank} axes, none empty"
                raise FormatError(f"{name} is {array.dtype} {array.shape}, expected {expected}")
            object.__setattr__(self, name, read_only(array))

    @abstractmethod
    def infer(self, *inputs: Any) -> Value:
        """The output value for given inputs. Depends on shapes only, never on the contents of arrays.

        Raises:
            FormatError: an unsuitable input.
        """

    def compute(self, dtype: Any, *arrays: Any) -> np.ndarray:
        """The output (N, …) for the arrays of its inputs, in the dtype of its kind.

        Products and pools are computed by `onebit.runtime.executors`.
        """
        raise NotImplementedError

    def check_values(self, *inputs: Value) -> None:
        """Raise FormatError for numbers that are not finite, set tail bits, and integers that may overflow.

        It names the array and counts them. `inputs` are those of `infer`.
        """
        for name, array in self.stored.items():
            if array.dtype == np.float32:
                check_finite(name, array)

    @property
    def stored(self) -> dict[str, np.ndarray]:
        """The arrays by field, without those that are None."""
        return {name: array for name in self.arrays if (array := getattr(self, name)) is not None}

    @property
    def binary_weights(self) -> int:
        """Number of weights that take one bit."""
        return 0

    @property
    def real_parameters(self) -> int:
        """Number of parameters that take 4 bytes; one of int64 counts as two."""
        return sum(array.nbytes // 4 for array in self.stored.values() if array.dtype in ("float32", "int32", "int64"))

    @property
    def stored_bytes(self) -> int:
        """Bytes of its arrays in a file."""
        return sum(array.nbytes for name, array in self.stored.items() if name != "signs")

    def macs(self, x: Value, y: Value) -> int:
        """Multiply-accumulates with weights to compute `y` from `x`, for one image."""
        return 0


def by_class(table: Mapping[type, Any], node: Node) -> Any:
    """The entry of a table for the class of a node, or for the nearest of its base classes; None without one."""
    return next((table[kind] for kind in type(node).__mro__ if kind in table), None)


def per_channel(array: np.ndarray, ndim: int) -> np.ndarray:
    """(C,) shaped to broadcast along axis 1 of a batch with `ndim` axes."""
    return array.reshape(-1, *[1] * (ndim - 2))


def check_finite(name: str, array: np.ndarray) -> None:
    """Raise FormatError if some values of `array` are NaN or infinite."""
    if count := array.size - int(np.count_nonzero(np.isfinite(array))):
        raise FormatError(f"{count} of {array.size} values of {name} are not finite")


def check_size(what: str, shape: tuple[int, ...]) -> None:
    """Raise FormatError if a value of this shape is too large for any reasonable net."""
    if prod(shape) > MOST_VALUES:
        raise FormatError(f"{what} has shape {shape}, more than {MOST_VALUES} values per image")


def require_alike(values: Collection[Value]) -> None:
    """Raise FormatError unless all values have one shape."""
    if len({x.shape for x in values}) > 1:
        raise FormatError(f"got values of shapes {', '.join(str(x.shape) for x in values)}, expected equal shapes")


def require_channels(x: Value, channels: int) -> None:
    """Raise FormatError unless the first axis of `x` has `channels`."""
    if x.shape[:1] != (channels,):
        raise FormatError(f"got a value of shape {x.shape}, expected {channels} channels")


def require_image(x: Value) -> tuple[int, int, int]:
    """(C, H, W) of `x`, or FormatError."""
    if len(x.shape) != 3:
        raise FormatError(f"got a value of shape {x.shape}, expected an image (C, H, W)")
    channels, height, width = x.shape
    return channels, height, width


def integer(shape: tuple[int, ...], bound: int, least: int | None = None, most: int | None = None) -> Value:
    """A value of integers, or FormatError if they may not fit an int32."""
    if bound > SUM_LIMIT:
        raise FormatError(f"sums reach {bound}, more than int32 holds")
    return Value(shape, "integer", bound, least, most)


def merged(values: tuple[Value, ...], shape: tuple[int, ...]) -> Value:
    """A value that can hold elements of all `values`: ±1 or integers if all are, else reals."""
    bounds = [x.bound for x in values if x.bound is not None]
    if len(bounds) < len(values):
        return Value(shape, "real")
    kind = "sign" if all(x.kind == "sign" for x in values) else "integer"
    return Value(shape, kind, max(bounds), min(x.limits[0] for x in values), max(x.limits[1] for x in values))


def same_kind(x: Value, shape: Any) -> Value:
    """Elements of `x` in another shape."""
    return Value(tuple(shape), x.kind, x.bound, x.least, x.most)
