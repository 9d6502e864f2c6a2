"""Stages of dense layers and convolutions."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from onebit.errors import UsageError
from onebit.export.c.pointwise import Pointwise
from onebit.export.c.stages import index, real
from onebit.export.c.values import BITS, LOADS, RANGES, Stored, plain
from onebit.packed import Node, OneBitWeights, PackedNet, Value, nodes
from onebit.packed.grid import GRID_BITS, MAX_EXACT_TERMS, on_grid
from onebit.packed.net import only_readers

PART = 96
"""Inputs that are multiplied at once, as in kernels.h."""
PAIR_PART = 256
"""The same for two pixels at once."""
ROWS_PER_WORD = 8
"""Outputs whose weights share a word, for two pixels at once."""


class Product(NamedTuple):
    """A layer of weights; C expressions are those of group g.

    first: index of its first input; rows: its weights; outputs: number of its sums; at: their offset from group 0.
    """

    node: Any
    source: Stored
    padding: int
    groups: int
    outputs: int
    first: str
    rows: str
    at: str


class Products(Pointwise):
    """Products of inputs and rows of weights."""

    def matmul(self, node: Any) -> None:
        (name,) = node.inputs
        made, groups = self.values[node.output], getattr(node, "groups", 1)
        one_bit, dense = isinstance(node, OneBitWeights), isinstance(node, nodes.DenseLayer)
        rows = self.rows_of(node)
        source, rows = self.column_of(name, rows) if dense else (self.even(name, axes=True), rows)
        if not one_bit and source.bound is not None and source.bound > 2**GRID_BITS:
            source = self.copied(source, name, real=True)
        if source.bound is None and not self.covers(source):  # the grid depends on all numbers in the memory
            source = self.copied(source, name)
        stage = self.begin(node.output, made, self.title(node))
        stage.keeps.append(source)
        pairs = one_bit and self.has_pairs(node, source)
        stored = words_of(rows) if pairs else np.packbits(rows > 0, axis=1, bitorder="little") if one_bit else rows
        weights = self.array("signs" if one_bit else "weights", stored)
        if not dense:
            self.window(node, source, node.group_channels)
        padding, outputs, first, at = getattr(node, "padding_value", 0), node.outputs // groups, str(source.first), ""
        if groups > 1:
            steps = source.steps() or ()
            first, at = index(source.first, [("g", steps[0] * node.group_channels)]), f" + {outputs} * g"
            weights += f" + {stored.size // groups} * g"
        product = Product(node, source, padding, groups, outputs, first, weights, at)
        if takes_signs(node, source):
            self.sign_products(product)
            if name in self.levels:
                self.level_products(product)
        elif dense and one_bit and source.bound is None and source.is_words and node.centre is None:
            stage.channel_bytes = 8
            self.line(f"dense({self.pointer(source)}, {node.terms}, {weights}, {outputs}, x);")
            stage.current = Value(made.shape, "real")
        elif pairs:
            self.pair_products(product)
        else:
            self.part_products(product)
        if groups > 1:
            stage.body = [f"for (int32_t g = 0; g < {groups}; g++) {{", *stage.body, "}"]
        if stage.pairs:
            stage.body = ["if (j % 2 == 0) {", *stage.body, "}", f"value_t *x = pair + {stage.channels} * (j % 2);"]
        self.scaled(product)

    def sign_products(self, product: Product) -> None:
        """Add lines for sums of signs with rows of signs, 32 at once."""
        node, source, padding, _, outputs, first, rows, at = product
        pointer, size = self.pointer(source), -(-node.terms // 8)
        self.stage.current = Value(self.stage.current.shape, "integer", node.terms)
        kernel = "signs_dot(column"
        if isinstance(node, nodes.DenseLayer):
            shifted = f"(const uint8_t *){pointer} + {source.first // 8}" if source.first else pointer
            kernel = f"signs_dot({shifted}"
        else:
            for name in ("column", "inside"):
                self.declare(f"uint8_t *{name} = {self.scratch(size)};")
            outside = 255 if padding > 0 else 0
            self.line(f"gather_signs(&window, {pointer}, {first}, i, j, {outside}, column, inside);")
            if any(node.padding) and not padding:
                kernel = "signs_dot_inside(column, inside"
        self.line(f"{kernel}, {node.terms}, {rows}, {outputs}, x{at});")

    def affine(self, node: nodes.Affine) -> None:
        """Keep two levels as signs if only layers of one-bit weights read them, which multiply them as signs."""
        (name,) = node.inputs
        alone = self.values[name].kind == "sign" and node.output not in self.net.outputs
        levels, source = node.levels() if alone else None, self.stored.get(name) or plain(self.values[name], 0)
        reads = self.readers[node.output]
        taken = all(takes_signs(other, source) and not getattr(other, "padding_value", 0) for other in reads)
        if levels is None or not source.is_plain or not taken:
            self.pointwise(node)
            return
        self.stored[node.output], self.levels[node.output] = self.value(name), levels

    def level_products(self, product: Product) -> None:
        """Add lines that turn sums of signs into sums of their levels."""
        node, source, _, _, outputs, _, rows, at = product
        low, high = self.levels[node.inputs[0]]
        weight_sums = self.array("sums", self.rows_of(node).sum(axis=1, dtype=np.int32)) + at
        count = prod(source.shape)  # its memory may have more
        self.declare(f"const levels_t levels = levels_of({self.pointer(source)}, {count}, {real(low)}, {real(high)});")
        if any(getattr(node, "padding", ())):
            self.row("int32_t *weight_sums", 4 * outputs)
            self.line(f"sums_inside(inside, {node.terms}, {rows}, {outputs}, {weight_sums}, weight_sums);")
            weight_sums = "weight_sums"
        self.line(f"levels_real(x{at}, {outputs}, &levels, {weight_sums});")
        self.stage.current = Value(self.stage.current.shape, "real")

    def has_pairs(self, node: Any, source: Stored) -> bool:
        """Whether two windows can be summed at once: their numbers are bytes."""
        if not isinstance(node, nodes.Conv) or node.centre is not None or self.stage.current.shape[2] < 2:
            return False
        least, most = RANGES[source.form] if BITS.get(source.form) == 8 else (1, 0)
        return node.outputs // node.groups % ROWS_PER_WORD == 0 and least <= node.padding_value <= most

    def pair_products(self, product: Product) -> None:
        """Add lines for sums of the bytes of two windows with rows of weights."""
        node, source, padding, _, outputs, first, words, at = product
        stage, terms, fours = self.stage, node.terms, -(-node.terms // 4)
        stage.pairs = True
        self.declare(f"value_t *column = {self.scratch(16 * fours)};")
        stage.head += [f"column[{k}].i = 0;" for k in range(terms, 4 * fours)]
        self.declare(f"value_t *choices = {self.scratch(64 * min(fours, PAIR_PART // 4))};")
        self.declare(f"const uint8_t outside = {padding % 256};")
        flip = 128 if source.form == "small" else 0
        given = f"{self.pointer(source)}, {first}, i, j, &outside, {_kept(node, 2)}, {flip}, column"
        self.line(f"gather_pair(&window, {given});")
        k, column = ("k", "column + k") if terms > PAIR_PART else ("0", "column")
        given = f"{column}, {k}, {terms}, {words}, {outputs}, {stage.channels}, {flip}, choices, pair{at}"
        stage.body += _in_parts([f"one_bit_pair({given});"], terms, "PAIR_PART", PAIR_PART)
        stage.current = self.sums_of(product)

    def sums_of(self, product: Product) -> Value:
        """Bounds of sums of integers."""
        bound = product.node.terms * max(product.source.bound or 0, abs(product.padding))
        return Value(self.stage.current.shape, "integer", bound)

    def part_products(self, product: Product) -> None:
        """Add lines for sums of the inputs, or of their integers on a grid, with rows of weights, part by part."""
        node, source, padding, groups, outputs, _, rows, at = product
        stage, terms = self.stage, node.terms
        one_bit, on_a_grid = isinstance(node, OneBitWeights), source.bound is None
        wide = on_a_grid or not one_bit
        if on_a_grid:
            cast = "(const value_t *)" if source.memory is None else ""
            given = f"{cast}{self.pointer(source)}, {self.size_of(source)}, {real(abs(padding))}"
            self.declare(f"const grid_t grid = grid_of({given});")
        if isinstance(node, nodes.DenseLayer):
            column, inner = self.column_part(node, source)
        else:
            self.gather(product)
            column, inner = "column" + " + k" * (terms > PART), []
        kernel = "one_bit" + "_wide" * wide if one_bit else "products"
        sums = f"(wide_t *)x{at}" if wide else f"x{at}"
        inner.append(f"{kernel}({column}, {'k' if terms > PART else 0}, {terms}, {rows}, {outputs}, {sums});")
        centered = one_bit and node.centre is not None
        if centered:
            self.declare(f"float input_sums[{groups}];")
            stage.body.insert(0, "int64_t total = 0;")
            inner.append(f"total += total_of({column}, {_count(terms)});")
        stage.body += _in_parts(inner, terms, "PART", PART)
        if centered:
            unit = " * grid.unit" if on_a_grid else ""
            self.line(f"input_sums[{'g' if groups > 1 else 0}] = (float)total{unit};")
        if wide:
            stage.channel_bytes = 8
            unit = "grid.unit" if on_a_grid else real(1)
            self.line(f"{'grid_real' if one_bit else 'wide_real'}({sums}, {outputs}, {unit}, x{at});")
        stage.current = Value(stage.current.shape, "real") if wide else self.sums_of(product)

    def column_part(self, node: Any, source: Stored) -> tuple[str, list[str]]:
        """C expression of a part of the inputs of a dense layer, and the lines that load it."""
        pointer, count = self.pointer(source), _count(node.terms)
        at = index(source.first, [("k", source.step or 0)] if node.terms > PART else [])
        part, lines = "part", []
        if source.is_words:
            part = f"(value_t *){pointer}" + (f" + {at}" if at != "0" else "")
        else:
            lines.append(f"{LOADS[source.form]}({pointer}, {at}, {source.step}, {count}, part);")
        if source.bound is None:
            lines.append(f"to_grid({part}, {count}, grid.power, part);")
            part = "part"
        return part, lines

    def gather(self, product: Product) -> None:
        """Add the line that gathers the inputs under a window."""
        node, source, padding = product.node, product.source, product.padding
        self.declare(f"value_t *column = {self.scratch(4 * node.terms)};")
        given = f"&window, {LOADS[source.form]}, {self.pointer(source)}, {product.first}, i, j"
        if isinstance(node, nodes.Transposed):
            rounded = f", to_grid(column, {node.terms}, grid.power, column)" * (source.bound is None)
            self.line(f"gather_transposed({given}, column){rounded};")
            return
        value = str(padding)
        if padding and source.bound is None:
            value = f"grid.power > 0 ? rounded({real(padding)} * grid.power) : 0"
        self.declare(f"const value_t outside = {{{value}}};")
        kept = _kept(node, 1) if self.stage.current.shape[2] > 1 else "0"
        kernel, power = ("gather_grid", "grid.power, ") if source.bound is None else ("gather", "")
        self.line(f"{kernel}({given}, outside, {kept}, {power}column);")

    def scaled(self, product: Product) -> None:
        """Add lines that scale and center the sums."""
        node, count = product.node, self.stage.channels
        if not isinstance(node, OneBitWeights):
            self.line(f"scale_by(x, {count}, {self.array('units', on_grid(node.weight)[1])});")
            return
        if node.scale is not None or node.centre is not None:
            self.as_real()
        if node.scale is not None:
            self.line(f"scale_by(x, {count}, {self.array('scale', node.scale)});")
        if node.centre is not None:
            center, at = self.array("center", node.centre), product.at
            if at:
                self.line(f"for (int32_t g = 0; g < {product.groups}; g++)")
            total = f"input_sums[{'g' if at else 0}]"
            self.line(f"center(x{at}, {product.outputs}, {total}, {center}{at});")

    def covers(self, source: Stored) -> bool:
        """Whether a value has all numbers in its memory."""
        return prod(count for axis in source.axes for count, step in axis if step) == self.size_of(source)

    def size_of(self, source: Stored) -> int:
        """The number of elements in the memory of a value."""
        return source.memory.count if source.memory is not None else self.input_size

    def rows_of(self, node: Any) -> np.ndarray:
        """(O, K): weights as ±1, or as integers on their grids."""
        if isinstance(node, OneBitWeights):
            return node.rows
        if node.terms > MAX_EXACT_TERMS:
            raise UsageError(
                f"--to c takes at most {MAX_EXACT_TERMS:,} real weights per output, {node.output!r} has {node.terms:,}"
            )
        return on_grid(node.weight)[0].astype(np.int32)

    def column_of(self, name: str, rows: np.ndarray) -> tuple[Stored, np.ndarray]:
        """A vector with evenly spaced numbers, and the weights in its order."""
        source = self.value(name)
        if source.step is not None:
            return source, rows
        offsets = np.zeros(1, np.int64)
        for size, step in source.axes[0]:
            offsets = np.add.outer(offsets, np.arange(size) * step).reshape(-1)
        order = np.argsort(offsets, kind="stable")
        if (np.diff(offsets[order]) == 1).all():
            first = source.first + int(offsets[order[0]])
            return replace(source, first=first, axes=(((offsets.size, 1),),)), rows[:, order]
        return self.copied(source, name), rows


def sums_last(net: PackedNet) -> PackedNet:
    """The same net with sums right before the only `requantize` that reads them: they need no memory."""
    alone = only_readers(net)
    waiting: dict[str, Node] = {}
    order: list[Node] = []
    for node in net.nodes:
        if isinstance(node, OneBitWeights) and isinstance(alone.get(node.output), nodes.Requantize):
            waiting[node.output] = node
            continue
        order += [waiting.pop(name) for name in node.inputs if name in waiting]
        order.append(node)
    return replace(net, nodes=tuple(order))


def takes_signs(node: Node, source: Stored) -> bool:
    """Whether a node multiplies rows of signs by signs that take whole bytes of each pixel."""
    if not isinstance(node, OneBitWeights) or node.centre is not None or source.form != "signs":
        return False
    if isinstance(node, nodes.Dense):
        return source.step == 1 and source.first % 8 == 0 and node.terms % 8 == 0
    steps = source.steps()
    if steps is None or not isinstance(node, nodes.Conv) or node.group_channels % 8 or steps[0] != 1:
        return False
    return not any(number % 8 for number in (source.first, *steps[1:]))


def words_of(rows: np.ndarray) -> np.ndarray:
    """(O/8, K/4) uint32: 4 bits of each of 8 rows (O, K) of signs; the lowest are those of the first row."""
    outputs, terms = rows.shape
    fours = np.zeros((outputs, -(-terms // 4) * 4), np.uint32)
    fours[:, :terms] = rows > 0
    bits = fours.reshape(outputs // ROWS_PER_WORD, ROWS_PER_WORD, -1, 4) << np.arange(4, dtype=np.uint32)
    return np.bitwise_or.reduce(bits.sum(axis=3, dtype=np.uint32) << 4 * np.arange(8, dtype=np.uint32)[:, None], axis=1)


def _count(terms: int) -> str:
    """C expression of the number of inputs in a part."""
    return f"part_size({terms}, k)" if terms > PART else str(terms)


def _in_parts(lines: list[str], terms: int, name: str, size: int) -> list[str]:
    """Lines in a loop over parts of the inputs, if there are several; `name` is the C name of `size`."""
    return [f"for (int32_t k = 0; k < {terms}; k += {name}) {{", *lines, "}"] if terms > size else lines


def _kept(node: Any, windows: int) -> str:
    """C expression of the number of columns that a window shares with the one to its left."""
    shared = node.kernel[1] - windows * node.stride[1] if node.groups == 1 and node.dilation[1] == 1 else 0
    return f"j ? {shared} : 0" if shared > 0 else "0"
