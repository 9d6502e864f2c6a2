"""`Node`, the base class of all operations of a packed net, and `Value`, a value between them without its data."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from onebit.errors import FormatError, short

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:  # Python 3.10 has no `typing.dataclass_transform`

    def dataclass_transform(**_):
        return lambda function: function


OPS: dict[str, type[Node]] = {}
"""Name in a file -> operation. Users may add their own."""
_Class = TypeVar("_Class", bound="Node")


@dataclass_transform(eq_default=False, kw_only_default=True, frozen_default=True)
def operation(name: str = "") -> Callable[[type[_Class]], type[_Class]]:
    """The dataclass of an operation, which `OPS` lists by its name; "" for a base class."""

    def register(cls: type[_Class]) -> type[_Class]:
        if name:
            OPS[name] = cls
        return dataclass(frozen=True, eq=False, kw_only=True)(cls)

    return register


INT32 = np.iinfo(np.int32)
SUM_LIMIT = INT32.max - 1  # so that a threshold at a limit of int32 holds for every sum or for none
MAX_VALUES = 2**27  # per value and image: half a gigabyte of float32
MAX_SIZE = 2**20  # of a kernel, stride, padding, …
MAX_RANK = 6  # axes of a value, without the batch
MAX_WIDTH = 2**16  # of a range: activations have up to 16 bits
MAX_SHIFT = 52
ARRAYS = {
    **dict.fromkeys(("scale", "centre", "shift", "slope", "low", "high", "eps"), ("float32", 1)),
    **dict.fromkeys(("weight", "scales"), ("float32", 2)),
    "signs": ("uint64", 2),
    "multiplier": ("int32", 2),
    "offset": ("int64", 1),
    "indices": ("int32", 1),
    "threshold": ("int32", 1),
    "direction": ("int8", 1),
}
"""Field -> dtype and rank of the arrays that nodes may have: a file distinguishes them only by name."""


@dataclass(frozen=True)
class Value:
    """A value without its data: shape without the batch axis, kind, and for integers their limits.

    bound: the largest magnitude. least, most: the smallest and the largest integer; None for -`bound` and `bound`.
    step: 2 if all integers have the parity of `bound`, else 1.
    """

    shape: tuple[int, ...]
    kind: str
    bound: int | None = None
    least: int | None = field(default=None, compare=False)
    most: int | None = field(default=None, compare=False)
    step: int = field(default=1, compare=False)

    @property
    def exact(self) -> bool:
        """Whether the value consists of integers (including ±1)."""
        return self.bound is not None

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest integer; of integers only."""
        assert self.bound is not None
        return -self.bound if self.least is None else self.least, self.bound if self.most is None else self.most

    @property
    def integers(self) -> range:
        """All integers that can occur, and maybe more: symmetric around 0."""
        assert self.bound is not None
        return range(-self.bound, self.bound + 1, self.step)


class Numbers(NamedTuple):
    """An integer, or a tuple of `length` integers (None: up to MAX_RANK), each from `least` to `most`."""

    length: int | None
    least: int = 1
    most: int = MAX_SIZE

    def check(self, name: str, value: object) -> None:
        """Raise FormatError unless `value` is such an integer or tuple."""
        numbers: Any = (value,) if self.length == 1 else value
        fits = isinstance(numbers, tuple) and len(numbers) == min(self.length or len(numbers), MAX_RANK)
        if not fits or any(type(number) is not int or not self.least <= number <= self.most for number in numbers):
            count = self.length or f"at most {MAX_RANK}"
            raise FormatError(f"{name} is {short(value)}, expected {count} integers from {self.least} to {self.most}")


ATTRIBUTES = {
    **dict.fromkeys(("kernel", "stride", "dilation", "size"), Numbers(2)),
    **dict.fromkeys(("extra", "channels"), Numbers(2, 0)),
    **dict.fromkeys(("value", "padding_value"), Numbers(1, -1, 1)),
    **dict.fromkeys(("count_padding", "sums", "whole", "centered"), Numbers(1, 0, 1)),
    **dict.fromkeys(("shape", "times"), Numbers(None)),
    **dict.fromkeys(("stop", "step"), Numbers(3)),
    "groups": Numbers(1),
    "axis": Numbers(1, 0, 2),
    "padding": Numbers(4, 0),
    "axes": Numbers(None, 0),
    "start": Numbers(3, 0),
    "least": Numbers(1, -MAX_WIDTH, 0),
    "most": Numbers(1, 1, MAX_WIDTH),
    "right_shift": Numbers(1, 0, MAX_SHIFT),
}
"""Field -> the integers that nodes may have in it."""


def read_only(array: np.ndarray) -> np.ndarray:
    """The same numbers, read-only: plans and certificates of a net depend on them."""
    view = array.copy() if array.flags.writeable else array.view()
    view.flags.writeable = False
    return view


@operation()
class Node(ABC):
    """Base class of the operations. Their fields are those of ARRAYS and ATTRIBUTES, and `in_features` with `signs`.

    Attributes:
        inputs: names of the input values.
        output: name of the output value.
    """

    inputs: tuple[str, ...]
    output: str

    arity: ClassVar[int | None] = 1
    """Number of inputs; None for `min_inputs` or more."""
    min_inputs: ClassVar[int] = 2
    affine: ClassVar[bool] = False
    """Whether it is y = scale · x + shift, per channel."""
    moves: ClassVar[bool] = False
    """Whether the results are elements of the inputs, maybe with a border: it commutes with sign."""
    monotonic: ClassVar[bool] = False
    """Whether packing may defer it until a sign: no result falls when an input rises. A `Prelu` only without negative
    slopes."""
    pools: ClassVar[bool] = False
    """Whether each result is the largest or the mean of a window."""
    rounds: ClassVar[bool] = False
    """Whether results are signs or integers that the rounding of real numbers can change."""
    arrays: ClassVar[tuple[str, ...]] = ()
    attributes: ClassVar[dict[str, Numbers]] = {}

    def __init_subclass__(cls) -> None:
        names = [name for base in reversed(cls.__mro__[:-3]) for name in inspect.get_annotations(base)]
        cls.arrays = tuple(name for name in names if name in ARRAYS)
        cls.attributes = {name: ATTRIBUTES[name] for name in names if name not in (*ARRAYS, "in_features")}

    def __post_init__(self) -> None:
        if len(self.inputs) != self.arity and (self.arity is not None or len(self.inputs) < self.min_inputs):
            raise FormatError(f"got {len(self.inputs)} inputs, expected {self.arity or f'{self.min_inputs} or more'}")
        for name, numbers in self.attributes.items():
            numbers.check(name, getattr(self, name))
        for name, array in self.stored.items():
            if (array.dtype, array.ndim) != ARRAYS[name] or not array.size:
                dtype, rank = ARRAYS[name]
                raise FormatError(
                    f"{name} is {array.dtype} {array.shape}, expected {dtype} with {rank} axes, none empty"
                )
            object.__setattr__(self, name, read_only(array))
        for name, array in self.stored.items():
            if array.shape != (expected := self.shape_of(name) or array.shape):
                raise FormatError(f"{name} has shape {array.shape}, expected {expected}")

    @abstractmethod
    def infer(self, *inputs: Any) -> Value:
        """The output value for given inputs. Depends on shapes only, never on the contents of arrays.

        Raises:
            FormatError: an unsuitable input.
        """

    def resized(self, before: Value, after: Value) -> Self:
        """The same operation if its first input has the size of `after` instead of `before`."""
        return self

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

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape that an array must have; () for any of its rank."""
        return ()

    @property
    def stored(self) -> dict[str, np.ndarray]:
        """The arrays by field, without those that are None."""
        return {name: array for name in self.arrays if (array := getattr(self, name)) is not None}

    @property
    def binary_weights(self) -> int:
        """Number of weights that take one bit."""
        return 0

    @property
    def real_weights(self) -> int:
        """Number of weights that take 4 bytes."""
        return 0

    @property
    def weights(self) -> int:
        """Number of weights."""
        return self.binary_weights + self.real_weights

    @property
    def span(self) -> int:
        """The largest minus the smallest integer that it rounds to; 0 if it does not round to integers."""
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
    if prod(shape) > MAX_VALUES:
        raise FormatError(f"{what} has shape {shape}, more than {MAX_VALUES} values per image")


def require_alike(shapes: Collection[tuple[int, ...]]) -> None:
    """Raise FormatError unless all shapes are equal."""
    if len(set(shapes)) > 1:
        raise FormatError(f"got values of shapes {', '.join(map(str, shapes))}, expected equal shapes")


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


def signs(shape: tuple[int, ...]) -> Value:
    """A value of ±1."""
    return Value(shape, "sign", 1, step=2)


def integer(
    shape: tuple[int, ...], bound: int, least: int | None = None, most: int | None = None, step: int = 1
) -> Value:
    """A value of integers, or FormatError if they may not fit an int32."""
    if bound > SUM_LIMIT:
        raise FormatError(f"sums reach {bound}, more than int32 holds")
    return Value(shape, "integer", bound, least, most, step)


def merged(values: tuple[Value, ...], shape: tuple[int, ...]) -> Value:
    """A value that can hold elements of all `values`: ±1 or integers if all are, else reals."""
    bounds = [x.bound for x in values if x.bound is not None]
    if len(bounds) < len(values):
        return Value(shape, "real")
    kind = "sign" if all(x.kind == "sign" for x in values) else "integer"
    step = 2 if all(x.step == 2 for x in values) and len({bound % 2 for bound in bounds}) == 1 else 1
    return Value(shape, kind, max(bounds), min(x.limits[0] for x in values), max(x.limits[1] for x in values), step)


def same_kind(x: Value, shape: Any) -> Value:
    """Elements of `x` in another shape."""
    return replace(x, shape=tuple(shape))
