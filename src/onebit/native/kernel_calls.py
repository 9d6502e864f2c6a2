"""The kernel calls of a plan before memory is assigned, and the values between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from onebit.native.layout import Axis, box_fields, merged

BITS, INTEGER, REAL, BYTES = "bits", "integer", "real", "bytes"
"""Kinds of values: 32 signs per word, int32, float32, or bytes, see `Coding`."""
WORD = 32  # signs
_UNIT = 4  # bytes


class Coding(NamedTuple):
    """The integer that a byte encodes: factor · byte − zero."""

    factor: int
    zero: int

    def byte(self, value: int) -> int | None:
        """The byte that encodes an integer, if any."""
        byte, rest = divmod(value + self.zero, self.factor)
        return None if rest or not 0 <= byte <= 255 else byte


UNSIGNED, SIGNED, CENTERED = Coding(1, 0), Coding(1, 128), Coding(2, 255)
"""Integers from 0 to 255, from −128 to 127, and the odd ones from −255 to 255."""


def coding_of(least: int, most: int) -> Coding | None:
    """The coding of integers of a range as bytes; None if the range is too wide."""
    return next((c for c in (UNSIGNED, SIGNED) if c.byte(least) is not None and c.byte(most) is not None), None)


@dataclass(eq=False)
class Buffer:
    """A part of the arena: units per image, the first and last call that use it, and its offset."""

    units: int
    first: int = -1
    last: int = -1
    offset: int = -1


@dataclass(eq=False)
class Slot:
    """A value in memory: its shape (in NHWC order), its kind and its buffer.

    flat: the shape is (C·H·W,), but the elements are not reordered yet. coding: of bytes. kinds: the same value
    converted.
    """

    shape: tuple[int, int, int]
    kind: str
    buffer: Buffer
    call: KernelCall | None = None
    flat: bool = False
    coding: Coding | None = None
    kinds: dict[str, Slot] = field(default_factory=dict)

    @property
    def pixel(self) -> int:
        """Units per pixel, or bytes."""
        return -(-self.shape[0] // WORD) if self.kind == BITS else self.shape[0]

    @property
    def size(self) -> int:
        """Units, or bytes."""
        return self.shape[1] * self.shape[2] * self.pixel

    @property
    def units(self) -> int:
        return -(-self.size // _UNIT) if self.kind == BYTES else self.size

    def seen_as(self, shape: tuple[int, int, int], call: KernelCall | None = None, *, flat: bool = False) -> Slot:
        """The same memory with another shape."""
        return Slot(shape, self.kind, self.buffer, call, flat, self.coding)

    def then(self, code: str, *arrays: Any, **fields: Any) -> None:
        """Append an operation to the epilogue of the call that computes this value; signs and bytes end it."""
        assert self.call is not None
        operation = Operation(code, *arrays, **fields)
        self.call.epilogue.append(operation)
        if code in ("real", "affine_int"):
            self.kind = REAL
        elif code in ("threshold", "sign"):
            self.kind = BITS
            self.call.fields |= {"bits": WORD, "out_pixel": self.pixel}
        elif code in ("requantize", "quantize"):
            self.kind, self.coding = INTEGER, coding_of(operation.least, operation.most)
            if self.coding is not None:
                self.kind = BYTES
                self.call.fields |= {"out_bytes": 1, "out_zero": self.coding.zero}
        self.buffer.units = self.units


class Operation(NamedTuple):
    """An operation of an epilogue. more: values that it reads besides the sums."""

    code: str
    p: np.ndarray | None = None
    q: np.ndarray | None = None
    more: tuple[Slot, ...] = ()
    least: int = 0
    most: int = 0


@dataclass(eq=False)
class KernelCall:
    """A kernel call. fields: other fields of `ob_call`."""

    kernel: str
    inputs: tuple[Buffer, ...]
    out: Buffer
    fields: dict[str, Any]
    epilogue: list[Operation] = field(default_factory=list)
    scratch: int = 0


class KernelCalls:
    """Collects the kernel calls of a plan in `calls` and their buffers in `buffers`."""

    def __init__(self) -> None:
        self.calls: list[KernelCall] = []
        self.buffers: list[Buffer] = []

    def buffer(self) -> Buffer:
        self.buffers.append(Buffer(0))
        return self.buffers[-1]

    def emit(
        self,
        kernel: str,
        sources: tuple[Slot, ...],
        shape: tuple[int, int, int],
        kind: str,
        coding: Coding | None = None,
        into: Slot | None = None,
        **fields: Any,
    ) -> Slot:
        """Append a call and return its value, in new memory or in that of the value `into`."""
        slot = Slot(shape, kind, into.buffer if into else self.buffer(), coding=coding)
        slot.buffer.units = slot.units + 2 * (kernel == "grid")
        source = sources[0] if sources else slot
        factor, zero = source.coding or (0, 0)
        fields = {
            "in_height": source.shape[1],
            "in_width": source.shape[2],
            "in_pixel": source.pixel,
            "in_factor": factor,
            "in_zero": zero,
            "out_height": shape[1],
            "out_width": shape[2],
            "channels": shape[0],
            "out_pixel": slot.pixel,
            "out_bytes": 0,
            **fields,
        }
        slot.call = KernelCall(kernel, tuple(source.buffer for source in sources), slot.buffer, fields)
        self.calls.append(slot.call)
        return slot

    def as_kind(self, slot: Slot, kind: str) -> Slot:
        """The same value in another kind: integers, real numbers, or bits of integers that are ±1."""
        if slot.kind == kind:
            return slot
        if kind not in slot.kinds:
            assert slot.kind != REAL
            if slot.kind == BITS:
                made = self.as_kind(self.emit("expand", (slot,), slot.shape, INTEGER), kind)
            else:
                made = self.emit("pointwise", (slot,), slot.shape, INTEGER)
                if kind == REAL:
                    made.then("real")
                elif kind == BITS:
                    zeros = np.zeros(slot.shape[0], np.int32)
                    made.then("threshold", zeros, zeros)
            made.flat = slot.flat
            slot.kinds[kind] = made
        return slot.kinds[kind]

    def unpacked(self, slot: Slot) -> Slot:
        """Bits as integers."""
        return self.as_kind(slot, INTEGER) if slot.kind == BITS else slot

    def image_order(self, slot: Slot) -> Slot:
        """The value as a vector in the order of (C, H, W); not for bits."""
        channels, height, width = slot.shape
        axes = [Axis(channels, 1, height * width), Axis(height * width, channels, 1)]
        return self.move(slot, (slot.size, 1, 1), axes)

    def move(self, slot: Slot, shape: tuple[int, int, int], axes: list[Axis], start: int = 0) -> Slot:
        """The elements of `slot` from `start` on in another shape; in the same memory if their order is the same."""
        if merged(axes) == [Axis(slot.size, 1, 1)]:
            # operations on channels can still be added to the call
            return slot.seen_as(shape, slot.call if shape[0] == slot.shape[0] else None)
        return self.copy(slot, shape, axes, from_=start)

    def copy(self, slot: Slot, shape: tuple[int, int, int], axes: list[Axis], **fields: Any) -> Slot:
        """Copy a box of units or bytes, from unit `from_` of a value to unit `to` of one of shape `shape`."""
        return self.emit("copy", (slot,), shape, slot.kind, slot.coding, **fields, **box_fields(axes))
