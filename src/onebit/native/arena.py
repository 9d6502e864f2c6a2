"""The arena of a plan: the offset of each value in memory, and the structures that the library reads."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from onebit.native import abi, library
from onebit.native.kernel_calls import BYTES, WORD, Buffer, KernelCall, Slot
from onebit.native.panels import LOOKUPS
from onebit.native.thread_pool import run_parts
from onebit.native.values import Values

_KERNELS = {number: name for name, number in abi.KERNEL.items()}
_CODINGS = {"integer": "bytes", "values": "bytes", "standardise": "moments", "float32": "reals"}
_ALIGNED = 16  # units: a cache line
_BATCH_UNITS = 1 << 18  # of the largest value of a batch: it stays in the second-level cache
_MAX_BATCH = 128
_SLACK = 16  # units after the values of a buffer, which kernels of bytes may read
_TILE_PIXELS = 4  # the most pixels of a tile


class _Thread(threading.local):
    """The memory in which a thread runs plans, and its address; it has the size of the largest plan so far."""

    memory: tuple[np.ndarray, int] | None = None


THREAD = _Thread()


def aligned(units: int) -> tuple[np.ndarray, int]:
    """Memory that starts at a cache line, and its address."""
    memory = np.empty(units + _ALIGNED, np.uint32)
    address: int = memory.ctypes.data
    start = -address % 64 // 4
    return memory[start : start + units], address + 4 * start


@dataclass(frozen=True, eq=False)
class NativePlan:
    """A plan that the library runs.

    shapes: of each of the net's `outputs`, for one sample. kept: the memory that the plan points to. work: approximate
    number of operations on a register of weights per sample.
    """

    plan: abi.PlanStruct
    isa: library.InstructionSet
    shapes: tuple[tuple[int, ...], ...]
    kept: tuple[Any, ...] = field(repr=False)
    work: int

    def run(self, *inputs: np.ndarray, parts: int = 1) -> tuple[np.ndarray, bool]:
        """The outputs for a contiguous batch (N, …) of each input of the net, in its dtype and shape.

        Returns:
            float32 (N, …) of a single output, or all outputs in sequence, for `separate`; and the result of `run_at`.
        """
        single, count = len(self.shapes) == 1, len(inputs[0])
        sizes = (count, *self.shapes[0]) if single else count * sum(map(prod, self.shapes))
        answers = np.empty(sizes, np.float32)
        batch = inputs[0] if len(inputs) == 1 else _in_sequence(inputs)
        where = batch.ctypes.data, count, answers.ctypes.data
        return answers, self.run_at(*where, parts=parts, keep=(batch, answers))

    def run_at(self, batch: int, count: int, answers: int, *, parts: int = 1, keep: object) -> bool:
        """Write the outputs for `count` samples; returns whether the net took the sign of a NaN.

        Args:
            batch, answers: addresses of contiguous arrays; several inputs are in sequence, see csrc/onebit.h.
            parts: threads that share each kernel call.
            keep: owns the memory at the addresses. Threads may outlive an interrupted call.
        """
        units = self.plan.arena_units + (parts - 1) * self.plan.scratch_units
        memory, THREAD.memory = THREAD.memory, None  # taken: threads may outlive this call
        if memory is None or len(memory[0]) < units:
            memory = aligned(units)
        if parts == 1:
            nan = self.isa.run(self.plan, batch, count, memory[1], answers, 0, 1, None) != 0
        else:
            where = self.plan, batch, count, memory[1], answers

            def run(part: int, parts: int, barrier: int | None, kept: object = (keep, memory)) -> int:
                return self.isa.run(*where, part, parts, barrier)

            nan = run_parts(run, parts)
        THREAD.memory = memory
        return nan

    def separate(self, answers: np.ndarray, count: int) -> list[np.ndarray]:
        """The outputs (N, …) in the result of `run` for N = `count` samples; they share its memory."""
        if len(self.shapes) == 1:
            return [answers]
        ends = list(accumulate(count * prod(shape) for shape in self.shapes))
        parts = np.split(answers, ends[:-1])
        return [part.reshape(count, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernel of each call."""
        return tuple(_KERNELS[call.kernel] for call in self.kept[0])


def _in_sequence(inputs: Sequence[np.ndarray]) -> np.ndarray:
    """The bytes of several inputs, each padded to units."""
    return np.concatenate([np.pad(part.reshape(-1).view(np.uint8), (0, -part.nbytes % 4)) for part in inputs])


def lay_out(made: Values, answers: list[Slot], isa: library.InstructionSet) -> NativePlan:
    """The plan, with an offset for each buffer; `answers` are the outputs of the net."""
    net, calls = made.net, made.calls
    of_answers = [answer.buffer for answer in answers]
    for row in (call.inputs[0] for call in calls if isa.byte_tiles and _is_dense(call)):
        # rows of bytes are aligned, but not all in one set of a cache; short ones may be finished as one block
        if row.units > abi.BLOCK // 4 and row not in of_answers:
            row.units = (-(-row.units // _ALIGNED) | 1) * _ALIGNED
    for at, call in enumerate(calls):
        more = (slot.buffer for operation in call.epilogue for slot in operation.more)
        for buffer in (call.out, *call.inputs, *more):
            buffer.first, buffer.last = at if buffer.first < 0 else buffer.first, at
    for image in made.images.values():
        image.buffer.first = -1  # the input is there before the first call
    for buffer in of_answers:
        buffer.last = len(calls)
    batch = most_batch(max(buffer.units for buffer in made.buffers))
    end = assign_offsets(made.buffers, batch)
    scratch = max((call.scratch for call in calls), default=0)
    scratch += -scratch % _ALIGNED
    kept: list[Any] = []
    structs = (abi.CallStruct * len(calls))()
    for call, struct in zip(calls, structs, strict=True):
        _fill_struct(call, struct, end, isa, kept)
    inputs = (abi.InputStruct * len(made.images))()
    for spec, image, struct in zip(net.inputs.values(), made.images.values(), inputs, strict=True):
        struct.place, struct.size = image.buffer.offset, image.buffer.units
        struct.channels, struct.height, struct.width = image.shape
        struct.coding = abi.CODING[_CODINGS[spec.coding if spec.dtype == "uint8" else spec.dtype]]
        struct.mean, struct.std = _pointer(spec.mean, kept), _pointer(spec.std, kept)
    outputs = np.array([(buffer.offset, buffer.units) for buffer in of_answers], np.int64)
    plan = abi.PlanStruct(
        calls=ctypes.addressof(structs),
        call_count=len(calls),
        input_count=len(inputs),
        output_count=len(answers),
        inputs=ctypes.addressof(inputs),
        outputs=_pointer(outputs, kept),
        arena_units=end + scratch,
        batch=batch,
        scratch_units=scratch,
    )
    work = sum(_work(call, isa) for call in calls)
    return NativePlan(plan, isa, tuple(made.known[name].shape for name in net.outputs), (structs, inputs, *kept), work)


def _is_dense(call: KernelCall) -> bool:
    """Whether a call multiplies a row of bytes, as it is in memory."""
    sizes = ("out_height", "out_width", "taps_down", "taps_across")
    copied = call.fields.get("table_rows", 0) > 0
    return call.kernel == "dot" and not copied and all(call.fields[name] == 1 for name in sizes)


def most_batch(units: int) -> int:
    """Images of a batch, for the units per image of the largest value."""
    return max(1, min(_MAX_BATCH, _BATCH_UNITS // units))


def _work(call: KernelCall, isa: library.InstructionSet) -> int:
    if "weights" not in call.fields:
        return 0
    weights: int = call.fields["out_height"] * call.fields["out_width"] * call.fields["weights"].size
    if call.kernel == "dot":  # one per four
        return weights * 2 // isa.lanes
    if call.kernel == "dot_lut":
        return weights * LOOKUPS // isa.dot_lut
    return weights // isa.lanes * (isa.lut_groups if call.kernel == "lut" else 1)


def assign_offsets(buffers: list[Buffer], batch: int) -> int:
    """Place buffers in the arena so that those in use at the same time do not overlap; returns the end of the last."""
    earliest_first = sorted(buffers, key=lambda buffer: buffer.first)
    beside: dict[Buffer, list[Buffer]] = {buffer: [] for buffer in buffers}  # in use at the same time
    used: list[Buffer] = []
    for buffer in earliest_first:
        used = [other for other in used if other.last >= buffer.first]
        for other in used:
            beside[buffer].append(other)
            beside[other].append(buffer)
        used.append(buffer)
    sizes = {buffer: -(-buffer.units * batch // _ALIGNED) * _ALIGNED + _SLACK for buffer in buffers}
    # either order can be the tighter one
    orders = sorted(buffers, key=lambda buffer: -buffer.units), earliest_first
    end, offsets = min((_offsets(order, sizes, beside) for order in orders), key=lambda made: made[0])
    for buffer, start in offsets.items():
        buffer.offset = start
    return end


def _offsets(
    buffers: list[Buffer], sizes: dict[Buffer, int], beside: dict[Buffer, list[Buffer]]
) -> tuple[int, dict[Buffer, int]]:
    """The end of the last buffer, and the first free offset of each, in this order."""
    offsets: dict[Buffer, int] = {}
    end = 0
    for buffer in buffers:
        start = 0
        for taken, other in sorted((offsets[other], sizes[other]) for other in beside[buffer] if other in offsets):
            if taken < start + sizes[buffer] and start < taken + other:
                start = taken + other
        offsets[buffer] = start
        end = max(end, start + sizes[buffer])
    return end, offsets


def _fill_struct(
    call: KernelCall, struct: abi.CallStruct, scratch: int, isa: library.InstructionSet, kept: list[Any]
) -> None:
    struct.kernel, struct.scratch = abi.KERNEL[call.kernel], scratch
    for field_name, size_name, buffer in zip(("in_", "in2"), ("in_size", "in2_size"), call.inputs, strict=False):
        setattr(struct, field_name, buffer.offset)
        setattr(struct, size_name, buffer.units)
    struct.out, struct.out_size = call.out.offset, call.out.units
    repeats = _pixels_per_block(call, isa)
    if repeats and call.kernel in abi.POINTWISE:  # one long row of channels
        size = call.fields["channels"] * call.fields["out_height"] * call.fields["out_width"]
        call.fields.update(channels=size, out_height=1, out_width=1)
    for name, value in call.fields.items():
        if name == "runs":
            struct.run_count = len(value)
        setattr(struct, name, _pointer(value, kept) if isinstance(value, np.ndarray) else value)
    struct.together = repeats
    times = max(1, repeats)
    epilogue = (abi.EpilogueOpStruct * max(1, len(call.epilogue)))()
    for into, operation in zip(epilogue, call.epilogue, strict=False):
        dtype = np.float64 if operation.code in ("affine", "affine_int") else None
        into.code = abi.EPILOGUE[operation.code]
        into.p, into.q = (_parameters(array, times, dtype, kept) for array in (operation.p, operation.q))
        into.least, into.most = operation.least, operation.most
        if operation.p is not None:
            into.stride = operation.p.shape[-1] * times + abi.VECTOR - 1
        if operation.more:
            more = [(s.buffer.offset, s.buffer.units, s.pixel, s.kind == BYTES) for s in operation.more]
            into.more, into.more_count = _pointer(np.array(more, np.int64), kept), len(more)
    kept.append(epilogue)
    struct.epilogue, struct.epilogue_count = ctypes.addressof(epilogue), len(call.epilogue)
    if struct.bits and repeats:
        struct.bits = min(WORD, abi.BLOCK // repeats)


def _pixels_per_block(call: KernelCall, isa: library.InstructionSet) -> int:
    """How many neighboring pixels can be finished as one block, with repeated parameters; 0 if they cannot."""
    fields = call.fields
    if call.kernel in abi.POINTWISE:
        alike = "bits" not in fields and all(
            op.code == "clamp" or (op.p is None and op.q is None) for op in call.epilogue
        )
        channels = 1 if alike else fields["channels"]
        return 0 if abi.BLOCK % channels else abi.BLOCK // channels
    outputs = fields.get("outputs", 0)
    simple = call.kernel in ("xnor", "dot", "dot_lut", "lut") and fields["groups"] == 1
    padded = fields.get("constant") and call.kernel not in ("dot", "dot_lut")
    if not simple or padded or fields.get("center") or outputs % abi.VECTOR:
        return 0
    if "bits" in fields and outputs > WORD and outputs % WORD:  # the words of a pixel are not all full
        return 0
    pixels = abi.BLOCK // outputs if outputs <= isa.tile_outputs else 0
    return pixels if pixels >= _TILE_PIXELS else 0


def _parameters(array: np.ndarray | None, repeats: int, dtype: Any, kept: list[Any]) -> int | None:
    """Address of an array, or of rows, of one parameter per channel, each padded to whole vectors."""
    if array is None:
        return None
    padding = [(0, 0)] * (array.ndim - 1) + [(0, abi.VECTOR - 1)]
    return _pointer(np.pad(np.tile(array, repeats), padding).astype(dtype or array.dtype), kept)


def _pointer(array: np.ndarray | None, kept: list[Any]) -> int | None:
    """Address of an array, which `kept` owns from now on."""
    if array is None:
        return None
    kept.append(np.ascontiguousarray(array))
    return int(kept[-1].ctypes.data)
