"""A packed net as a plan: the steps that the library runs, and where every value lies in the arena."""

from __future__ import annotations

import ctypes
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from onebit.bits import unpack_signs
from onebit.grid import GRID_BITS, on_grid
from onebit.native import library
from onebit.native.panels import lut_panels, real_panels, xnor_panels
from onebit.native.taps import POINT, Axis, axes_of, whole
from onebit.packed import (
    AdaptiveAveragePool,
    Add,
    Affine,
    AveragePool,
    Concat,
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    Hardtanh,
    MaxPool,
    Node,
    OneBitWeights,
    PackedNet,
    Pad,
    Prelu,
    RealConv,
    RealConvTranspose,
    RealDense,
    Relu,
    Sign,
    Slice,
    Threshold,
    Value,
    infer,
)
from onebit.packed.net import INPUT

BITS, INTEGER, REAL = "bits", "integer", "real"
# the names of OB_LINE_* and OB_STEP_* of csrc/onebit.h, in their order
_LINES = (
    *("real", "scale", "centre", "affine", "affine_int", "relu", "relu_int"),
    *("prelu", "hardtanh", "hardtanh_int", "threshold", "sign"),
)
_STEPS = (
    *("lines", "xnor", "lut", "real", "grid", "expand", "add", "add_int", "fill", "copy"),
    *("max", "max_int", "max_bits", "sum", "sum_int", "average"),
)
_FLOAT32_EXACT = 2**24
_INT32_MOST = 2**31 - 1
_ALIGNED = 16  # units: a line of the cache
_BATCH_UNITS = 1 << 18  # of the largest value of a batch: it stays in the second-level cache
_MOST_BATCH = 128
_SEGMENT_UNITS = 6
_LINE, _LINE_PIXELS = 128, 4  # LINE of csrc/lines.h, and the most pixels of a tile
_BLOCK = 16  # channels that lines work on at once, whether the last of them are there or not


class NotPlanned(Exception):
    """A net that the library does not run; the reference executor does."""


@dataclass(eq=False)
class Buffer:
    """A piece of the arena: units for each image, from the step that writes it to the last that reads it."""

    units: int
    first: int
    last: int
    place: int = -1


@dataclass(eq=False)
class Slot:
    """How a value lies in memory: NHWC, of a kind, in a buffer. `flat`: its shape is (C·H·W,), flattened later."""

    shape: tuple[int, int, int]
    kind: str
    buffer: Buffer
    step: _Step | None = None
    flat: bool = False
    kinds: dict[str, Slot] = field(default_factory=dict)

    @property
    def pixel(self) -> int:
        """Units of a pixel."""
        return -(-self.shape[0] // 32) if self.kind == BITS else self.shape[0]


@dataclass(eq=False)
class _Step:
    """A step before its buffers have a place."""

    name: str
    inputs: tuple[Buffer, ...]
    out: Buffer
    fields: dict[str, Any]
    lines: list[tuple[str, np.ndarray | None, np.ndarray | None]] = field(default_factory=list)
    scratch: int = 0
    bits: bool = False


@dataclass(frozen=True, eq=False)
class NativePlan:
    """What `run` of the library takes; `kept` holds the memory that it points to."""

    plan: library.Plan
    isa: library.InstructionSet
    shape: tuple[int, ...]
    kept: tuple[Any, ...]

    def run(self, images: np.ndarray) -> tuple[np.ndarray, bool]:
        """Logits (N, …) float32 of images (N, C, H, W) uint8, contiguous; and whether the sign of a NaN was taken."""
        arena = np.empty(self.plan.arena_units + _ALIGNED, np.uint32)
        start = arena.ctypes.data + -arena.ctypes.data % 64
        output = np.empty((len(images), *self.shape), np.float32)
        nan = self.isa.run(ctypes.byref(self.plan), images.ctypes.data, len(images), start, output.ctypes.data)
        return output, bool(nan)


def make_plan(net: PackedNet, isa: library.InstructionSet) -> NativePlan:
    """The plan of a net for an instruction set.

    Raises:
        NotPlanned: the library cannot compute some node as the reference does.
    """
    return _Planner(net, isa).plan()


class _Planner:
    def __init__(self, net: PackedNet, isa: library.InstructionSet) -> None:
        self.net, self.isa = net, isa
        self.known = infer(net)
        self.uses = Counter([net.output, *(name for node in net.nodes for name in node.inputs)])
        self.steps: list[_Step] = []
        self.buffers: list[Buffer] = []
        channels, height, width = net.input.shape
        kind = INTEGER if net.input.value.exact else REAL
        self.slots = {INPUT: Slot((channels, height, width), kind, self.buffer(channels * height * width))}
        self.slots[INPUT].buffer.first = -1

    def plan(self) -> NativePlan:
        for node in self.net.nodes:
            self.slots[node.output] = _MAKERS[type(node)](self, node)
        answer = self.image_order(self.as_kind(self.slots[self.net.output], REAL))
        answer.buffer.last = len(self.steps)
        return self.finished(answer)

    # values and steps

    def buffer(self, units: int) -> Buffer:
        made = Buffer(units, len(self.steps), len(self.steps))
        self.buffers.append(made)
        return made

    def emit(self, name: str, sources: tuple[Slot, ...], shape: tuple[int, int, int], kind: str, **fields: Any) -> Slot:
        """Appends a step that makes a value; where it ends in lines, more of them can follow."""
        out = self.buffer(0)
        slot = Slot(shape, kind, out)
        out.units = shape[1] * shape[2] * slot.pixel + 2 * (name == "grid")
        for source in sources:
            source.buffer.last = len(self.steps)
        first = sources[0] if sources else slot
        fields = {
            "in_height": first.shape[1],
            "in_width": first.shape[2],
            "in_pixel": first.pixel,
            "out_height": shape[1],
            "out_width": shape[2],
            "channels": shape[0],
            **fields,
        }
        slot.step = _Step(name, tuple(source.buffer for source in sources), out, fields)
        self.steps.append(slot.step)
        return slot

    def as_kind(self, slot: Slot, kind: str) -> Slot:
        """The same value, written in another kind."""
        if slot.kind == kind:
            return slot
        if kind not in slot.kinds:
            if slot.kind == BITS:
                made = self.emit("expand", (slot,), slot.shape, INTEGER)
                made = made if kind == INTEGER else self.as_kind(made, kind)
            elif kind == REAL:
                made = self.emit("lines", (slot,), slot.shape, REAL)
                self.then(made, "real")
            else:
                assert kind == BITS, "real values are binarized by the net only"
                made = self.emit("lines", (self.as_kind(slot, REAL),), slot.shape, REAL)
                self.signed(made, "sign")
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
        return self.copy(slot, line, (0, 0, 0), (channels, height, width), (1, 1, 1), (height * width, width, 1))

    def copy(
        self,
        slot: Slot,
        shape: tuple[int, int, int],
        start: tuple[int, ...],
        box: tuple[int, ...],
        step: tuple[int, ...],
        to_stride: tuple[int, ...],
        *,
        to: int = 0,
        into: Slot | None = None,
    ) -> Slot:
        """Copies x[start::step], `box` of them in each of (C, H, W), to `to`, `to_stride` apart."""
        stride = (1, slot.shape[2] * slot.pixel, slot.pixel)
        fields = {
            "box": box,
            "from_stride": tuple(a * b for a, b in zip(step, stride, strict=True)),
            "to_stride": to_stride,
            "from_": sum(a * b for a, b in zip(start, stride, strict=True)),
            "to": to,
        }
        made = self.emit("copy", (slot,), shape, slot.kind, **fields)
        if into is not None:  # another part of a value that is there
            assert made.step is not None
            self.buffers.remove(made.buffer)
            made.step.out = into.buffer
            into.buffer.last = len(self.steps) - 1
            return into
        return made

    def value(self, name: str, *, flat: bool = False) -> Slot:
        """The value of a name; a flattened one in the order of its numbers, unless `flat` ones are wanted too."""
        slot = self.slots[name]
        if slot.flat and not flat:
            if "ordered" not in slot.kinds:
                slot.kinds["ordered"] = self.image_order(slot if slot.kind != BITS else self.as_kind(slot, INTEGER))
            return slot.kinds["ordered"]
        return slot

    def open_lines(self, name: str) -> Slot:
        """A value whose step can go on with lines, as nothing else reads it; or the start of a step of lines."""
        slot = self.value(name)
        step = slot.step
        if (
            step is not None
            and step.name in ("lines", "add", "add_int", "xnor", "lut", "real")
            and not step.bits
            and self.uses[name] == 1
            and step is self.steps[-1]
            and not slot.kinds
        ):
            return slot
        return self.emit("lines", (slot,), slot.shape, slot.kind)

    def pointwise(self, node: Node) -> Slot:
        (name,) = node.inputs
        x = self.known[name]
        if self.value(name).kind == BITS:
            self.slots[name] = self.as_kind(self.value(name), INTEGER)
        slot = self.open_lines(name)
        whole_numbers = slot.kind == INTEGER
        if isinstance(node, Threshold):
            self.signed(slot, "threshold", node.threshold, node.direction.astype(np.int32))
        elif isinstance(node, Affine):
            self.then(slot, "affine_int" if whole_numbers else "affine", node.scale, node.shift)
        elif isinstance(node, Relu):
            self.then(slot, "relu_int" if whole_numbers else "relu")
        elif isinstance(node, Hardtanh):
            self.then(slot, "hardtanh_int" if whole_numbers else "hardtanh")
        else:
            if whole_numbers:
                self.then(slot, "real")
            if isinstance(node, Prelu):
                self.then(slot, "prelu", node.slope)
            else:
                assert isinstance(node, Sign)
                if x.bound is not None and x.bound > _FLOAT32_EXACT:
                    raise NotPlanned("signs of integers beyond float32")
                self.signed(slot, "sign", node.shift)
        return slot

    # products

    def dense(self, node: Dense | RealDense) -> Slot:
        slot = self.value(node.inputs[0], flat=True)
        outputs, shape = node.outputs, slot.shape
        rows = _rows(node)
        if slot.flat:  # the weights are put in the order of the pixels, not the pixels in that of the weights
            rows = np.moveaxis(rows.reshape(outputs, *shape), 1, -1)
        bits = isinstance(node, OneBitWeights) and slot.kind == BITS
        if slot.flat and bits:
            axes = whole(shape[1]), whole(shape[2])
            rows = rows.reshape(1, outputs, shape[1] * shape[2], shape[0])
        else:
            axes = POINT, POINT
            rows = rows.reshape(1, outputs, 1, -1)
            if not bits:
                slot = self.as_kind(slot, INTEGER) if slot.kind == BITS else slot
            slot = Slot((rows.shape[-1], 1, 1), slot.kind, slot.buffer) if slot.flat else slot
        return self.product(node, slot, rows, axes, (outputs, 1, 1))

    def conv(self, node: Conv | RealConv | ConvTranspose | RealConvTranspose) -> Slot:
        slot = self.value(node.inputs[0])
        made: Any = self.known[node.output].shape
        rows = _rows(node).reshape(node.groups, -1, prod(node.kernel), node.group_channels)
        return self.product(node, slot, rows, axes_of(node, slot.shape[1:], made[1:]), made)

    def product(
        self, node: Any, slot: Slot, rows: np.ndarray, axes: tuple[Axis, Axis], made: tuple[int, int, int]
    ) -> Slot:
        """Sums over taps. rows: (G, O, T, I), of signs bool, of real weights float64 on their grids."""
        one_bit = isinstance(node, OneBitWeights)
        groups, outputs, taps, channels = rows.shape
        padding, x = getattr(node, "padding_value", 0), self.known[node.inputs[0]]
        fields: dict[str, Any] = {
            "groups": groups,
            "outputs": outputs,
            "tap_channels": channels,
            "number": padding,
            "rows": axes[0].taps,
            "columns": axes[1].taps,
            "taps_down": axes[0].taps.shape[1],
            "taps_across": axes[1].taps.shape[1],
            "runs": axes[1].runs,
        }
        if padding:
            signs = rows.astype(np.int64) * 2 - 1 if one_bit else rows.astype(np.int64)
            fields["tap_sums"] = np.ascontiguousarray(signs.sum(axis=-1).reshape(groups * outputs, taps).T)
        stride = -(-outputs // self.isa.lanes) * self.isa.lanes
        scratch = taps * _SEGMENT_UNITS
        if one_bit and slot.kind == BITS and (groups == 1 or channels % 32 == 0):
            name = "xnor"
            fields["weights"], fields["tap_words"] = xnor_panels(rows, self.isa.lanes)
        else:
            slot = self.integers(node, slot, x)
            fields["real"] = slot.step is not None and slot.step.name == "grid"
            if one_bit:
                name, isa = "lut", self.isa
                options = {"inputs": isa.lut_inputs, "groups": isa.lut_groups}
                fields["weights"], fields["tap_words"] = lut_panels(rows, isa.lanes, **options)
                scratch += isa.tile_rows * stride * 2
                table = 2**isa.lut_inputs
                if axes[0].taps.size == axes[1].taps.size == 1 and axes[0].taps == axes[1].taps == 0:
                    scratch += isa.tile_rows * isa.dense_words * isa.lut_groups * table
                else:
                    fields["tall"] = axes[0].reach
                    scratch += fields["tall"] * slot.shape[2] * groups * -(-channels // isa.lut_inputs) * table
            else:
                name = "real"
                fields["weights"] = real_panels(rows.reshape(groups, outputs, -1))
                fields["tap_words"] = channels
                fields["weight_units"] = np.pad(on_grid(node.weight)[1], (0, _BLOCK - 1))
        fields["panel"] = prod(fields["weights"].shape[2:])
        kind = INTEGER if name != "real" and not fields.get("real") else REAL
        answer = self.emit(name, (slot,), made, kind, **fields)
        assert answer.step is not None
        answer.step.scratch = scratch
        if one_bit and (node.scale is not None or node.centre is not None):
            if kind == INTEGER:
                self.then(answer, "real")
            if node.scale is not None:
                self.then(answer, "scale", node.scale)
            if node.centre is not None:
                answer.step.fields["centre"] = 1
                self.then(answer, "centre", node.centre)
        return answer

    def integers(self, node: Any, slot: Slot, x: Value) -> Slot:
        """What products with one-bit or real weights take: integers as they are, or real values on their grid."""
        if slot.kind == BITS:
            slot = self.as_kind(slot, INTEGER)
        beyond = not isinstance(node, OneBitWeights) and x.bound is not None and x.bound > 2**GRID_BITS
        if slot.kind == INTEGER and not beyond:
            return slot
        slot = self.as_kind(slot, REAL)
        padded = bool(getattr(node, "padding_value", 0))
        key = f"grid {padded}"
        if key not in slot.kinds:
            slot.kinds[key] = self.emit("grid", (slot,), slot.shape, INTEGER, number=int(padded))
        slot.buffer.last = max(slot.buffer.last, slot.kinds[key].buffer.first)
        return slot.kinds[key]

    # what moves values about

    def flatten(self, node: Flatten) -> Slot:
        slot = self.value(node.inputs[0])
        channels, height, width = slot.shape
        line = (channels * height * width, 1, 1)
        if height * width == 1 or (channels == 1 and slot.kind != BITS):
            return Slot(line, slot.kind, slot.buffer)
        return Slot(slot.shape, slot.kind, slot.buffer, flat=True)

    def plain(self, name: str, made: Value) -> Slot:
        """The value of a name as one unit per number, of the kind that `made` needs."""
        slot = self.value(name)
        return self.as_kind(slot, REAL if not made.exact else INTEGER)

    def concat(self, node: Concat) -> Slot:
        made = self.known[node.output]
        shape: Any = (*made.shape, 1, 1)[:3]
        parts = [self.plain(name, made) for name in node.inputs]
        target: Slot | None = None
        before = 0
        for part in parts:
            stride = (1, shape[2] * shape[0], shape[0])
            target = self.copy(part, shape, (0, 0, 0), part.shape, (1, 1, 1), stride, to=before, into=target)
            before += part.shape[0]
        assert target is not None
        return target

    def slice(self, node: Slice) -> Slot:
        made = self.known[node.output]
        shape: Any = made.shape
        stride = (1, shape[2] * shape[0], shape[0])
        return self.copy(self.plain(node.inputs[0], made), shape, node.start, shape, node.step, stride)

    def pad(self, node: Pad) -> Slot:
        made = self.known[node.output]
        shape: Any = made.shape
        slot = self.plain(node.inputs[0], made)
        number = node.value if made.exact else int(np.float32(node.value).view(np.int32))
        target = self.emit("fill", (), shape, slot.kind, number=number)
        stride = (1, shape[2] * shape[0], shape[0])
        to = node.padding[0] * stride[1] + node.padding[2] * stride[2] + node.channels[0]
        return self.copy(slot, shape, (0, 0, 0), slot.shape, (1, 1, 1), stride, to=to, into=target)

    def add(self, node: Add) -> Slot:
        made = self.known[node.output]
        a, b = (self.plain(name, made) for name in node.inputs)
        return self.emit("add_int" if made.exact else "add", (a, b), a.shape, a.kind)

    # pools

    def windows(self, name: str, slot: Slot, node: MaxPool | AveragePool, kind: str, **fields: Any) -> Slot:
        made: Any = self.known[node.output].shape
        rows, columns = axes_of(node, slot.shape[1:], made[1:])
        return self.emit(
            name,
            (slot,),
            made,
            kind,
            rows=rows.taps,
            columns=columns.taps,
            taps_down=rows.taps.shape[1],
            taps_across=columns.taps.shape[1],
            **fields,
        )

    def max_pool(self, node: MaxPool) -> Slot:
        slot = self.value(node.inputs[0])
        name = {BITS: "max_bits", INTEGER: "max_int", REAL: "max"}[slot.kind]
        return self.windows(name, slot, node, slot.kind)

    def average_pool(self, node: AveragePool) -> Slot:
        x, made = self.known[node.inputs[0]], self.known[node.output]
        if x.bound is not None and x.bound * prod(node.kernel) > _INT32_MOST:
            raise NotPlanned("averages of integers beyond int32")
        slot = self.value(node.inputs[0])
        slot = self.as_kind(slot, REAL if x.bound is None else INTEGER)
        divisor = None
        if not node.sums:
            rows, columns = (axis.taps for axis in axes_of(node, x.shape[1:], made.shape[1:]))
            if node.count_padding:
                divisor = np.full(made.shape[1:], prod(node.kernel), np.float32)
            else:
                divisor = np.outer((rows >= 0).sum(axis=1), (columns >= 0).sum(axis=1)).astype(np.float32)
        kind = INTEGER if made.exact else REAL
        return self.windows("sum" if x.bound is None else "sum_int", slot, node, kind, divisor=divisor)

    def adaptive_average_pool(self, node: AdaptiveAveragePool) -> Slot:
        x = self.known[node.inputs[0]]
        shape: Any = self.known[node.output].shape
        slot = self.value(node.inputs[0])
        slot = self.as_kind(slot, REAL if x.bound is None else INTEGER)
        rows, columns = (
            np.array([(i * size // n, -(-(i + 1) * size // n)) for i in range(n)], np.int32)
            for n, size in zip(node.size, slot.shape[1:], strict=True)
        )
        divisor = np.outer(rows[:, 1] - rows[:, 0], columns[:, 1] - columns[:, 0]).astype(np.float32)
        real = int(slot.kind == REAL)
        return self.emit("average", (slot,), shape, REAL, rows=rows, columns=columns, divisor=divisor, real=real)

    # memory

    def finished(self, answer: Slot) -> NativePlan:
        largest = max(buffer.units for buffer in self.buffers)
        batch = max(1, min(_MOST_BATCH, _BATCH_UNITS // largest))
        end = _place(self.buffers, batch)
        arena = end + max((step.scratch for step in self.steps), default=0)
        kept: list[Any] = []
        steps = (library.Step * len(self.steps))()
        for step, made in zip(self.steps, steps, strict=True):
            _fill_step(step, made, end, kept)
        plan = library.Plan()
        plan.steps, plan.step_count = ctypes.addressof(steps), len(steps)
        plan.channels, plan.height, plan.width = self.net.input.shape
        for name in ("mean", "std"):
            setattr(plan, name, _pointer(getattr(self.net.input, name), kept))
        plan.input, plan.output = self.slots[INPUT].buffer.place, answer.buffer.place
        plan.output_size, plan.arena_units, plan.batch = answer.buffer.units, arena, batch
        return NativePlan(plan, self.isa, self.known[self.net.output].shape, (steps, *kept))


_MAKERS: dict[type[Node], Any] = {
    Flatten: _Planner.flatten,
    Dense: _Planner.dense,
    RealDense: _Planner.dense,
    Conv: _Planner.conv,
    RealConv: _Planner.conv,
    ConvTranspose: _Planner.conv,
    RealConvTranspose: _Planner.conv,
    MaxPool: _Planner.max_pool,
    AveragePool: _Planner.average_pool,
    AdaptiveAveragePool: _Planner.adaptive_average_pool,
    Affine: _Planner.pointwise,
    Threshold: _Planner.pointwise,
    Sign: _Planner.pointwise,
    Relu: _Planner.pointwise,
    Prelu: _Planner.pointwise,
    Hardtanh: _Planner.pointwise,
    Add: _Planner.add,
    Concat: _Planner.concat,
    Slice: _Planner.slice,
    Pad: _Planner.pad,
}


def _rows(node: Any) -> np.ndarray:
    """(O, K): signs as bool, real weights on their grids as float64."""
    if isinstance(node, OneBitWeights):
        return unpack_signs(node.signs, node.in_features) > 0
    return on_grid(node.weight)[0]


def _place(buffers: list[Buffer], batch: int) -> int:
    """Gives each buffer a place in the arena that no other has at the same time; returns the end of them."""
    placed: list[tuple[int, int, Buffer]] = []
    end = 0
    for buffer in sorted(buffers, key=lambda buffer: -buffer.units):
        size = -(-buffer.units * batch // _ALIGNED) * _ALIGNED
        place = 0
        for start, stop, other in sorted(placed, key=lambda entry: entry[0]):
            if other.first <= buffer.last and buffer.first <= other.last and start < place + size and place < stop:
                place = stop
        buffer.place = place
        placed.append((place, place + size, buffer))
        end = max(end, place + size)
    return end


def _fill_step(step: _Step, made: library.Step, scratch: int, kept: list[Any]) -> None:
    made.step, made.scratch = _STEPS.index(step.name) + 1, scratch
    for name, buffer in zip(("in", "in2"), step.inputs, strict=False):
        setattr(made, "in_" if name == "in" else name, buffer.place)
        setattr(made, f"{name}_size", buffer.units)
    made.out, made.out_size = step.out.place, step.out.units
    plain = not step.bits and all(p is None and q is None for _, p, q in step.lines)
    if plain and step.name in ("lines", "add", "add_int"):  # the same is done with every number: one long line
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
    repeats = 1
    if step.name == "lut" and _can_share_a_line(step):
        repeats, made.together = _LINE // step.fields["outputs"], 1
    lines = (library.Line * max(1, len(step.lines)))()
    for line, (code, p, q) in zip(lines, step.lines, strict=False):
        line.code, line.p, line.q = _LINES.index(code) + 1, _parameters(p, repeats, kept), _parameters(q, repeats, kept)
    kept.append(lines)
    made.lines, made.line_count, made.bits = ctypes.addressof(lines), len(step.lines), step.bits


def _can_share_a_line(step: _Step) -> bool:
    """Whether the outputs of four pixels and more go into one line."""
    outputs, fields = step.fields["outputs"], step.fields
    plain = fields["groups"] == 1 and not fields["number"] and not fields.get("centre") and not step.bits
    return plain and bool(outputs % _BLOCK == 0) and bool(outputs * _LINE_PIXELS <= _LINE)


def _parameters(array: np.ndarray | None, repeats: int, kept: list[Any]) -> int | None:
    """Where a parameter for each channel lies, with room for a whole last block."""
    return None if array is None else _pointer(np.pad(np.tile(array, repeats), (0, _BLOCK - 1)), kept)


def _pointer(array: np.ndarray | None, kept: list[Any]) -> int | None:
    """Where an array lies, which is kept in memory."""
    if array is None:
        return None
    array = np.ascontiguousarray(array)
    kept.append(array)
    return array.ctypes.data
