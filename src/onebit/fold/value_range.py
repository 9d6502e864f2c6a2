"""The possible integers of the values of a packed net, including their parity."""

from __future__ import annotations

from functools import reduce
from math import prod

from onebit.packed import Add, AveragePool, Concat, Flatten, MaxPool, Node, OneBitWeights, Pad, Permute, Repeat
from onebit.packed import Reshape, Sign, Slice, Threshold
from onebit.packed.nodes import Convolution, Grouped, Transposed, Value

SIGNS = range(-1, 2, 2)


def evenly(most: int, *, odd: bool | None) -> range:
    """The integers from -`most` to `most`: all, or only the odd or even ones."""
    if odd is None:
        return range(-most, most + 1)
    most -= (most + odd) % 2
    return range(-most, most + 1, 2)


def all_odd(numbers: range) -> bool | None:
    """Whether all of them are odd (True) or even (False); None for both."""
    return None if numbers.step == 1 else bool(numbers[0] % 2)


def union(a: range, b: range) -> range:
    """A range around 0 that contains both."""
    same = all_odd(a) if all_odd(a) == all_odd(b) else None
    return evenly(max(a[-1], b[-1]), odd=same)


def range_of(node: Node, made: Value, *inputs: range) -> range:
    """The possible integers of `made`, the output of a node, or a superset; `inputs` are the ranges of its inputs."""
    assert made.bound is not None
    if isinstance(node, (Sign, Threshold)):
        return SIGNS
    if isinstance(node, (Flatten, Reshape, Permute, Repeat, Slice, MaxPool)):
        return inputs[0]
    if isinstance(node, Add):
        a, b = (all_odd(x) for x in inputs)
        return evenly(inputs[0][-1] + inputs[1][-1], odd=None if a is None or b is None else a != b)
    if isinstance(node, Concat):
        return reduce(union, inputs)
    if isinstance(node, Pad):
        return union(inputs[0], evenly(1, odd=True) if node.value else evenly(0, odd=False))
    if isinstance(node, AveragePool):
        odd, area = all_odd(inputs[0]), prod(node.kernel)
        mixed = odd is None or (odd and any(node.padding))
        return evenly(area * inputs[0][-1], odd=None if mixed else bool(odd and area % 2))
    if isinstance(node, OneBitWeights):
        return _sums(node, inputs[0])
    return evenly(made.bound, odd=None)


def _sums(node: OneBitWeights, terms: range) -> range:
    """Sums of ± one number per weight in a row, or of fewer where taps are on a border of zeros."""
    if isinstance(node, Convolution) and any(node.padding) and node.padding_value:
        terms = union(terms, evenly(1, odd=True))
    fewer = isinstance(node, Transposed) or (
        isinstance(node, Convolution) and any(node.padding) and not node.padding_value
    )
    odd = all_odd(terms)
    if odd and fewer and isinstance(node, Grouped) and node.group_channels % 2:
        odd = None  # each tap on the border removes an odd number of odd terms
    return evenly(node.terms * terms[-1], odd=None if odd is None else bool(odd and node.terms % 2))
