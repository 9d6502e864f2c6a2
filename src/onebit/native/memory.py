"""Where the values of a plan lie in its arena, and the structures of the library that say so."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onebit.native import library
from onebit.native.steps import Buffer, Slot, Step, Steps
from onebit.native.team import run_together
from onebit.packed import PackedNet, infer

# the names of OB_LINE_* and OB_STEP_* of csrc/onebit.h, in their order
_LINES = (
    *("real", "scale", "centre", "affine", "affine_int", "relu", "relu_int"),
    *("prelu", "hardtanh", "hardtanh_int", "threshold", "sign"),
)
_STEPS = (
    *("lines", "xnor", "bytes", "lut", "real", "grid", "expand", "add", "add_int", "fill", "copy"),
    *("max", "max_int", "max_bits", "sum", "sum_int", "average"),
)
_ALIGNED = 16  # units: a line of the cache
_BATCH_UNITS = 1 << 18  # of the largest value of a batch: it stays in the second-level cache
_MOST_BATCH = 128
_ALL = 1 << 62  # images
_LINE, _LINE_PIXELS = 256, 4  # LINE of csrc/lines.h, and the most pixels of a tile
_WORD = 32  # signs
_BLOCK = 16  # channels that lines work on at once, whether the last of them are there or not


@dataclass(frozen=True, eq=False)
class NativePlan:
    """What `run` of the library takes.

    kept: the memory that it points to. work: operations on a register of weights that an image takes, about.
    spare: arenas for the next calls.
    """

    plan: library.Plan
    isa: library.InstructionSet
    shape: tuple[int, ...]
    kept: tuple[Any, ...]
    work: int
    spare: list[np.ndarray] = field(default_factory=list)

    def run(self, images: np.ndarray, *, parts: int = 1) -> tuple[np.ndarray, bool]:
        """Logits (N, …) float32 of images (N, C, H, W) uint8, contiguous; and whether the sign of a NaN was taken.

        Args:
            parts: threads that share each step.
        """
        arena = self._arena(parts)
        output = np.empty((len(images), *self.shape), np.float32)

        def run(part: int, parts: int, meeting: int | None) -> int:
            where = images.ctypes.data, len(images), arena.ctypes.data, output.ctypes.data
            return self.isa.run(ctypes.byref(self.plan), *where, part, parts, meeting)

        nan = bool(run(0, 1, None)) if parts == 1 else run_together(run, parts)
        self.spare.append(arena)
        return output, nan

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of its steps, in their order."""
        return tuple(_STEPS[step.step - 1] for step in self.kept[0])

    def products(self, count: int) -> tuple[int, ...]:
        """Which of its steps multiply with weights, when so many images are done in one go."""
        steps = enumerate(self.kept[0])
        return tuple(index for index, step in steps if step.weights and step.least <= count <= step.most)

    def alone(self, images: np.ndarray, steps: range) -> Callable[[], np.ndarray]:
        """A call that runs some of the steps alone, to time them.

        The steps before them run once, here, and leave in memory what these read. No step may write over what one
        before it reads: that lies where it did only while a later step needs it.

        Args:
            images: as `run` takes them. More than the batch of the plan are done part by part, but all parts compute
                with the numbers of the first images.

        Returns:
            The call; it returns what the last step made, (images of a part, units) int32, a view that the next call
            writes over. Integers and the bits of float32 look alike there; pixels lie in NHWC order.
        """
        arena, count = self._arena(), min(len(images), self.plan.batch)
        memory, last = arena.ctypes.data, self.kept[0][steps[-1]]
        before, part = (library.Plan.from_buffer_copy(self.plan) for _ in range(2))
        before.step_count, part.step_count = steps.start, len(steps)
        part.steps += steps.start * ctypes.sizeof(library.Step)
        before.output_size = part.output_size = 0  # nothing is copied out,
        part.input = part.bytes = -1  # and no image coded: where both lie does not matter
        self.isa.run(ctypes.byref(before), images.ctypes.data, count, memory, memory, 0, 1, None)
        arguments = (ctypes.byref(part), memory, len(images), memory, memory, 0, 1, None)
        made = arena[last.out : last.out + count * last.out_size].view(np.int32).reshape(count, -1)

        def call() -> np.ndarray:
            self.isa.run(*arguments)
            return made

        return call

    def _arena(self, parts: int = 1) -> np.ndarray:
        """Memory for its values, from the beginning of a line of the cache on."""
        units = self.plan.arena_units + (parts - 1) * self.plan.scratch_units
        with suppress(IndexError):
            if len(spare := self.spare.pop()) >= units:
                return spare
        memory = np.empty(units + _ALIGNED, np.uint32)
        start = -memory.ctypes.data % 64 // 4
        return memory[start : start + units]


def lay_out(
    net: PackedNet, steps: Steps, image: Slot, as_bytes: Slot | None, answer: Slot, isa: library.InstructionSet
) -> NativePlan:
    """The plan of steps that make the answer of the coded image: gives every buffer its place.

    Args:
        image, as_bytes, answer: values of `steps`.
    """
    if image.buffer.last < 0:  # all that read it read its bytes
        image.buffer.units = 0
    largest = max(buffer.units for buffer in steps.buffers)
    batch = max(1, min(_MOST_BATCH, _BATCH_UNITS // largest))
    end = place(steps.buffers, batch)
    scratch = max((step.scratch for step in steps.list), default=0)
    scratch += -scratch % _ALIGNED
    kept: list[Any] = []
    ways = [way for step in steps.list for way in (step, step.instead) if way is not None]
    made = (library.Step * len(ways))()
    for step, filled in zip(ways, made, strict=True):
        _fill_step(step, filled, end, isa, kept)
    for step, filled, instead in zip(ways, made, made[1:], strict=False):
        if step.instead is not None:
            filled.most = instead.least - 1
            for name in ("lines", "line_count", "bits", "together"):
                setattr(instead, name, getattr(filled, name))
    plan = library.Plan()
    plan.steps, plan.step_count = ctypes.addressof(made), len(made)
    plan.channels, plan.height, plan.width = net.input.shape
    for name in ("mean", "std"):
        setattr(plan, name, _pointer(getattr(net.input, name), kept))
    plan.input = image.buffer.place if image.buffer.units else -1
    plan.bytes = -1
    if as_bytes is not None:
        plan.bytes, plan.bytes_size = as_bytes.buffer.place, as_bytes.buffer.units
        line = as_bytes.shape[1:] == (1, 1)  # of all pixels
        plan.byte_pixel = image.shape[0] if line else 4 * as_bytes.pixel
    plan.output = answer.buffer.place
    plan.output_size, plan.batch = answer.buffer.units, batch
    plan.arena_units, plan.scratch_units = end + scratch, scratch
    work = sum(_work(step, isa) for step in steps.list)
    return NativePlan(plan, isa, infer(net)[net.output].shape, (made, *kept), work)


def _work(step: Step, isa: library.InstructionSet) -> int:
    if "weights" not in step.fields:
        return 0
    pixels = step.fields["out_height"] * step.fields["out_width"]
    lookups = isa.lut_groups if step.name == "lut" else 1
    return int(pixels * step.fields["weights"].size // isa.lanes * lookups)


def place(buffers: list[Buffer], batch: int) -> int:
    """Gives each buffer a place in the arena that no other has at the same time; returns the end of them."""
    largest_first = sorted(buffers, key=lambda buffer: -buffer.units)
    earliest_first = sorted(buffers, key=lambda buffer: buffer.first)
    # neither order is always the tighter one
    tighter = min((largest_first, earliest_first), key=lambda order: _place_in_order(order, batch))
    return _place_in_order(tighter, batch)


def _place_in_order(buffers: list[Buffer], batch: int) -> int:
    placed: list[tuple[int, int, Buffer]] = []
    end = 0
    for buffer in buffers:
        size = -(-buffer.units * batch // _ALIGNED) * _ALIGNED
        place = 0
        for start, stop, other in sorted(placed, key=lambda entry: entry[0]):
            if other.first <= buffer.last and buffer.first <= other.last and start < place + size and place < stop:
                place = stop
        buffer.place = place
        placed.append((place, place + size, buffer))
        end = max(end, place + size)
    return end


def _fill_step(step: Step, made: library.Step, scratch: int, isa: library.InstructionSet, kept: list[Any]) -> None:
    made.step, made.scratch = _STEPS.index(step.name) + 1, scratch
    made.least, made.most = step.least, _ALL
    for name, buffer in zip(("in", "in2"), step.inputs, strict=False):
        setattr(made, "in_" if name == "in" else name, buffer.place)
        setattr(made, f"{name}_size", buffer.units)
    made.out, made.out_size = step.out.place, step.out.units
    repeats = _pixels_of_a_line(step, isa)
    if repeats and step.name in ("lines", "add", "add_int"):  # one long line
        step.fields.update(channels=step.out.units, out_height=1, out_width=1)
    pixels = step.fields["out_height"] * step.fields["out_width"]
    made.out_pixel = step.out.units // pixels
    for name, value in step.fields.items():
        if isinstance(value, np.ndarray):
            if name == "runs":
                made.run_count = len(value)
            setattr(made, name, _pointer(value, kept))
        elif isinstance(value, tuple):
            setattr(made, name, (ctypes.c_int32 * 3)(*value))
        elif value is not None:
            setattr(made, name, value)
    made.together = int(repeats > 0)
    lines = (library.Line * max(1, len(step.lines)))()
    for line, (code, p, q) in zip(lines, step.lines, strict=False):
        dtype = np.float64 if code in ("affine", "affine_int") else None
        line.code = _LINES.index(code) + 1
        line.p, line.q = (_parameters(array, max(1, repeats), dtype, kept) for array in (p, q))
    kept.append(lines)
    made.lines, made.line_count, made.bits = ctypes.addressof(lines), len(step.lines), step.bits


def _pixels_of_a_line(step: Step, isa: library.InstructionSet) -> int:
    """How many neighbouring pixels can be finished as one line, their parameters repeated; 0 where they can't."""
    fields = step.fields
    if step.name in ("lines", "add", "add_int"):
        alike = all(p is None and q is None for _, p, q in step.lines)
        channels = 1 if alike else fields["channels"]
        return 0 if step.bits or _LINE % channels else _LINE // channels
    outputs = fields.get("outputs", 0)
    plain = step.name in ("xnor", "bytes", "lut") and fields["groups"] == 1
    if not plain or fields["number"] or fields.get("centre") or outputs % (_WORD if step.bits else _BLOCK):
        return 0
    pixels = _LINE // outputs if outputs <= isa.tile_outputs else 0
    return pixels if pixels >= _LINE_PIXELS else 0


def _parameters(array: np.ndarray | None, repeats: int, dtype: Any, kept: list[Any]) -> int | None:
    """Where a parameter for each channel lies, with room for a whole last block."""
    if array is None:
        return None
    return _pointer(np.pad(np.tile(array, repeats), (0, _BLOCK - 1)).astype(dtype or array.dtype), kept)


def _pointer(array: np.ndarray | None, kept: list[Any]) -> int | None:
    """Where an array lies, which is kept in memory."""
    if array is None:
        return None
    array = np.ascontiguousarray(array)
    kept.append(array)
    return array.ctypes.data
