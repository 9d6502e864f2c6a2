"""Which values are exact, and for which of them the bits matter.

A packed net computes an affine map in float64 and rounds once. A graph for onnxruntime does so only if the bits matter:
its inputs are exact, and its result is an output, or is turned into signs or integers. Otherwise float32 is faster,
because onnxruntime merges the map with the convolution before it.
"""

from __future__ import annotations

from math import prod

from onebit.packed import Node, OneBitWeights, PackedNet, Value, nodes
from onebit.packed.grid import FLOAT32_EXACT
from onebit.packed.net import only_readers

MOVES = (nodes.Move, nodes.MaxPool)
"""Operations of one input that work on codes of ±1 as on the numbers."""
SIGNS = (nodes.Sign, nodes.Threshold)


def sum_bound(node: Node, x: Value) -> int:
    """The largest possible magnitude of a node's sums of integers; 0 if it has none."""
    bound = x.bound or 0
    if isinstance(node, OneBitWeights):
        return node.in_features * max(bound, abs(getattr(node, "padding_value", 0)))
    if isinstance(node, nodes.AveragePool):
        return prod(node.kernel) * bound
    if isinstance(node, nodes.AdaptiveAveragePool):
        return prod(x.shape[1:]) * bound
    return 0


def zero_point(value: Value) -> int:
    """The code of 0: 1 for values of ±1, 0 for integers that are not negative."""
    return max(0, -value.limits[0])


def fits_byte(value: Value) -> bool:
    """Whether a value has a code."""
    return value.exact and value.limits[1] + zero_point(value) <= 255


class Uses:
    """Properties of the values of a net that depend on the nodes around them.

    values: shape and kind. exact: values that a graph computes bit for bit. precise: exact values whose bits matter.
    codes: ±1 values that products of integers read as {0, 2}. only_reader: of the name of a value, see `only_readers`.
    """

    def __init__(self, net: PackedNet) -> None:
        self.values = net.values
        self.only_reader = only_readers(net).get
        self.exact = {*net.inputs}
        for node in net.nodes:
            if self._keeps_bits(node):
                self.exact.add(node.output)
        matters, codes = set(net.outputs), set[str]()
        for node in reversed(net.nodes):
            if isinstance(node, (*SIGNS, nodes.Quantize)) or (node.output in matters and node.output in self.exact):
                matters.update(node.inputs)
            moved = isinstance(node, MOVES) and node.output in codes
            if moved or isinstance(node, nodes.Dense) or (isinstance(node, nodes.Conv) and self.conv_to_sign(node)):
                codes.update(node.inputs)
        self.precise = self.exact & matters
        self.codes = codes

    def _keeps_bits(self, node: Node) -> bool:
        inputs = [self.values[name] for name in node.inputs]
        if isinstance(node, (nodes.RealWeights, nodes.Activation, nodes.Normalize, nodes.Softmax, nodes.Product)):
            return False
        if isinstance(node, (nodes.Dense, nodes.AdaptiveAveragePool)):  # double holds the sums
            return inputs[0].exact
        if isinstance(node, (nodes.Conv, nodes.ConvTranspose, nodes.AveragePool)):
            return inputs[0].exact and sum_bound(node, inputs[0]) <= FLOAT32_EXACT
        return all(name in self.exact for name in node.inputs)

    def conv_to_sign(self, node: nodes.Conv) -> tuple[nodes.MaxPool | None, Node] | None:
        """The max pool, if any, and the sign that alone read the sums of a convolution of ±1."""
        if self.values[node.inputs[0]].bound != 1 or not self.values[node.output].exact:
            return None
        pool, after = None, self.only_reader(node.output)
        if isinstance(after, nodes.MaxPool):
            pool, after = after, self.only_reader(after.output)
        return (pool, after) if isinstance(after, SIGNS) else None

    def conv_to_requantize(self, node: nodes.Conv) -> nodes.Requantize | None:
        """The requantization to bytes that alone reads the sums of a convolution of bytes."""
        x, after = self.values[node.inputs[0]], self.only_reader(node.output)
        if not (isinstance(after, nodes.Requantize) and len(after.inputs) == 1):
            return None
        # the border has a code, too
        inside = fits_byte(x) and 0 <= node.padding_value + zero_point(x) <= 255
        return after if inside and fits_byte(self.values[after.output]) else None
