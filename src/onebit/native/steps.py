"""Steps of a plan before they have a place in memory, and how the values between them are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

BITS, INTEGER, REAL, BYTES = "bits", "integer", "real", "bytes"
"""How a value is written: 32 signs in a word, int32, float32, or four uint8 in a word."""


@dataclass(eq=False)
class Buffer:
    """A piece of the arena: units for each image, from the step that writes it to the last that reads it."""

    units: int
    first: int
    last: int
    place: int = -1


@dataclass(eq=False)
class Slot:
    """How a value lies in memory: NHWC, of a kind, in a buffer. `flat`: its shape is (C·H·W,), flattened later.

    The channels of bytes are words.
    """

    shape: tuple[int, int, int]
    kind: str
    buffer: Buffer
    step: Step | None = None
    flat: bool = False
    kinds: dict[str, Slot] = field(default_factory=dict)

    @property
    def pixel(self) -> int:
        """Units of a pixel."""
        return -(-self.shape[0] // 32) if self.kind == BITS else self.shape[0]


@dataclass(eq=False)
class Step:
    """A step before its buffers have a place.

    instead: makes the same of batches of `least` images and more; its lines and its output are those of this step.
    """

    name: str
    inputs: tuple[Buffer, ...]
    out: Buffer
    fields: dict[str, Any]
    lines: list[tuple[str, np.ndarray | None, np.ndarray | None]] = field(default_factory=list)
    scratch: int = 0
    bits: bool = False
    least: int = 0
    instead: Step | None = None


class Steps:
    """The steps of a plan, one after the other; `list` and `buffers` hold what was made."""

    def __init__(self) -> None:
        self.list: list[Step] = []
        self.buffers: list[Buffer] = []

    def buffer(self, units: int) -> Buffer:
        made = Buffer(units, len(self.list), len(self.list))
        self.buffers.append(made)
        return made

    def emit(self, name: str, sources: tuple[Slot, ...], shape: tuple[int, int, int], kind: str, **fields: Any) -> Slot:
        """Appends a step that makes a value; where it ends in lines, more of them can follow."""
        out = self.buffer(0)
        slot = Slot(shape, kind, out)
        out.units = shape[1] * shape[2] * slot.pixel + 2 * (name == "grid")
        for source in sources:
            source.buffer.last = len(self.list)
        first = sources[0] if sources else slot
        fields = {
            **_image_fields(first),
            "out_height": shape[1],
            "out_width": shape[2],
            "channels": shape[0],
            **fields,
        }
        slot.step = Step(name, tuple(source.buffer for source in sources), out, fields)
        self.list.append(slot.step)
        return slot

    def instead(self, step: Step, least: int, source: Slot, name: str, **fields: Any) -> None:
        """Another way to do the last step, for batches of `least` images and more."""
        source.buffer.last = len(self.list) - 1
        fields = {**step.fields, **_image_fields(source), **fields}
        step.instead = Step(name, (source.buffer,), step.out, fields, least=least)

    def as_kind(self, slot: Slot, kind: str) -> Slot:
        """The same value as integers or as real numbers; integers and real ones are binarized by the net only."""
        if slot.kind == kind:
            return slot
        if kind not in slot.kinds:
            if slot.kind == BITS:
                made = self.emit("expand", (slot,), slot.shape, INTEGER)
                made = made if kind == INTEGER else self.as_kind(made, kind)
            else:
                assert kind == REAL
                made = self.emit("lines", (slot,), slot.shape, REAL)
                self.then(made, "real")
            made.flat = slot.flat
            slot.kinds[kind] = made
        return slot.kinds[kind]

    def then(self, slot: Slot, line: str, p: np.ndarray | None = None, q: np.ndarray | None = None) -> None:
        assert slot.step is not None
        slot.step.lines.append((line, p, q))
        if line in ("real", "affine_int"):
            slot.kind = REAL

    def signed(self, slot: Slot, line: str, p: np.ndarray | None = None, q: np.ndarray | None = None) -> None:
        """The last of the lines of a step, which makes bits."""
        self.then(slot, line, p, q)
        assert slot.step is not None
        slot.kind, slot.step.bits = BITS, True
        slot.buffer.units = slot.shape[1] * slot.shape[2] * slot.pixel

    def image_order(self, slot: Slot) -> Slot:
        """The value in the order of its shape (C, H, W), as one line of channels; not of bits."""
        channels, height, width = slot.shape
        line = (channels * height * width, 1, 1)
        if channels == 1 or height * width == 1:
            return Slot(line, slot.kind, slot.buffer)
        order = (height * width, width, 1)
        return self.copy(slot, line, (0, 0, 0), slot.shape, (1, 1, 1), to_stride=order)

    def copy(
        self,
        slot: Slot,
        shape: tuple[int, int, int],
        start: tuple[int, ...],
        box: tuple[int, ...],
        step: tuple[int, ...],
        *,
        to: int = 0,
        to_stride: tuple[int, ...] | None = None,
        into: Slot | None = None,
    ) -> Slot:
        """Copies x[start::step], `box` of them in each of (C, H, W), to unit `to` of a value of a shape.

        Args:
            to_stride: how far apart they lie there; as pixels of that shape do when None.
            into: a value that is there, of which this is a part.
        """
        stride = (1, slot.shape[2] * slot.pixel, slot.pixel)
        fields = {
            "box": box,
            "from_stride": tuple(a * b for a, b in zip(step, stride, strict=True)),
            "to_stride": to_stride or (1, shape[2] * shape[0], shape[0]),
            "from_": sum(a * b for a, b in zip(start, stride, strict=True)),
            "to": to,
        }
        made = self.emit("copy", (slot,), shape, slot.kind, **fields)
        if into is not None:
            assert made.step is not None
            self.buffers.remove(made.buffer)
            made.step.out = into.buffer
            into.buffer.last = len(self.list) - 1
            return into
        return made


def _image_fields(source: Slot) -> dict[str, int]:
    return {"in_height": source.shape[1], "in_width": source.shape[2], "in_pixel": source.pixel}
