"""The kernel calls of a plan before they have a place in memory, and the values between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from onebit.native.layout import Axis, box_fields, merged

BITS, INTEGER, REAL, BYTES = "bits", "integer", "real", "bytes"
"""Kinds of values: 32 signs per word, int32, float32, or bytes, see `Coding`."""
_UNIT = 4  # bytes


class Coding(NamedTuple):
    """What a byte means: the integer factor · byte − zero."""

    factor: int
    zero: int

    def byte(self, value: int) -> int | None:
        """The byte of an integer; None if it has none."""
        byte, rest = divmod(value + self.zero, self.factor)
        return None if rest or not 0 <= byte <= 255 else byte


UNSIGNED, SIGNED, CENTERED = Coding(1, 0), Coding(1, 128), Coding(2, 255)
"""Integers from 0 to 255, from −128 to 127, and the odd ones from −255 to 255."""


def coding_of(least: int, most: int) -> Coding | None:
    """How integers of a range are stored as bytes; None for too wide a range."""
    return next((c for c in (UNSIGNED, SIGNED) if c.byte(least) is not None and c.byte(most) is not None), None)


@dataclass(eq=False)
class Buffer:
    """A piece of the arena: units per image, the first and last call that use it, and where it begins."""

    units: int
    first: int = -1
    last: int = -1
    place: int = -1


@dataclass(eq=False)
class Slot:
    """A value in memory: its shape, in NHWC order, its kind and its buffer.

    A `flat` value has the shape (C·H·W,) but is not yet reordered. coding: of bytes.
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
        return -(-self.shape[0] // 32) if self.kind == BITS else self.shape[0]

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


class Operation(NamedTuple):
    """An operation of an epilogue. more: the values that it reads besides the sums."""

    code: str
    p: np.ndarray | None = None
    q: np.ndarray | None = None
    more: tuple[Slot, ...] = ()
    least: int = 0
    most: int = 0


@dataclass(eq=False)
class KernelCall:
    """A kernel call before its buffers have a place.

    fields: other fields of `ob_call`. bits: the epilogue ends in signs.
    """

    kernel: str
    inputs: tuple[Buffer, ...]
    out: Buffer
    fields: dict[str, Any]
    epilogue: list[Operation] = field(default_factory=list)
    scratch: int = 0
    bits: bool = False

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """Those that it writes and reads."""
        return self.out, *self.inputs, *(slot.buffer for operation in self.epilogue for slot in operation.more)

    @property
    def closed(self) -> bool:
        """Whether the epilogue has ended: nothing follows signs and bytes."""
        return self.bits or self.fields["out_bytes"] > 0


class KernelCalls:
    """Collects the kernel calls of a plan in `list` and their buffers in `buffers`."""

    def __init__(self) -> None:
        self.list: list[KernelCall] = []
        self.buffers: list[Buffer] = []

    def buffer(self, units: int) -> Buffer:
        self.buffers.append(Buffer(units))
        return self.buffers[-1]

    def emit(
        self,
        kernel: str,
        sources: tuple[Slot, ...],
        shape: tuple[int, int, int],
        kind: str,
        coding: Coding | None = None,
        **fields: Any,
    ) -> Slot:
        """Append a call and return the value that it makes."""
        out = self.buffer(0)
        slot = Slot(shape, kind, out, coding=coding)
        out.units = slot.units + 2 * (kernel == "grid")
        size = {"out_height": shape[1], "out_width": shape[2], "channels": shape[0], "out_pixel": slot.pixel}
        fields = {**_image_fields(sources[0] if sources else slot), **size, "out_bytes": 0, **fields}
        slot.call = KernelCall(kernel, tuple(source.buffer for source in sources), out, fields)
        self.list.append(slot.call)
        return slot

    def to_end(self, call: KernelCall) -> None:
        """Run a call after all others, none of which reads what it makes."""
        self.list.remove(call)
        self.list.append(call)

    def as_kind(self, slot: Slot, kind: str) -> Slot:
        """The same value as another kind: integers or real numbers, or bits of integers that are ±1."""
        if slot.kind == kind:
            return slot
        if kind not in slot.kinds:
            if slot.kind == BITS:
                made = self.as_kind(self.emit("expand", (slot,), slot.shape, INTEGER), kind)
            elif slot.kind == BYTES and kind != BITS:
                made = self.emit("pointwise", (slot,), slot.shape, INTEGER)
                if kind == REAL:
                    self.then(made, "real")
            elif kind == BITS:
                made = self.emit("pointwise", (slot,), slot.shape, INTEGER)
                zeros = np.zeros(slot.shape[0], np.int32)
                self.then_sign(made, "threshold", zeros, zeros)
            else:
                assert kind == REAL
                made = self.emit("pointwise", (slot,), slot.shape, REAL)
                self.then(made, "real")
            made.flat = slot.flat
            slot.kinds[kind] = made
        return slot.kinds[kind]

    def then(self, slot: Slot, operation: str, p: np.ndarray | None = None, q: np.ndarray | None = None) -> None:
        """Append an operation to the epilogue of the call that makes `slot`."""
        assert slot.call is not None
        slot.call.epilogue.append(Operation(operation, p, q))
        if operation in ("real", "affine_int"):
            slot.kind = REAL

    def then_integers(self, slot: Slot, operation: Operation) -> None:
        """Append an operation that makes integers of a range, which become bytes if they can."""
        assert slot.call is not None
        slot.call.epilogue.append(operation)
        slot.kind, slot.coding = INTEGER, coding_of(operation.least, operation.most)
        if slot.coding is not None:
            slot.kind = BYTES
            slot.call.fields |= {"out_bytes": 1, "out_zero": slot.coding.zero}
            slot.buffer.units = slot.units

    def then_sign(self, slot: Slot, operation: str, p: np.ndarray | None = None, q: np.ndarray | None = None) -> None:
        """End an epilogue with an operation that makes bits."""
        self.then(slot, operation, p, q)
        assert slot.call is not None
        slot.kind, slot.call.bits = BITS, True
        slot.call.fields["out_pixel"] = slot.pixel
        slot.buffer.units = slot.units

    def image_order(self, slot: Slot) -> Slot:
        """The value as a vector in the order of (C, H, W); not for bits."""
        channels, height, width = slot.shape
        vector = (channels * height * width, 1, 1)
        return self.move(slot, vector, [Axis(channels, 1, height * width), Axis(height * width, channels, 1)])

    def move(self, slot: Slot, shape: tuple[int, int, int], axes: list[Axis]) -> Slot:
        """A value of another shape, with the elements of `slot`: the same memory where its order is the same."""
        if merged(axes) in ([Axis(slot.size, 1, 1)], [Axis(1, 1, 1)]):
            # operations on channels can still be added to the call that made it
            return slot.seen_as(shape, slot.call if shape[0] == slot.shape[0] else None)
        return self.copy(slot, shape, axes)

    def copy(
        self,
        slot: Slot,
        shape: tuple[int, int, int],
        axes: list[Axis],
        *,
        start: int = 0,
        to: int = 0,
        into: Slot | None = None,
    ) -> Slot:
        """Copy a box of units or bytes, from unit `start` of a value on, to unit `to` of a new value of shape `shape`.

        NotPlanned for too many axes. `into` is a value to copy to instead of a new one.
        """
        made = self.emit("copy", (slot,), shape, slot.kind, slot.coding, from_=start, to=to, **box_fields(axes))
        if into is None:
            return made
        assert made.call is not None
        self.buffers.remove(made.buffer)
        made.call.out = into.buffer
        return into


def _image_fields(source: Slot) -> dict[str, int]:
    factor, zero = source.coding or (0, 0)
    size = {"in_height": source.shape[1], "in_width": source.shape[2], "in_pixel": source.pixel}
    return {**size, "in_factor": factor, "in_zero": zero}
