"""The conversion of each operation of an exact net."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import inf, prod

import numpy as np

from onebit.integer.conversion import Conversion, Rule, float64_or, keeps_bounds
from onebit.integer.form import Form
from onebit.packed import Node, nodes
from onebit.packed.bits import pack_signs
from onebit.packed.nodes.node import INT32, SUM_LIMIT

DIRECT = 2**16
"""Weights read integers below it unrounded: those of an image, and sums over small windows."""


def _affine(net: Conversion, node: nodes.Affine, x: Form) -> Form:
    if not keeps_bounds(node):
        x = net.unbounded(node.inputs[0])
    scale, shift = net.numbers.get(node.output, (node.scale, node.shift))
    return x.scaled(float64_or(scale, 1.0), float64_or(shift, 0.0))


def _threshold(net: Conversion, node: nodes.Threshold, x: Form) -> Form:
    at = node.threshold.astype(np.float64)
    at[node.threshold == INT32.min], at[node.threshold == INT32.max] = -inf, inf  # always +1, or never
    return _signs(net, node, x, at, node.direction.astype(np.float64))


def _sign(net: Conversion, node: nodes.Sign, x: Form) -> Form:
    return _signs(net, node, x, float64_or(node.shift, 0.0) + np.zeros_like(x.shift), np.ones_like(x.shift))


def _signs(net: Conversion, node: Node, x: Form, at: np.ndarray, direction: np.ndarray) -> Form:
    """+1 where direction · x >= direction · at: a threshold of integers, or else a sign of real values."""
    if x.term is None or not net.values[x.term[0]].exact:
        shift = np.clip(-direction * at, -(2.0**32), 2.0**32)
        form = net.unbounded(node.inputs[0]).scaled(direction, shift)
        value = net.computed(f"{node.output[:80]}.scaled", form)
        return Form.of(net.emit(nodes.Sign, node.output, value), len(x.shift))
    value, scale = x.term
    ahead = np.where(direction * scale >= 0, 1, -1)
    slope, least = np.abs(scale), direction * (at - x.shift)  # slope · (ahead · value) >= least
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.ceil(np.where(slope == 0, np.where(least <= 0, -inf, inf), least / slope))
        # division rounds: the products that the net compares decide
        first = np.where(slope * first < least, first + 1, first)
        first = np.where(slope * (first - 1) >= least, first - 1, first)
    threshold = np.clip(ahead * first, INT32.min, INT32.max).astype(np.int32)
    fields = {"threshold": threshold, "direction": ahead.astype(np.int8)}
    return Form.of(net.emit(nodes.Threshold, node.output, value, **fields), len(x.shift))


def _one_bit(net: Conversion, node: nodes.OneBitWeights, x: Form) -> Form:
    value, _ = net.plain(node.inputs[0])
    large = node.terms * (net.values[value].bound or 0) > SUM_LIMIT
    value, step = net.plain(node.inputs[0], scaled=not (large or _has_border(node)))
    sums = net.append_changed(node, value, scale=None, centre=None)
    terms = {sums: step * float64_or(node.scale, 1.0) * np.ones(node.outputs)}
    if node.centre is not None:
        groups = getattr(node, "groups", 1)
        ones = pack_signs(np.ones((groups, node.terms), np.int8))
        whole = net.append(
            replace(
                node, inputs=(value,), output=net.free(f"{node.output[:80]}.sum"), signs=ones, scale=None, centre=None
            )
        )
        times = (node.outputs // groups, *[1] * (len(net.values[whole].shape) - 1))
        whole = net.emit(nodes.Repeat, f"{node.output[:80]}.sums", whole, times=times)
        terms[whole] = step * node.centre.astype(np.float64)
    return Form(terms, np.zeros(node.outputs))


def _has_border(node: Node) -> bool:
    """Whether it pads with ±1."""
    return bool(getattr(node, "padding_value", False)) and any(getattr(node, "padding", ()))


def _real_weights(net: Conversion, node: nodes.RealWeights, x: Form) -> Form:
    value, step = net.plain(node.inputs[0], scaled=not _has_border(node))
    return Form.of(net.append_changed(node, value), node.outputs, step)


def _moved(net: Conversion, node: Node, x: Form) -> Form:
    """Operations that move or choose elements."""
    # a border of ±1 is not a multiple of the step, and a single number has no channels to be scaled
    scaled = not getattr(node, "value", False) and net.known[node.output].shape != ()
    value, step = net.plain(node.inputs[0], scaled=scaled)
    made = net.append_changed(node, value)
    if value in net.origin:
        net.origin[made] = net.origin[value]
    return Form.of(made, net.channels(node.output), step)


def _concat(net: Conversion, node: nodes.Concat, *inputs: Form) -> Form:
    parts = [net.plain(name) for name in node.inputs]
    origins = [net.origin[value] for value, _ in parts if value in net.origin]
    net.joined += pairwise(origins)
    made = net.append_changed(node, *(value for value, _ in parts))
    if len(origins) == len(parts):
        net.origin[made] = origins[0]
    steps = [np.full(len(x.shift), step) for x, (_, step) in zip(inputs, parts, strict=True)]
    return Form({made: np.concatenate(steps)}, np.zeros(net.channels(node.output)))


def _average_pool(net: Conversion, node: nodes.AveragePool, x: Form) -> Form:
    if not net.pools(node, x):
        return Form.of(net.append_changed(node, net.real(node.inputs[0])), len(x.shift))
    assert x.term is not None
    value, scale = x.term
    pixels = prod(node.kernel)
    if net.values[value].exact and (node.sums or node.count_padding or not any(node.padding)):
        made = net.append_changed(node, value, sums=1, count_padding=0)
        scale = scale if node.sums else scale / pixels
    else:
        made = net.append_changed(node, value)
    return Form({made: scale}, x.shift * pixels if node.sums else x.shift)


def _adaptive(net: Conversion, node: nodes.AdaptiveAveragePool, x: Form) -> Form:
    same = net.pool_of(node)
    if same is not None and net.pools(same, x) and x.term is not None and net.values[x.term[0]].exact:
        return _average_pool(net, same, x)
    return Form.of(net.append_changed(node, net.real(node.inputs[0])), len(x.shift))


def _as_real(net: Conversion, node: Node, *inputs: Form) -> Form:
    """An operation on real values."""
    return Form.of(net.append_changed(node, *(net.real(name) for name in node.inputs)), net.channels(node.output))


def _requantize(net: Conversion, node: nodes.Requantize, *inputs: Form) -> Form:
    plain = [x.plain for x in inputs if x.plain is not None and x.plain[1] == 1 and net.values[x.plain[0]].exact]
    if len(plain) == len(inputs):
        return Form.of(net.append_changed(node, *(value for value, _ in plain)), len(node.offset))
    unit = 2.0**-node.right_shift
    total = Form({}, node.offset * unit - 0.5)
    for name, multiplier in zip(node.inputs, node.multiplier, strict=True):
        total = total.plus(net.unbounded(name).scaled(multiplier * unit, np.zeros(1)))
    return net.rounded(node.output, total, 1.0, node.least, node.most)


def _add(net: Conversion, node: nodes.Add, *_: Form) -> Form:
    return net.unbounded(node.inputs[0]).plus(net.unbounded(node.inputs[1]))


def _multiplied(net: Conversion, node: nodes.OneBitWeights, x: Form) -> bool:
    bound = net.values[x.plain[0]].bound if x.plain else None
    return bound is not None and bound < DIRECT and node.terms * bound <= SUM_LIMIT


def _pooled(net: Conversion, node: nodes.AdaptiveAveragePool, x: Form) -> bool:
    same = net.pool_of(node)
    return same is None or net.pools(same, x)


def _unclipped(net: Conversion, node: Node, x: Form) -> bool:
    return not x.clipped


def _plain(net: Conversion, node: Node, x: Form) -> bool:
    # of a border of ±1, which is not a multiple of a step, only the result is rounded
    return x.plain is not None or bool(getattr(node, "value", False))


CONVERSIONS: dict[type, Rule] = {
    Node: Rule(_as_real),
    nodes.OneBitWeights: Rule(_one_bit, _multiplied),
    nodes.RealWeights: Rule(_real_weights),
    nodes.Move: Rule(_moved, _plain),
    nodes.MaxPool: Rule(_moved, _plain),
    nodes.AveragePool: Rule(_average_pool, Conversion.pools),
    nodes.AdaptiveAveragePool: Rule(_adaptive, _pooled),
    nodes.Affine: Rule(_affine, lambda net, node, x: not x.clipped or keeps_bounds(node)),
    nodes.Threshold: Rule(_threshold),
    nodes.Sign: Rule(_sign),
    nodes.Bounded: Rule(lambda net, node, x: x.between(*node.bounds)),
    nodes.Add: Rule(_add, _unclipped, adds=True),
    nodes.Concat: Rule(_concat, _plain),
    nodes.Requantize: Rule(_requantize, _unclipped),
    nodes.Quantize: Rule(lambda net, node, x: net.rounded(node.output, x, 1.0, node.least, node.most)),
}
"""Class of operations -> its rule."""
