"""Stages of operations on each number."""

from __future__ import annotations

from math import inf

import numpy as np

from onebit.export.c.stages import Stages, index, real
from onebit.export.c.values import LOADS
from onebit.packed import Node, nodes
from onebit.packed.grid import FLOAT32_EXACT
from onebit.packed.net import op_name
from onebit.packed.nodes.node import INT32


class Pointwise(Stages):
    """Operations on each number of a value, or of two values."""

    def pointwise(self, node: Node) -> None:
        (name,) = node.inputs
        stage = self.reading(name, node.output, f"{node.output}: {op_name(node)}")
        count, exact = stage.channels, stage.made.bound is not None
        made, line = self.known[node.output], ""
        if isinstance(node, nodes.Threshold):
            flip = np.where(node.direction > 0, 0, -1).astype(np.int32)
            least = self.array(node.output, "least", node.threshold ^ flip)
            line = f"rising(x, {count}, {least});"
            if flip.any():
                bits = self.array(node.output, "flips", np.packbits(flip != 0, bitorder="little"))
                line = f"threshold(x, {count}, {least}, {bits});"
        elif isinstance(node, nodes.Sign):
            kernel = "sign_integers" if exact else "sign"
            line = f"{kernel}(x, {count});"
            if node.shift is not None:
                shifted = "sign_integers_shifted" if exact else "sign_shifted"
                line = f"{shifted}(x, {count}, {self.array(node.output, 'shift', node.shift)});"
        elif isinstance(node, nodes.Affine):
            if exact and (stage.made.bound or 0) <= FLOAT32_EXACT:
                self.as_real(stage)
                exact = False
            given = [(field, array) for field in ("scale", "shift") if (array := getattr(node, field)) is not None]
            arrays = ", ".join(self.array(node.output, field, array) for field, array in given)
            kernel = ("affine" if len(given) == 2 else given[0][0]) + "_integers" * exact + "_by" * (len(given) == 1)
            line = f"{kernel}(x, {count}, {arrays});"
        elif isinstance(node, nodes.Bounded) and made.exact:
            low, high = node.bounds
            line = f"clamp_integers(x, {count}, {low:.0f}, {min(high, INT32.max):.0f});"
        elif isinstance(node, nodes.Quantize):
            kernel = "clamp_integers" if exact else "quantize"
            line = f"{kernel}(x, {count}, {node.least}, {node.most});"
        else:
            self.as_real(stage)
            if isinstance(node, nodes.Prelu):
                line = f"prelu(x, {count}, {self.array(node.output, 'slope', node.slope)});"
            elif isinstance(node, nodes.Relu):
                line = f"relu(x, {count});"
            else:
                assert isinstance(node, nodes.Bounded)
                ends = [real(bound) for bound in node.bounds if abs(bound) < inf]
                kernel = "clamp" if len(ends) == 2 else "at_least" if node.bounds[0] > -inf else "at_most"
                line = f"{kernel}({', '.join(['x', str(count), *ends])});"
        stage.body.append(line)
        stage.made = made

    def requantize(self, node: nodes.Requantize) -> None:
        made = self.known[node.output]
        inputs = list(zip(node.inputs, node.multiplier, strict=True))
        if self.open is not None and self.open.value in node.inputs:  # the value on the way first
            inputs.insert(0, inputs.pop(node.inputs.index(self.open.value)))
        (first, multiplier), *rest = inputs
        others = [(self.even(self.value(name), name), row) for name, row in rest]
        named = ", ".join(name for name, _ in rest)
        stage = self.reading(first, node.output, f"{node.output}: {op_name(node)} {named}".rstrip())
        count, offset = stage.channels, self.array(node.output, "offset", node.offset)
        for other, row in others:
            self.row(stage, "wide_t *totals", 8 * count)
            self.second(stage, count)
            stage.body.append(self.load_pixel(stage, other, "y"))
            stage.body.append(f"weighted(y, {count}, {self.multiplier(node, row)}, {offset}, totals);")
            stage.replaces.append(other)
            offset = "totals"
        given = f"{self.multiplier(node, multiplier)}, {offset}, {node.right_shift}, {node.least}, {node.most}"
        stage.body.append(f"requantize(x, {count}, {given});")
        stage.made = made

    def multiplier(self, node: nodes.Requantize, row: np.ndarray) -> str:
        """C of the multipliers of an input, and of the distance between those of two channels: 0 if all are equal."""
        step = int((row != row[0]).any())
        return f"{self.array(node.output, 'multiplier', row if step else row[:1])}, {step}"

    def combine(self, node: nodes.Add | nodes.Multiply) -> None:
        made = self.known[node.output]
        names = list(node.inputs)
        if self.open is not None and self.open.value == names[1]:
            names.reverse()
        other = self.even(self.value(names[1]), names[1])
        stage = self.reading(names[0], node.output, f"{node.output}: {op_name(node)} {node.inputs[1]}")
        count, exact = stage.channels, made.exact
        if not exact:
            self.as_real(stage)
        y = "y"
        words = (
            LOADS[other.form] == "load_words" and other.step in (0, 1) and (other.bound is None) == (made.bound is None)
        )
        if words:
            at = index(other.first, [(v, s * (other.pixel_step or 0)) for v, s in stage.pixel])
            y = f"(value_t *){self.pointer(other, stage)} + {at}"
        else:
            self.second(stage, count)
            stage.body.append(self.load_pixel(stage, other, "y"))
            if not exact and other.bound is not None:
                stage.body.append(f"real(y, {count});")
        kernel = "multiply" if isinstance(node, nodes.Multiply) else "add" + "_integers" * exact
        stage.body.append(f"{kernel}(x, {y}, {count});")
        stage.replaces.append(other)
        stage.made = made
