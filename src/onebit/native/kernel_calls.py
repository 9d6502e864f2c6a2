"""The kernel calls of a plan before they have a place in memory, and the values between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onebit.native.layout import Axis, box_fields, merged

BITS, INTEGER, REAL, BYTES = "bits", "integer", "real", "bytes"
"""Kinds of values: 32 signs per word, int32, float32, or four uint8 per word."""


@dataclass(eq=False)
class Buffer:
    """A piece of the arena: units per image, and the first and last call that use it."""

    units: int
    first: int
    last: int
    place: int = -1


@dataclass(eq=False)
class Slot:
    """A value in memory: its shape, in NHWC order, its kind and its buffer.

    The channels of a BYTES value are words. A `flat` value has the shape (C·H·W,) but is not yet reordered.
    """

    shape: tuple[int, int, int]
    kind: str
    buffer: Buffer
    call: KernelCall | None = None
    flat: bool = False
    kinds: dict[str, Slot] = field(default_factory=dict)

    @property
    def pixel(self) -> int:
        """Units per pixel."""
        return -(-self.shape[0] // 32) if self.kind == BITS else self.shape[0]


@dataclass(eq=False)
class KernelCall:
    """A kernel call before its buffers have a place.

    fields: other fields of `ob_call`. epilogue: (operation, p, q), in order. bits: the epilogue ends in signs.
    alternative: a call with the same epilogue and output, for batches of `min_batch` images or more.
    """

    kernel: str
    inputs: tuple[Buffer, ...]
    out: Buffer
    fields: dict[str, Any]
    epilogue: list[tuple[str, np.ndarray | None, np.ndarray | None]] = field(default_factory=list)
    scratch: int = 0
    bits: bool = False
    min_batch: int = 0
    alternative: KernelCall | None = None


class KernelCalls:
    """Collects the kernel calls of a plan in `list` and their buffers in `buffers`."""

    def __init__(self) -> None:
        self.list: list[KernelCall] = []
        self.buffers: list[Buffer] = []

    def buffer(self, units: int) -> Buffer:
        self.buffers.append(Buffer(units, len(self.list), len(self.list)))
        return self.buffers[-1]

    def emit(
        self, kernel: str, sources: tuple[Slot, ...], shape: tuple[int, int, int], kind: str, **fields: Any
    ) -> Slot:
        """Append a call and return the value that it makes."""
        out = self.buffer(0)
        slot = Slot(shape, kind, out)
        out.units = shape[1] * shape[2] * slot.pixel + 2 * (kernel == "grid")
        for source in sources:
            source.buffer.last = len(self.list)
        size = {"out_height": shape[1], "out_width": shape[2], "channels": shape[0]}
        fields = {**_image_fields(sources[0] if sources else slot), **size, **fields}
        slot.call = KernelCall(kernel, tuple(source.buffer for source in sources), out, fields)
        self.list.append(slot.call)
        return slot

    def add_alternative(self, call: KernelCall, min_batch: int, source: Slot, kernel: str, **fields: Any) -> None:
        """Give the last call an alternative for batches of `min_batch` images or more."""
        source.buffer.last = len(self.list) - 1
        fields = {**call.fields, **_image_fields(source), **fields}
        call.alternative = KernelCall(kernel, (source.buffer,), call.out, fields, min_batch=min_batch)

    def as_kind(self, slot: Slot, kind: str) -> Slot:
        """The same value as another kind: integers or real numbers, or bits of integers that are ±1."""
        if slot.kind == kind:
            return slot
        if kind not in slot.kinds:
            if slot.kind == BITS:
                made = self.as_kind(self.emit("expand", (slot,), slot.shape, INTEGER), kind)
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
        slot.call.epilogue.append((operation, p, q))
        if operation in ("real", "affine_int"):
            slot.kind = REAL

    def then_sign(self, slot: Slot, operation: str, p: np.ndarray | None = None, q: np.ndarray | None = None) -> None:
        """End an epilogue with an operation that makes bits."""
        self.then(slot, operation, p, q)
        assert slot.call is not None
        slot.kind, slot.call.bits = BITS, True
        slot.buffer.units = slot.shape[1] * slot.shape[2] * slot.pixel

    def image_order(self, slot: Slot) -> Slot:
        """The value as a vector in the order of (C, H, W); not for bits."""
        channels, height, width = slot.shape
        vector = (channels * height * width, 1, 1)
        return self.move(slot, vector, [Axis(channels, 1, height * width), Axis(height * width, channels, 1)])

    def move(self, slot: Slot, shape: tuple[int, int, int], axes: list[Axis]) -> Slot:
        """A value of another shape, with the elements of `slot`: the same memory where its order is the same."""
        if merged(axes) in ([Axis(slot.buffer.units, 1, 1)], [Axis(1, 1, 1)]):
            # operations on channels can still be added to the call that made it
            return Slot(shape, slot.kind, slot.buffer, slot.call if shape[0] == slot.shape[0] else None)
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
        """Copy a box of units, from unit `start` of a value on, to unit `to` of a new value of shape `shape`.

        NotPlanned for too many axes. `into` is a value to copy to instead of a new one.
        """
        made = self.emit("copy", (slot,), shape, slot.kind, from_=start, to=to, **box_fields(axes))
        if into is None:
            return made
        assert made.call is not None
        self.buffers.remove(made.buffer)
        made.call.out = into.buffer
        into.buffer.last = len(self.list) - 1
        return into


def _image_fields(source: Slot) -> dict[str, int]:
    return {"in_height": source.shape[1], "in_width": source.shape[2], "in_pixel": source.pixel}
