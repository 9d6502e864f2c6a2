"""Operations that are held back, and the integer threshold of those that end in a sign."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from onebit.packed import Flatten, MaxPool, Node
from onebit.quantizers import Quantizer

EXACT_SUM = 2**24  # float32 holds every integer below it, so torch's sums are exact in whatever order it adds
MOST_INTEGERS = 2**22  # per channel, above which a layer is compared on images instead
_BLOCK = 1 << 18  # float32 values of one block of a proof: it stays in the second-level cache
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, eq=False)
class Step:
    """An operation that is held back: affine per channel, or a packed operation as it stands.

    Args:
        name: of the value it makes.
        apply: what torch computes, number by number: (n, C) -> (n, C).
        scale, shift: (C,) float64, None for 1 and 0, of an affine step.
        kind, fields: the packed operation of a step that is not affine.
        exact: what torch gives depends on the integer below the steps alone, not on the order of a sum.
    """

    name: str
    apply: Callable[[Tensor], Tensor]
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    kind: type[Node] | None = None
    fields: dict[str, Any] | None = None
    exact: bool = True

    @property
    def moves(self) -> bool:
        """Whether it picks and moves numbers, each of which keeps its sign: sign after it is sign before it."""
        return self.kind in (Flatten, MaxPool)

    @property
    def grows(self) -> bool:
        """Whether it is a positive factor: the largest number before it is the largest after it."""
        return self.kind is None and self.shift is None and self.scale is not None and bool((self.scale > 0).all())

    def for_each_pixel(self, pixels: int) -> Step:
        """This step behind a flattening, where each channel has become so many."""

        def apply(x: Tensor) -> Tensor:
            images = x.unflatten(1, (-1, pixels)).movedim(1, 2)
            return self.apply(images.flatten(0, 1)).unflatten(0, (-1, pixels)).movedim(1, 2).flatten(1)

        scale, shift = (None if a is None else np.repeat(a, pixels) for a in (self.scale, self.shift))
        fields = {name: np.repeat(array, pixels) for name, array in (self.fields or {}).items()}
        return replace(self, apply=apply, scale=scale, shift=shift, fields=fields)


class Pending(NamedTuple):
    """A value during folding: a packed value, and the steps held back above it."""

    base: str
    steps: tuple[Step, ...] = ()

    def then(self, step: Step) -> Pending:
        """This value after one more step."""
        return Pending(self.base, (*self.steps, step))

    @property
    def moved(self) -> bool:
        """Whether a step moves numbers, so that a channel of the base is no channel of this value any more."""
        return any(step.moves for step in self.steps)


@dataclass(frozen=True, eq=False)
class Chain:
    """Steps that end in a sign, over integers: monotone in each channel, because each step and its rounding is.

    Args:
        quantizer: the module that takes the sign.
        channels: C.
        reach: the integers that the value below the steps can take, spread evenly around 0.
    """

    steps: tuple[Step, ...]
    quantizer: Quantizer
    channels: int
    reach: range

    @torch.no_grad()
    def positive(self, integers: Tensor) -> Tensor:
        """Where the trained modules give the upper value, +1 for most: (n, C) float32 -> (n, C) bool."""
        x = integers
        for step in self.steps:
            x = step.apply(x)
        stated = self.quantizer.binary_input()
        assert stated is not None
        return stated.upper(self.quantizer(x))

    @property
    def exact(self) -> bool:
        """Whether torch decides each integer as the modules do here, so that trying all of them proves something."""
        bounded = self.reach[-1] < EXACT_SUM and len(self.reach) <= MOST_INTEGERS
        return bounded and all(step.exact for step in self.steps)

    def settle(self) -> tuple[np.ndarray, np.ndarray]:
        """(threshold int32, direction int8), each (C,): found by asking the modules, bisecting `reach`.

        Algebra on the BatchNorm's parameters is wrong at ties, where its float32 rounding decides.
        """
        low, high = np.zeros(self.channels, np.int64), np.full(self.channels, len(self.reach) - 1)
        first, last = self._at(low), self._at(high)
        while (high - low > 1).any():
            middle = (low + high) // 2
            as_first = self._at(middle) == first
            low, high = np.where(as_first, middle, low), np.where(as_first, high, middle)
        threshold = self.reach.start + self.reach.step * np.where(first, low, high)  # the outermost integer of +1
        threshold = np.where(first == last, np.where(first, _INT32.min, _INT32.max), threshold)
        return threshold.astype(np.int32), np.where(first & ~last, -1, 1).astype(np.int8)

    def mismatches(self, threshold: np.ndarray, direction: np.ndarray) -> int:
        """How many of all integers × channels a threshold decides otherwise than the modules."""
        turn = torch.from_numpy(direction.astype(np.float32))
        bound = torch.from_numpy(threshold.astype(np.float32)) * turn
        rows = max(1, min(_BLOCK // self.channels, len(self.reach)))
        offsets = torch.arange(rows, dtype=torch.float32)[:, None] * self.reach.step
        block, count = offsets.expand(rows, self.channels).contiguous(), 0
        for start in range(0, len(self.reach), rows):
            x = block[: len(self.reach) - start] + float(self.reach[start])
            count += int(torch.count_nonzero(self.positive(x) != (x * turn >= bound)))
        return count

    def _at(self, index: np.ndarray) -> np.ndarray:
        integers = self.reach.start + self.reach.step * index
        return self.positive(torch.from_numpy(integers.astype(np.float32))[None])[0].numpy()


def sums_are_exact(bound: int, scale: Tensor | None, bias: Tensor | None) -> bool:
    """Whether torch's float32 sums of scale·integers + bias are exact in every order.

    They are when all of them lie on one grid with fewer than 2²⁴ steps.

    Args:
        bound: largest magnitude of a sum of the integers.
        scale, bias: (C,) or None.
    """
    unit = np.ones(1) if scale is None else scale.double().numpy()
    if (np.frexp(unit)[0] != 0.5).any() or (unit < 2.0**-60).any() or (unit > 2.0**60).any():
        return False  # no power of two: the products are rounded
    if bias is None:
        return True
    shift = np.abs(bias.double().numpy())
    mantissa, exponent = np.frexp(shift)
    digits = (mantissa * EXACT_SUM).astype(np.int64)
    last_digit = np.ldexp((digits & -digits).astype(np.float64), exponent - 24)
    grid = np.where(shift > 0, np.minimum(unit, last_digit), unit)
    return bool(((unit * bound + shift) / grid < EXACT_SUM).all())
