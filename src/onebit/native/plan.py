"""The plan of a packed net: the kernel calls of its nodes."""

from __future__ import annotations

import hashlib
from math import prod
from typing import Any

import numpy as np

from onebit.native import library
from onebit.native.abi import AMX_BYTES, AMX_INPUTS, PRODUCT_LANES, PRODUCT_ROWS
from onebit.native.arena import NativePlan, lay_out
from onebit.native.kernel_calls import BITS, BYTES, INTEGER, REAL, WORD, Slot
from onebit.native.layout import NotPlanned, image_of
from onebit.native.panels import panels
from onebit.native.pointwise import Pointwise
from onebit.native.products import Product, call_of
from onebit.native.taps import Axis, axes_of, whole
from onebit.native.weight_kernels import WeightKernel, scaled_kernel, segment_units, tap_sums
from onebit.packed import OneBitWeights, PackedNet, nodes
from onebit.packed.grid import MAX_EXACT_TERMS, on_grid
from onebit.packed.net import readers
from onebit.packed.nodes.node import INT32

_MAX_SCRATCH = 2**28  # units of 4 bytes


def make_plan(net: PackedNet, isa: library.InstructionSet, panels: dict[Any, np.ndarray] | None = None) -> NativePlan:
    """The plan of a net for an instruction set.

    Args:
        panels: weights in memory that plans of the same nodes share; those of this plan are added.

    Raises:
        NotPlanned: the library cannot compute some node exactly as the reference does.
    """
    return _Planner(net, isa, {} if panels is None else panels).plan()


class _Planner(Pointwise):
    def __init__(self, net: PackedNet, isa: library.InstructionSet, panels: dict[Any, np.ndarray]) -> None:
        super().__init__(net)
        self.isa, self.panels = isa, panels
        self.readers = readers(net)
        self.levels: dict[str, Slot] = {}  # real values in memory as signs -> their levels on the grid

    def plan(self) -> NativePlan:
        for node in self.net.nodes:
            if (make := nodes.by_class(_MAKERS, node)) is None:
                raise NotPlanned(f"the operation of {node.output!r}, {type(node).__name__}, has no native kernel")
            if (slot := make(self, node)) is not None:
                self.slots[node.output] = slot
        answers = [self.image_order(self.as_kind(self.value(name), REAL)) for name in self.net.outputs]
        return lay_out(self, answers, self.isa)

    def dense(self, node: nodes.DenseLayer) -> Slot:
        slot = self.value(node.inputs[0], flat=True)
        if self.packs(node, slot):
            slot = self.as_kind(self.value(node.inputs[0]), BITS)
        rows, height, width = _rows(node), 1, 1
        if slot.flat:  # reorder the weights instead of the pixels
            rows = np.moveaxis(rows.reshape(node.outputs, *slot.shape), 1, -1)
        if not isinstance(node, OneBitWeights):
            slot = self.unpacked(slot)
        if slot.flat and slot.kind == BITS:
            _, height, width = slot.shape
        elif slot.flat:
            slot = slot.seen_as((prod(slot.shape), 1, 1))
        rows = rows.reshape(1, node.outputs, height * width, -1)
        return self.matmul(node, slot, rows, (whole(height), whole(width)), (node.outputs, 1, 1))

    def scaled_dense(self, node: nodes.ScaledDense) -> Slot:
        """A group of inputs is a tap."""
        slot = self.integers(node, self.value(node.inputs[0]))
        rows = np.asarray(node.rows > 0).reshape(1, node.outputs, -1, node.group)
        kernel = scaled_kernel(rows, self.isa)
        if kernel is None or slot.call is None or slot.call.kernel != "grid":
            raise NotPlanned(f"no kernel for scaled groups of {node.group} inputs")
        fields: dict[str, Any] = {
            "groups": 1,
            "outputs": node.outputs,
            "tap_channels": node.in_features,
            "constant": 0,
            "real": True,
        }
        fields |= {"runs": whole(1).runs, **_taps(whole(1), whole(1)), "scaled": node.group}
        fields["scales"] = self.shared(panels(node.scales[None], self.isa.lanes))
        return self.product(node, kernel, (slot,), (node.outputs, 1, 1), REAL, taps=1, **fields)

    def conv(self, node: nodes.Grouped) -> Slot:
        slot = self.value(node.inputs[0])
        if _in_words(node) and self.packs(node, slot):
            slot = self.as_kind(slot, BITS)
        made: Any = self.known[node.output].shape
        rows = _rows(node).reshape(node.groups, -1, prod(node.kernel), node.group_channels)
        pixels = prod(made[1:])
        if self.isa.byte_tiles and made[1:] == slot.shape[1:] and prod(node.kernel) == prod(node.stride) == 1:
            # all pixels as one row, for tiles
            row = slot.kinds.setdefault("row", slot.seen_as((slot.shape[0], 1, pixels), slot.call))
            columns = Axis(np.arange(pixels, dtype=np.int32)[:, None])
            answer = self.matmul(node, row, rows, (whole(1), columns), (made[0], 1, pixels))
            return answer.seen_as(made, answer.call)
        return self.matmul(node, slot, rows, axes_of(node, slot.shape[1:], made[1:]), made)

    def affine(self, node: nodes.Affine) -> Slot:
        """Two levels stay signs if only one-bit weights read them: `matmul` multiplies the signs."""
        slot, made = self.value(node.inputs[0], flat=True), node.output
        levels = node.levels() if slot.kind == BITS and made not in self.net.outputs else None
        if levels is None or not all(map(self.takes_levels, self.readers[made])):
            return self.pointwise(node)
        low, high = map(float, levels)
        self.levels[made] = self.emit(
            "levels", (slot,), (3, 1, 1), INTEGER, low=low, high=high, tap_channels=slot.shape[0]
        )
        return slot.seen_as(slot.shape, flat=slot.flat)

    @staticmethod
    def takes_levels(node: Any) -> bool:
        """Whether a node multiplies signs in words by one-bit weights."""
        one_bit = isinstance(node, OneBitWeights) and node.centre is None
        return one_bit and not getattr(node, "padding_value", 0) and _in_words(node)

    def packs(self, node: Any, slot: Slot) -> bool:
        """Whether one-bit weights multiply signs that are in memory as integers."""
        return isinstance(node, OneBitWeights) and slot.kind == INTEGER and self.known[node.inputs[0]].kind == "sign"

    def matmul(
        self, node: Any, slot: Slot, rows: np.ndarray, axes: tuple[Axis, Axis], made: tuple[int, int, int]
    ) -> Slot:
        """Sums over taps. rows: (G, O, T, I), bool for signs, float64 integers on their grids for real weights."""
        one_bit = isinstance(node, OneBitWeights)
        groups, outputs, taps, channels = rows.shape
        padding = getattr(node, "padding_value", 0)
        fields: dict[str, Any] = {"groups": groups, "outputs": outputs, "tap_channels": channels}
        fields |= {"constant": padding, "runs": axes[1].runs, **_taps(*axes)}
        levels = self.levels.get(node.inputs[0])
        if padding or levels:
            fields["tap_sums"] = tap_sums(rows)
        on_a_grid = self.known[node.inputs[0]].bound is None
        call = call_of(self, Product(node, slot, rows, axes, levels, on_a_grid, self.isa))
        fields |= call.fields
        kind = INTEGER if one_bit and not fields.get("real") and not levels else REAL
        sources = (call.slot,) if levels is None else (call.slot, levels)
        answer = self.product(node, call.kernel, sources, made, kind, taps=taps, **fields)
        assert answer.call is not None
        if one_bit and (node.scale is not None or node.centre is not None):
            if kind == INTEGER:
                answer.then("real")
            if node.scale is not None:
                answer.then("scale", node.scale)
            if node.centre is not None:
                answer.call.fields["center"] = 1
                answer.then("center", node.centre)
        return answer

    def shared(self, weights: np.ndarray) -> np.ndarray:
        """These weights, or the same ones of another node or plan."""
        key = weights.dtype, weights.shape, hashlib.sha256(np.ascontiguousarray(weights).data).digest()
        return self.panels.setdefault(key, weights)

    def product(
        self,
        node: Any,
        kernel: WeightKernel,
        sources: tuple[Slot, ...],
        made: tuple[int, int, int],
        kind: str,
        *,
        taps: int,
        **fields: Any,
    ) -> Slot:
        """The call of a kernel with weights."""
        fields |= {"weights": self.shared(kernel.weights), "panel": prod(kernel.weights.shape[2:])}
        fields |= {"tap_words": kernel.tap_words, **kernel.more}
        answer = self.emit(kernel.name, sources, made, kind, **fields)
        assert answer.call is not None
        answer.call.scratch = segment_units(taps) + kernel.scratch
        if answer.call.scratch > _MAX_SCRATCH:
            raise NotPlanned("tables of a layer beyond a gigabyte")
        return answer

    def add(self, node: nodes.Add | nodes.Multiply) -> Slot:
        made = self.known[node.output]
        a, b = (self.plain(name, made) for name in node.inputs)
        kernel = "multiply" if isinstance(node, nodes.Multiply) else "add_int" if made.exact else "add"
        return self.emit(kernel, (a, b), a.shape, a.kind)

    def windows(self, kernel: str, slot: Slot, node: nodes.Pool, kind: str, **fields: Any) -> Slot:
        made: Any = self.known[node.output].shape
        taps = _taps(*axes_of(node, slot.shape[1:], made[1:]))
        coding = slot.coding if kind == BYTES else None
        return self.emit(kernel, (slot,), made, kind, coding, **taps, **fields)

    def max_pool(self, node: nodes.MaxPool) -> Slot:
        slot = self.value(node.inputs[0])
        kernel = {BITS: "max_bits", BYTES: "max_bytes", INTEGER: "max_int", REAL: "max"}[slot.kind]
        return self.windows(kernel, slot, node, slot.kind)

    def average_pool(self, node: nodes.AveragePool) -> Slot:
        x, made = self.known[node.inputs[0]], self.known[node.output]
        if x.bound is not None and x.bound * prod(node.kernel) > INT32.max:
            raise NotPlanned("averages of integers beyond int32")
        slot = self.plain(node.inputs[0], x, coded=True)
        divisor = None if node.sums else node.pixels(x).astype(np.float32)
        kind = INTEGER if made.exact else REAL
        return self.windows("sum_int" if x.exact else "sum", slot, node, kind, divisor=divisor)

    def adaptive_average_pool(self, node: nodes.AdaptiveAveragePool) -> Slot:
        x = self.known[node.inputs[0]]
        shape: Any = self.known[node.output].shape
        slot = self.plain(node.inputs[0], x)
        rows, columns = (np.array(windows, np.int32) for windows in node.windows(x))
        divisor = node.pixels(x).astype(np.float32)
        real = not x.exact
        return self.emit("average", (slot,), shape, REAL, rows=rows, columns=columns, divisor=divisor, real=real)

    def normalize(self, node: nodes.Normalize) -> Slot:
        slot = self.as_kind(self.value(node.inputs[0]), REAL)
        channels, height, width = slot.shape
        fields: dict[str, Any] = {"groups": node.groups, "low": float(node.eps[0]), "center": node.centered}
        fields["block"] = height * width if node.whole else 1
        answer = self.emit("normalize", (slot,), slot.shape, REAL, **fields)
        assert answer.call is not None
        answer.call.scratch = 4 * channels  # a double and two floats
        return answer

    def softmax(self, node: nodes.Softmax) -> Slot:
        slot = self.as_kind(self.value(node.inputs[0]), REAL)
        return self.emit("softmax", (slot,), slot.shape, REAL)

    def multiply_values(self, node: nodes.Product) -> Slot:
        a, b = (self.on_grid(self.value(name)) for name in node.inputs)
        (channels, *_), made = a.shape, image_of(self.known[node.output].shape)
        answer = self.emit("product", (a, b), made, REAL, tap_channels=channels)
        assert answer.call is not None
        panels = -(-made[0] // PRODUCT_LANES) * PRODUCT_LANES
        answer.call.scratch = channels * (2 * panels + PRODUCT_LANES + 2 * PRODUCT_ROWS)
        if self.isa.byte_tiles:
            steps, tile = -(-channels // AMX_INPUTS), AMX_BYTES // 4
            units = 4 * (steps * panels // 16 + 2 * (steps | 1)) * tile + 8 * tile
            answer.call.scratch = max(answer.call.scratch, units)
        if answer.call.scratch > _MAX_SCRATCH or channels > MAX_EXACT_TERMS:
            raise NotPlanned("a product of very many pixels, or of more terms than an int64 holds")
        return answer


_MAKERS: dict[type, Any] = {
    nodes.DenseLayer: _Planner.dense,
    nodes.ScaledDense: _Planner.scaled_dense,
    nodes.Grouped: _Planner.conv,
    nodes.MaxPool: _Planner.max_pool,
    nodes.AveragePool: _Planner.average_pool,
    nodes.AdaptiveAveragePool: _Planner.adaptive_average_pool,
    nodes.Affine: _Planner.affine,
    nodes.Threshold: _Planner.pointwise,
    nodes.Sign: _Planner.pointwise,
    nodes.Bounded: _Planner.pointwise,
    nodes.Activation: _Planner.pointwise,
    nodes.Prelu: _Planner.pointwise,
    nodes.Requantize: _Planner.requantize,
    nodes.Quantize: _Planner.pointwise,
    nodes.Add: _Planner.add,
    nodes.Multiply: _Planner.add,
    nodes.Normalize: _Planner.normalize,
    nodes.Softmax: _Planner.softmax,
    nodes.Product: _Planner.multiply_values,
    nodes.Concat: _Planner.concat,
    nodes.Take: _Planner.take,
    nodes.Pad: _Planner.pad,
    nodes.Move: _Planner.view,
}


def _rows(node: Any) -> np.ndarray:
    """(O, K): signs as bool, real weights as float64 integers on their grids."""
    if isinstance(node, OneBitWeights):
        return np.asarray(node.rows > 0)
    return on_grid(node.weight)[0].astype(np.float64)


def _in_words(node: Any) -> bool:
    """Whether each group of a convolution reads whole words of signs."""
    return bool(getattr(node, "groups", 1) == 1 or node.group_channels % WORD == 0)


def _taps(rows: Axis, columns: Axis) -> dict[str, Any]:
    """The fields of a call that slides a window."""
    down, across = rows.taps.shape[1], columns.taps.shape[1]
    return {"rows": rows.taps, "columns": columns.taps, "taps_down": down, "taps_across": across}
