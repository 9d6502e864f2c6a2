"""The arena of a plan: where each value is in memory, and the library's structures that say so."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onebit.native import library
from onebit.native.kernel_calls import Buffer, KernelCall, KernelCalls, Slot
from onebit.native.thread_pool import run_together
from onebit.packed import PackedNet, infer

# the names of OB_EPILOGUE_* and OB_KERNEL_* of csrc/onebit.h, in the same order
_EPILOGUE = (
    *("real", "scale", "center", "affine", "affine_int", "relu", "relu_int"),
    *("prelu", "hardtanh", "hardtanh_int", "threshold", "sign"),
)
_KERNELS = (
    *("pointwise", "xnor", "bytes", "lut", "real", "grid", "expand", "add", "add_int", "fill", "copy"),
    *("max", "max_int", "max_bits", "sum", "sum_int", "average"),
)
_POINTWISE = ("pointwise", "add", "add_int")
_ALIGNED = 16  # units: a cache line
_BATCH_UNITS = 1 << 18  # of the largest value of a batch: it stays in the second-level cache
_MOST_BATCH = 128
_ANY_BATCH = 1 << 62
_BLOCK, _TILE_PIXELS = 256, 4  # BLOCK of csrc/epilogue.h, and the most pixels of a tile
_WORD = 32  # signs
_VECTOR = 16  # channels that an epilogue computes at once, past the last one too


@dataclass(frozen=True, eq=False)
class NativePlan:
    """A plan that the library runs.

    shape: of the logits of an image. kept: the memory that the plan points to. work: approximate number of operations
    on a register of weights per image. spare: arenas for the next calls.
    """

    plan: library.PlanStruct
    isa: library.InstructionSet
    shape: tuple[int, ...]
    kept: tuple[Any, ...]
    work: int
    spare: list[np.ndarray] = field(default_factory=list)

    def run(self, images: np.ndarray, *, parts: int = 1) -> tuple[np.ndarray, bool]:
        """Logits (N, …) float32 of contiguous uint8 images (N, C, H, W), and whether the net took the sign of a NaN.

        `parts` threads share each kernel call.
        """
        arena = self.arena(parts)
        output = np.empty((len(images), *self.shape), np.float32)

        def run(part: int, parts: int, barrier: int | None) -> int:
            memory = images.ctypes.data, len(images), arena.ctypes.data, output.ctypes.data
            return self.isa.run(ctypes.byref(self.plan), *memory, part, parts, barrier)

        nan = bool(run(0, 1, None)) if parts == 1 else run_together(run, parts)
        self.spare.append(arena)
        return output, nan

    @property
    def kernels(self) -> tuple[str, ...]:
        """The kernel of each call."""
        return tuple(_KERNELS[call.kernel - 1] for call in self.kept[0])

    def arena(self, parts: int = 1) -> np.ndarray:
        """Memory for the values, aligned to cache lines."""
        units = self.plan.arena_units + (parts - 1) * self.plan.scratch_units
        with suppress(IndexError):
            if len(spare := self.spare.pop()) >= units:
                return spare
        memory = np.empty(units + _ALIGNED, np.uint32)
        start = -memory.ctypes.data % 64 // 4
        return memory[start : start + units]


def lay_out(
    net: PackedNet, calls: KernelCalls, image: Slot, as_bytes: Slot | None, answer: Slot, isa: library.InstructionSet
) -> NativePlan:
    """Give every buffer a place and return the plan; `answer` is the output of the net."""
    if image.buffer.last < 0:  # only the image as bytes is read
        image.buffer.units = 0
    largest = max(buffer.units for buffer in calls.buffers)
    batch = max(1, min(_MOST_BATCH, _BATCH_UNITS // largest))
    end = place(calls.buffers, batch)
    scratch = max((call.scratch for call in calls.list), default=0)
    scratch += -scratch % _ALIGNED
    kept: list[Any] = []
    both = [one for call in calls.list for one in (call, call.alternative) if one is not None]
    structs = (library.CallStruct * len(both))()
    for call, struct in zip(both, structs, strict=True):
        _fill_struct(call, struct, end, isa, kept)
    for call, struct, following in zip(both, structs, structs[1:], strict=False):
        if call.alternative is not None:
            struct.max_batch = following.min_batch - 1
            for name in ("epilogue", "epilogue_count", "bits", "together"):
                setattr(following, name, getattr(struct, name))
    plan = library.PlanStruct()
    plan.calls, plan.call_count = ctypes.addressof(structs), len(structs)
    plan.channels, plan.height, plan.width = net.input.shape
    plan.mean, plan.std = _pointer(net.input.mean, kept), _pointer(net.input.std, kept)
    plan.input = image.buffer.place if image.buffer.units else -1
    plan.bytes = -1
    if as_bytes is not None:
        plan.bytes, plan.bytes_size = as_bytes.buffer.place, as_bytes.buffer.units
        flat = as_bytes.shape[1:] == (1, 1)
        plan.byte_pixel = image.shape[0] if flat else 4 * as_bytes.pixel
    plan.output = answer.buffer.place
    plan.output_size, plan.batch = answer.buffer.units, batch
    plan.arena_units, plan.scratch_units = end + scratch, scratch
    work = sum(_work(call, isa) for call in calls.list)
    return NativePlan(plan, isa, infer(net)[net.only_output].shape, (structs, *kept), work)


def _work(call: KernelCall, isa: library.InstructionSet) -> int:
    if "weights" not in call.fields:
        return 0
    pixels = call.fields["out_height"] * call.fields["out_width"]
    lookups = isa.lut_groups if call.kernel == "lut" else 1
    return int(pixels * call.fields["weights"].size // isa.lanes * lookups)


def place(buffers: list[Buffer], batch: int) -> int:
    """Place buffers in the arena so that those in use at the same time do not overlap; returns where the last ends."""
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


def _fill_struct(
    call: KernelCall, struct: library.CallStruct, scratch: int, isa: library.InstructionSet, kept: list[Any]
) -> None:
    struct.kernel, struct.scratch = _KERNELS.index(call.kernel) + 1, scratch
    struct.min_batch, struct.max_batch = call.min_batch, _ANY_BATCH
    for field_name, size_name, buffer in zip(("in_", "in2"), ("in_size", "in2_size"), call.inputs, strict=False):
        setattr(struct, field_name, buffer.place)
        setattr(struct, size_name, buffer.units)
    struct.out, struct.out_size = call.out.place, call.out.units
    repeats = _pixels_per_block(call, isa)
    if repeats and call.kernel in _POINTWISE:  # one long row of channels
        call.fields.update(channels=call.out.units, out_height=1, out_width=1)
    pixels = call.fields["out_height"] * call.fields["out_width"]
    struct.out_pixel = call.out.units // pixels
    for name, value in call.fields.items():
        if isinstance(value, np.ndarray):
            if name == "runs":
                struct.run_count = len(value)
            setattr(struct, name, _pointer(value, kept))
        elif isinstance(value, tuple):
            setattr(struct, name, (ctypes.c_int32 * 3)(*value))
        elif value is not None:
            setattr(struct, name, value)
    struct.together = int(repeats > 0)
    epilogue = (library.EpilogueStruct * max(1, len(call.epilogue)))()
    for operation, (code, p, q) in zip(epilogue, call.epilogue, strict=False):
        dtype = np.float64 if code in ("affine", "affine_int") else None
        operation.code = _EPILOGUE.index(code) + 1
        operation.p, operation.q = (_parameters(array, max(1, repeats), dtype, kept) for array in (p, q))
    kept.append(epilogue)
    struct.epilogue, struct.epilogue_count, struct.bits = ctypes.addressof(epilogue), len(call.epilogue), call.bits


def _pixels_per_block(call: KernelCall, isa: library.InstructionSet) -> int:
    """How many neighboring pixels can be finished as one block, with repeated parameters; 0 for none."""
    fields = call.fields
    if call.kernel in _POINTWISE:
        alike = all(p is None and q is None for _, p, q in call.epilogue)
        channels = 1 if alike else fields["channels"]
        return 0 if call.bits or _BLOCK % channels else _BLOCK // channels
    outputs = fields.get("outputs", 0)
    simple = call.kernel in ("xnor", "bytes", "lut") and fields["groups"] == 1
    if not simple or fields["constant"] or fields.get("center") or outputs % (_WORD if call.bits else _VECTOR):
        return 0
    pixels = _BLOCK // outputs if outputs <= isa.tile_outputs else 0
    return pixels if pixels >= _TILE_PIXELS else 0


def _parameters(array: np.ndarray | None, repeats: int, dtype: Any, kept: list[Any]) -> int | None:
    """Address of an array with one parameter per channel, padded to whole vectors."""
    if array is None:
        return None
    return _pointer(np.pad(np.tile(array, repeats), (0, _VECTOR - 1)).astype(dtype or array.dtype), kept)


def _pointer(array: np.ndarray | None, kept: list[Any]) -> int | None:
    """Address of an array, which is kept in memory."""
    if array is None:
        return None
    kept.append(np.ascontiguousarray(array))
    return int(kept[-1].ctypes.data)
