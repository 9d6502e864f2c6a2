"""Deferred operations, and the integer threshold that replaces a chain of them before a sign."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from onebit.errors import NotBinaryError
from onebit.integer.conversion import Affines
from onebit.packed import Node
from onebit.packed.grid import FLOAT32_EXACT
from onebit.packed.nodes.node import INT32
from onebit.quantizers import Quantizer

MAX_INTEGERS = 2**22  # per channel; a layer with more is compared on images instead
NEAR = 2.0**-21
"""Rounding decides a sign that changes so near to an integer, as a fraction of the largest integer of the channel:
a few float32 roundings of a BatchNorm, whose mean is not larger."""
_BLOCK = 1 << 18  # float32 values per block of a proof: fits the second-level cache


def check_finite(name: str, *numbers: Any) -> None:
    if not all(np.isfinite(x).all() for x in numbers if x is not None):
        raise NotBinaryError(f"{name!r} has numbers that are not finite; pack an earlier checkpoint")


@dataclass(frozen=True, eq=False)
class FoldedOp:
    """A deferred operation: an affine map per channel, or an unchanged packed operation.

    Args:
        apply: what torch computes, elementwise: (n, C) -> (n, C).
        scale, shift: of an affine map, (C,) float64; None for 1 and 0.
        formula: scale and shift in float64 where torch rounds them to float32.
        kind, fields: the packed operation, if it is not an affine map.
        exact: torch's result depends only on the integer input of the chain, not on the order of a sum.
        mixes: its channels differ from those of its input.
    """

    name: str
    apply: Callable[[Tensor], Tensor]
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    kind: type[Node] | None = None
    fields: dict[str, Any] | None = None
    exact: bool = True
    mixes: bool = False
    formula: tuple[np.ndarray, np.ndarray] | None = None

    def __post_init__(self) -> None:
        check_finite(self.name, self.scale, self.shift, *(self.fields or {}).values())

    @property
    def moves(self) -> bool:
        """Whether it only selects and moves elements, so that it commutes with sign."""
        return self.kind is not None and self.kind.moves

    @property
    def monotonic(self) -> bool:
        """Whether it is monotonic in each channel, so that an integer threshold can replace it before a sign."""
        slope = (self.fields or {}).get("slope", 0.0)
        return self.kind is None or (self.kind.monotonic and bool(np.all(slope >= 0)))

    @property
    def factor(self) -> float | None:
        """The factor of all values; None for any other operation."""
        if self.kind is not None or self.shift is not None or self.scale is None or (self.scale != self.scale[0]).any():
            return None
        return float(self.scale[0])

    def for_each_pixel(self, pixels: int) -> FoldedOp:
        """This operation after a Flatten that turns each channel into `pixels` channels."""

        def apply(x: Tensor) -> Tensor:
            images = x.unflatten(1, (-1, pixels)).movedim(1, 2)
            return self.apply(images.flatten(0, 1)).unflatten(0, (-1, pixels)).movedim(1, 2).flatten(1)

        return replace(self, apply=apply)


def joined(maps: Iterable[Affines]) -> Affines:
    """Scale and shift of affine maps, one after the other."""
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    for by, plus in maps:
        if by is not None:
            scale = by if scale is None else scale * by
            shift = None if shift is None else shift * by
        if plus is not None:
            shift = plus if shift is None else shift + plus
    return scale, shift


class Pending(NamedTuple):
    """A packed value with deferred operations on it."""

    base: str
    ops: tuple[FoldedOp, ...] = ()

    def then(self, op: FoldedOp) -> Pending:
        """This value after another operation."""
        return Pending(self.base, (*self.ops, op))

    @property
    def moved(self) -> bool:
        """Whether an operation moves elements, so that its channels differ from those of the base."""
        return any(op.moves for op in self.ops)


@dataclass(frozen=True, eq=False)
class Chain:
    """Operations on integers before a sign: monotonic in each channel, because each of them and its rounding is.

    `integers` are the possible inputs, symmetric around 0; `quantizer` takes the sign.
    """

    ops: tuple[FoldedOp, ...]
    quantizer: Quantizer
    channels: int
    integers: range

    @torch.no_grad()
    def positive(self, x: Tensor) -> Tensor:
        """Where the trained modules give the upper value, usually +1: (n, C) float32 -> (n, C) bool."""
        for op in self.ops:
            x = op.apply(x)
        binary_input = self.quantizer.binary_input()
        assert binary_input is not None
        return binary_input.upper(self.quantizer(x))

    def undecided(self, x: Tensor) -> Tensor:
        """Where rounding decides the sign of integers, (n, C) float32 -> (n, C) bool: it changes within `NEAR`."""
        near = NEAR * self.integers[-1] if self.ops else 0.0
        return self.positive(x - near) != self.positive(x + near)

    @property
    def exact(self) -> bool:
        """Whether torch gives the same sign for an integer in any batch, so that trying all integers is a proof."""
        return self.can_be_tried and all(op.exact for op in self.ops)

    @property
    def can_be_tried(self) -> bool:
        """Whether there are few enough integers to try them all."""
        return self.integers[-1] < FLOAT32_EXACT and len(self.integers) <= MAX_INTEGERS

    def settle(self) -> tuple[np.ndarray, np.ndarray]:
        """(threshold int32, direction int8), each (C,), found by bisection with the modules themselves.

        A formula of the BatchNorm's parameters would be wrong at ties, where float32 rounding decides.
        """
        low, high = np.zeros(self.channels, np.int64), np.full(self.channels, len(self.integers) - 1)
        first, last = self._at(low), self._at(high)
        while (high - low > 1).any():
            middle = (low + high) // 2
            as_first = self._at(middle) == first
            low, high = np.where(as_first, middle, low), np.where(as_first, high, middle)
        threshold = self.integers.start + self.integers.step * np.where(first, low, high)  # the outermost integer of +1
        threshold = np.where(first == last, np.where(first, INT32.min, INT32.max), threshold)
        return threshold.astype(np.int32), np.where(first & ~last, -1, 1).astype(np.int8)

    def mismatches(self, threshold: np.ndarray, direction: np.ndarray, *, decided: bool = False) -> int:
        """Number of (integer, channel) pairs for which a threshold differs from the modules.

        Args:
            decided: count only those that rounding does not decide, which are the same on every processor.
        """
        turn = torch.from_numpy(direction.astype(np.float32))
        bound = torch.from_numpy(threshold.astype(np.float32)) * turn
        rows = max(1, min(_BLOCK // self.channels, len(self.integers)))
        offsets = torch.arange(rows, dtype=torch.float32)[:, None] * self.integers.step
        block, count = offsets.expand(rows, self.channels).contiguous(), 0
        for start in range(0, len(self.integers), rows):
            x = block[: len(self.integers) - start] + float(self.integers[start])
            differs = self.positive(x) != (x * turn >= bound)
            if decided and differs.any():
                differs &= ~self.undecided(x)
            count += int(torch.count_nonzero(differs))
        return count

    def _at(self, index: np.ndarray) -> np.ndarray:
        integers = self.integers.start + self.integers.step * index
        return self.positive(torch.from_numpy(integers.astype(np.float32))[None])[0].numpy()


def sums_are_exact(bound: int, bias: Tensor) -> bool:
    """Whether torch's float32 sums of integers and a bias (C,) are exact in every order.

    They are if all are multiples of one unit and below 2²⁴ units. `bound` is the largest magnitude of the integer sum.
    """
    shift = np.abs(bias.double().numpy())
    mantissa, exponent = np.frexp(shift)
    digits = (mantissa * FLOAT32_EXACT).astype(np.int64)
    last_digit = np.ldexp((digits & -digits).astype(np.float64), exponent - 24)
    grid = np.where(shift > 0, np.minimum(1, last_digit), 1)
    return bool(((bound + shift) / grid < FLOAT32_EXACT).all())
