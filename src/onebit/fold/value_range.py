"""The possible integers of the values of a packed net: all from -n to n, or only those with the parity of n."""

from __future__ import annotations

from functools import reduce
from math import prod

from onebit.packed import Add, AveragePool, Concat, MaxPool, Node, OneBitWeights, Pad, Sign, Threshold
from onebit.packed.nodes import Convolution, Grouped, Move, Transposed, Value

ZERO, SIGNS = range(0, 1, 2), range(-1, 2, 2)


def _around_0(most: int, step: int) -> range:
    return range(-most, most + 1, step)


def union(a: range, b: range) -> range:
    """A range around 0 that contains both."""
    return _around_0(max(a[-1], b[-1]), 2 if a.step == b.step == 2 and (a[-1] - b[-1]) % 2 == 0 else 1)


def range_of(node: Node, output: Value, *inputs: range) -> range:
    """The possible integers of the `output` of a node, or a superset; `inputs` are those of its inputs."""
    assert output.bound is not None
    if isinstance(node, (Sign, Threshold)):
        return SIGNS
    if isinstance(node, Pad):
        return union(inputs[0], SIGNS if node.value else ZERO)
    if isinstance(node, (Move, MaxPool)):
        return inputs[0]
    if isinstance(node, Concat):
        return reduce(union, inputs)
    if isinstance(node, Add):
        return _around_0(sum(x[-1] for x in inputs), min(x.step for x in inputs))
    if isinstance(node, AveragePool):
        step = 1 if any(node.padding) and inputs[0][-1] % 2 else inputs[0].step
        return _around_0(prod(node.kernel) * inputs[0][-1], step)
    if isinstance(node, OneBitWeights):
        return _sums(node, inputs[0])
    return _around_0(output.bound, 1)


def _sums(node: OneBitWeights, terms: range) -> range:
    """Sums of ± one number per weight in a row; taps on a border of zeros add none."""
    has_zeros = isinstance(node, Transposed)
    if isinstance(node, Convolution) and any(node.padding):
        has_zeros = not node.padding_value
        terms = terms if has_zeros else union(terms, SIGNS)
    # each tap on the border removes an odd number of odd terms
    mixed = has_zeros and terms[-1] % 2 and isinstance(node, Grouped) and node.group_channels % 2
    return _around_0(node.terms * terms[-1], 1 if mixed else terms.step)
