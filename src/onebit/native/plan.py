"""A packed net as a plan: the steps that the library runs, node by node."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import Any

import numpy as np

from onebit.native import library
from onebit.native.memory import NativePlan, lay_out
from onebit.native.products import NotPlanned, Product, of_bytes, of_lookups, of_real_weights, of_signs
from onebit.native.steps import BITS, BYTES, INTEGER, REAL, Slot, Steps
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
from onebit.packed.bits import unpack_signs
from onebit.packed.grid import GRID_BITS, on_grid
from onebit.packed.net import INPUT
from onebit.packed.nodes import Kernel

_FLOAT32_EXACT = 2**24
_INT32_MOST = 2**31 - 1
_MOST_TAPS = 2**22  # of an axis, over all places of a window: strange nets are left to the reference


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
        self.steps = Steps()
        channels, height, width = net.input.shape
        kind = INTEGER if net.input.value.exact else REAL
        self.image = self.at_first((channels, height, width), kind)
        self.as_bytes: Slot | None = None
        self.slots = {INPUT: self.image}

    def plan(self) -> NativePlan:
        for node in self.net.nodes:
            if type(node) not in _MAKERS:
                raise NotPlanned(f"the operation of {node.output!r}, {type(node).__name__}, has no native kernel")
            self.slots[node.output] = _MAKERS[type(node)](self, node)
        answer = self.steps.image_order(self.steps.as_kind(self.slots[self.net.output], REAL))
        answer.buffer.last = len(self.steps.list)
        return lay_out(self.net, self.steps, self.image, self.as_bytes, answer, self.isa)

    def at_first(self, shape: tuple[int, int, int], kind: str) -> Slot:
        """A value that is there before the first step."""
        slot = Slot(shape, kind, self.steps.buffer(prod(shape)))
        slot.buffer.first = slot.buffer.last = -1
        return slot

    def value(self, name: str, *, flat: bool = False) -> Slot:
        """The value of a name; a flattened one in the order of its numbers, unless `flat` ones are wanted too."""
        slot = self.slots[name]
        if slot.flat and not flat:
            if "ordered" not in slot.kinds:
                slot.kinds["ordered"] = self.steps.image_order(
                    slot if slot.kind != BITS else self.steps.as_kind(slot, INTEGER)
                )
            return slot.kinds["ordered"]
        return slot

    def open_lines(self, name: str, *, signs: bool) -> Slot:
        """A value whose step can go on with lines, as nothing else reads it; or the start of a step of lines.

        Args:
            signs: whether the next line makes words, which two groups of a product must not share.
        """
        slot = self.value(name)
        step = slot.step
        if (
            step is not None
            and step.name in ("lines", "add", "add_int", "xnor", "bytes", "lut", "real")
            and not step.bits
            and self.uses[name] == 1
            and step is self.steps.list[-1]
            and not slot.kinds
            and not (signs and step.fields.get("groups", 1) > 1 and step.fields["outputs"] % 32)
        ):
            return slot
        return self.steps.emit("lines", (slot,), slot.shape, slot.kind)

    def pointwise(self, node: Node) -> Slot:
        (name,) = node.inputs
        x = self.known[name]
        if self.value(name).kind == BITS:
            self.slots[name] = self.steps.as_kind(self.value(name), INTEGER)
        slot = self.open_lines(name, signs=isinstance(node, (Threshold, Sign)))
        whole_numbers = slot.kind == INTEGER
        if isinstance(node, Threshold):
            flip = np.where(node.direction > 0, 0, -1).astype(np.int32)  # x <= t where -1 - x >= -1 - t
            self.steps.signed(slot, "threshold", node.threshold ^ flip, flip)
        elif isinstance(node, Affine):
            self.steps.then(slot, "affine_int" if whole_numbers else "affine", node.scale, node.shift)
        elif isinstance(node, Relu):
            self.steps.then(slot, "relu_int" if whole_numbers else "relu")
        elif isinstance(node, Hardtanh):
            self.steps.then(slot, "hardtanh_int" if whole_numbers else "hardtanh")
        else:
            if whole_numbers:
                self.steps.then(slot, "real")
            if isinstance(node, Prelu):
                self.steps.then(slot, "prelu", node.slope)
            else:
                assert isinstance(node, Sign)
                if x.bound is not None and x.bound > _FLOAT32_EXACT:
                    raise NotPlanned("signs of integers beyond float32")
                self.steps.signed(slot, "sign", node.shift)
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
                slot = self.steps.as_kind(slot, INTEGER) if slot.kind == BITS else slot
            slot = Slot((rows.shape[-1], 1, 1), slot.kind, slot.buffer) if slot.flat else slot
        return self.product(node, slot, rows, axes, (outputs, 1, 1))

    def conv(self, node: Conv | RealConv | ConvTranspose | RealConvTranspose) -> Slot:
        slot = self.value(node.inputs[0])
        made: Any = self.known[node.output].shape
        axes = _axes_of(node, slot.shape[1:], made[1:])
        rows = _rows(node).reshape(node.groups, -1, prod(node.kernel), node.group_channels)
        return self.product(node, slot, rows, axes, made)

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
        dense = all(axis is POINT for axis in axes)
        if padding:
            signs = rows.astype(np.int64) * 2 - 1 if one_bit else rows.astype(np.int64)
            fields["tap_sums"] = np.ascontiguousarray(signs.sum(axis=-1).reshape(groups * outputs, taps).T)
        as_bytes: tuple[Slot, Product] | None = None
        if one_bit and slot.kind == BITS and (groups == 1 or channels % 32 == 0):
            product = of_signs(rows, self.isa)
        else:
            as_bytes = None if dense and self.isa.bytes == _INT32_MOST else self.bytes_of(node, slot, rows)
            slot = self.integers(node, slot, x)
            fields["real"] = slot.step is not None and slot.step.name == "grid"
            if not one_bit:
                product = of_real_weights(node, rows)
            elif as_bytes is None or dense:
                product = of_lookups(node, rows, axes, slot.shape[2], self.isa)
            else:
                slot, product = as_bytes
        kind = INTEGER if one_bit and not fields.get("real") else REAL
        answer = self.steps.emit(product.name, (slot,), made, kind, **{**fields, **product.fields})
        assert answer.step is not None
        answer.step.scratch = product.scratch_of(taps)
        if dense and as_bytes is not None:
            self.steps.instead(answer.step, self.isa.bytes, as_bytes[0], as_bytes[1].name, **as_bytes[1].fields)
        if one_bit and (node.scale is not None or node.centre is not None):
            if kind == INTEGER:
                self.steps.then(answer, "real")
            if node.scale is not None:
                self.steps.then(answer, "scale", node.scale)
            if node.centre is not None:
                answer.step.fields["centre"] = 1
                self.steps.then(answer, "centre", node.centre)
        return answer

    def bytes_of(self, node: Any, slot: Slot, rows: np.ndarray) -> tuple[Slot, Product] | None:
        """The image as bytes and their product with one-bit weights, if `slot` is the image and that can be had."""
        plain = isinstance(node, OneBitWeights) and node.centre is None and len(rows) == 1
        if not (self.isa.bytes and plain and slot.buffer is self.image.buffer and slot.kind == INTEGER):
            return None
        product = of_bytes(rows, self.isa)
        shape = (product.tap_words, *slot.shape[1:])
        if self.as_bytes is None:
            self.as_bytes = self.at_first(shape, BYTES)
        return (self.as_bytes, product) if self.as_bytes.shape == shape else None

    def integers(self, node: Any, slot: Slot, x: Value) -> Slot:
        """What products with one-bit or real weights take: integers as they are, or real values on their grid."""
        if slot.kind == BITS:
            slot = self.steps.as_kind(slot, INTEGER)
        beyond = not isinstance(node, OneBitWeights) and x.bound is not None and x.bound > 2**GRID_BITS
        if slot.kind == INTEGER and not beyond:
            return slot
        slot = self.steps.as_kind(slot, REAL)
        padded = bool(getattr(node, "padding_value", 0))
        key = f"grid {padded}"
        if key not in slot.kinds:
            slot.kinds[key] = self.steps.emit("grid", (slot,), slot.shape, INTEGER, number=int(padded))
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
        return self.steps.as_kind(slot, REAL if not made.exact else INTEGER)

    def concat(self, node: Concat) -> Slot:
        made = self.known[node.output]
        shape: Any = (*made.shape, 1, 1)[:3]
        parts = [self.plain(name, made) for name in node.inputs]
        target: Slot | None = None
        before = 0
        for part in parts:
            target = self.steps.copy(part, shape, (0, 0, 0), part.shape, (1, 1, 1), to=before, into=target)
            before += part.shape[0]
        assert target is not None
        return target

    def slice(self, node: Slice) -> Slot:
        made = self.known[node.output]
        shape: Any = made.shape
        return self.steps.copy(self.plain(node.inputs[0], made), shape, node.start, shape, node.step)

    def pad(self, node: Pad) -> Slot:
        made = self.known[node.output]
        shape: Any = made.shape
        slot = self.plain(node.inputs[0], made)
        number = node.value if made.exact else int(np.float32(node.value).view(np.int32))
        target = self.steps.emit("fill", (), shape, slot.kind, number=number)
        to = (node.padding[0] * shape[2] + node.padding[2]) * shape[0] + node.channels[0]
        return self.steps.copy(slot, shape, (0, 0, 0), slot.shape, (1, 1, 1), to=to, into=target)

    def add(self, node: Add) -> Slot:
        made = self.known[node.output]
        a, b = (self.plain(name, made) for name in node.inputs)
        return self.steps.emit("add_int" if made.exact else "add", (a, b), a.shape, a.kind)

    # pools

    def windows(self, name: str, slot: Slot, node: MaxPool | AveragePool, kind: str, **fields: Any) -> Slot:
        made: Any = self.known[node.output].shape
        rows, columns = _axes_of(node, slot.shape[1:], made[1:])
        return self.steps.emit(
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
        slot = self.steps.as_kind(slot, REAL if x.bound is None else INTEGER)
        divisor = None
        if not node.sums:
            rows, columns = (axis.taps for axis in _axes_of(node, x.shape[1:], made.shape[1:]))
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
        slot = self.steps.as_kind(slot, REAL if x.bound is None else INTEGER)
        rows, columns = (
            np.array([(i * size // n, -(-(i + 1) * size // n)) for i in range(n)], np.int32)
            for n, size in zip(node.size, slot.shape[1:], strict=True)
        )
        divisor = np.outer(rows[:, 1] - rows[:, 0], columns[:, 1] - columns[:, 0]).astype(np.float32)
        real = int(slot.kind == REAL)
        return self.steps.emit("average", (slot,), shape, REAL, rows=rows, columns=columns, divisor=divisor, real=real)


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
    return on_grid(node.weight)[0].astype(np.float64)


def _axes_of(node: Kernel, sizes: tuple[int, ...], made: tuple[int, ...]) -> tuple[Axis, Axis]:
    """`axes_of`, where it fits into memory."""
    if max(places * taps for places, taps in zip(made, node.kernel, strict=True)) > _MOST_TAPS:
        raise NotPlanned("a kernel of too many taps at too many places")
    return axes_of(node, sizes, made)
