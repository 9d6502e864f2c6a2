"""Stages of elementwise operations."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from onebit.export.c.stages import Stages, real
from onebit.packed import Node, nodes
from onebit.packed.grid import FLOAT32_EXACT
from onebit.packed.net import op_name
from onebit.packed.nodes.node import INT32


class Pointwise(Stages):
    """Elementwise operations on one value or two."""

    def pointwise(self, node: Node) -> None:
        (name,) = node.inputs
        stage = self.reading(name, node.output, f"{node.output}: {op_name(node)}")
        made, field = self.values[node.output], self.array
        exact = isinstance(node, (nodes.Sign, nodes.Threshold, nodes.Quantize)) or made.exact
        if not exact and not (isinstance(node, nodes.Affine) and (stage.current.bound or 0) > FLOAT32_EXACT):
            self.as_real()
        if isinstance(node, nodes.Affine) and node.scale is None and node.shift is None:  # the value itself
            self.as_real()
            stage.current = made
            return
        integers = "_integers" * (stage.current.bound is not None)
        given: list[Any] = []
        if isinstance(node, nodes.Threshold):
            flip = np.where(node.direction > 0, 0, -1).astype(np.int32)
            kernel, given = "rising", [field("least", node.threshold ^ flip)]
            if flip.any():
                kernel = "threshold"
                given.append(field("flips", np.packbits(flip != 0, bitorder="little")))
        elif isinstance(node, nodes.Sign):
            kernel = f"sign{integers}"
            if node.shift is not None:
                kernel, given = f"{kernel}_shifted", [field("shift", node.shift)]
        elif isinstance(node, nodes.Affine):
            arrays = {key: array for key in ("scale", "shift") if (array := getattr(node, key)) is not None}
            kernel = f"affine{integers}" if len(arrays) == 2 else f"{next(iter(arrays))}{integers}_by"
            given = [field(key, array) for key, array in arrays.items()]
        elif isinstance(node, nodes.Quantize):
            kernel, given = "clamp_integers" if integers else "quantize", [node.least, node.most]
        elif isinstance(node, nodes.Prelu):
            kernel, given = "prelu", [field("slope", node.slope)]
        elif isinstance(node, nodes.Activation):
            kernel, given = "activate", [f"{op_name(node)}_of"]
        else:
            assert isinstance(node, nodes.Bounded)
            low, high = node.bounds
            given = [real(bound) for bound in node.bounds if abs(bound) < inf]
            kernel = "clamp" if len(given) == 2 else "at_least" if low > -inf else "at_most"
            if integers:
                kernel, given = "clamp_integers", [f"{low:.0f}", f"{min(high, INT32.max):.0f}"]
            elif isinstance(node, nodes.Relu):
                kernel, given = "relu", []
        self.line(f"{kernel}({', '.join(map(str, ('x', stage.channels, *given)))});")
        stage.current = made

    def requantize(self, node: nodes.Requantize) -> None:
        inputs = list(zip(node.inputs, node.multiplier, strict=True))
        if self.open in node.inputs:  # first the value in `x`
            inputs.insert(0, inputs.pop(node.inputs.index(self.open)))
        (first, multiplier), *rest = inputs
        others = [(self.even(name), row) for name, row in rest]
        named = ", ".join(name for name, _ in rest)
        stage = self.reading(first, node.output, f"{node.output}: {op_name(node)} {named}".rstrip())
        count, offset = stage.channels, self.array("offset", node.offset)
        for other, row in others:
            self.row("wide_t *totals", 8 * count)
            self.second(count)
            self.load_pixel(other, "y")
            self.line(f"weighted(y, {count}, {self.multiplier(row)}, {offset}, totals);")
            stage.replaces.append(other)
            offset = "totals"
        given = f"{self.multiplier(multiplier)}, {offset}, {node.right_shift}, {node.least}, {node.most}"
        self.line(f"requantize(x, {count}, {given});")
        stage.current = self.values[node.output]

    def multiplier(self, row: np.ndarray) -> str:
        """C arguments: the multipliers of an input, and the step between channels, 0 if all are equal."""
        step = int((row != row[0]).any())
        return f"{self.array('multiplier', row if step else row[:1])}, {step}"

    def combine(self, node: nodes.Add | nodes.Multiply) -> None:
        made = self.values[node.output]
        first, second = reversed(node.inputs) if self.open == node.inputs[1] else node.inputs
        other = self.even(second)
        stage = self.reading(first, node.output, f"{node.output}: {op_name(node)} {node.inputs[1]}")
        count, exact = stage.channels, made.exact
        if not exact:
            self.as_real()
        if other.is_words and (other.bound is None) != exact:
            y = f"(value_t *){self.pointer(other)} + {self.pixel_of(other)}"
        else:
            y = "y"
            self.second(count)
            self.load_pixel(other, y)
            if not exact and other.bound is not None:
                self.line(f"real(y, {count});")
        kernel = "multiply" if isinstance(node, nodes.Multiply) else "add" + "_integers" * exact
        self.line(f"{kernel}(x, {y}, {count});")
        stage.replaces.append(other)
        stage.current = made
