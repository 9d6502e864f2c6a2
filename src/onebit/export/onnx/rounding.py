"""Integers of few bits as ONNX nodes: sums of integers in float64, which are exact, and one rounding."""

from __future__ import annotations

from math import prod

import numpy as np

from onebit.export.onnx.exactness import fits_byte, zero_point
from onebit.export.onnx.graph import QONNX_DOMAIN, Graph
from onebit.packed import Quantize, Requantize
from onebit.packed.nodes.rounding import EXACT_LIMIT


def write_requantize(to: Graph, node: Requantize) -> str:
    """The inputs times multipliers / 2^shift, and offset / 2^shift, added up in float64: no bit is lost."""
    made = to.values[to.of]
    code = to.integers and fits_byte(made) and not _is_wide(to, node)
    offset = node.offset + (zero_point(made) << node.right_shift) if code else node.offset
    terms = []
    for source, row in zip(node.inputs, node.multiplier.astype(np.int64), strict=True):
        factor, zero = to.coding(source)
        offset = offset - row * zero
        terms.append((_wide(to, source), _shifted(row * factor, node)))
    # one multiplier for all channels, as of shortcuts, is left to Mul
    terms.sort(key=lambda term: bool((term[1] == term[1][0]).all()))
    total = _affine(to, *terms[0], _shifted(offset, node))
    for index, (tensor, row) in enumerate(terms[1:], 1):
        row = row[:1] if (row == row[0]).all() else row
        total = to.add("Add", to.add("Mul", tensor, to.per_channel(row, f"multiplier{index}")), total)
    if code:  # nothing is negative, so that the Cast, which cuts the fraction off, is the floor
        total = _clip(to, total, 0, made.limits[1] + zero_point(made) + 0.5, np.float64)
        to.cast(total, np.uint8)
        return "code"
    total = _clip(to, to.add("Floor", total), node.least, node.most, np.float64)
    total = to.cast(total, np.float32)
    if to.marks:
        _mark(to, node, total)
    return "float"


def _wide(to: Graph, source: str) -> str:
    """An input in float64.

    onnxruntime has the channels of what QLinearConv gives in the last axis, and moves them back behind the operations
    that follow: of float64, eight times as many bytes. It does not look behind a Reshape, which costs nothing.
    """
    form, shape = to.natural(source), to.values[source].shape
    tensor = to.get(source, form)
    if form != "code" or source not in to.written or len(shape) < 2 or to.marks:
        return to.cast(tensor, np.float64)
    flat = to.add("Reshape", tensor, to.shape(0, 0, prod(shape[1:])))
    return to.add("Reshape", to.cast(flat, np.float64), to.shape(0, *shape))


def _affine(to: Graph, tensor: str, scale: np.ndarray, shift: np.ndarray) -> str:
    """scale · x + shift in float64: a BatchNormalization of mean 0 and variance 1, which is one pass."""
    if to.marks:  # whose tools treat a BatchNormalization as one of the net
        tensor = to.add("Mul", tensor, to.per_channel(scale, "multiplier0"))
        return to.add("Add", tensor, to.per_channel(shift, "offset"))
    moments = (to.filled(number, len(shift), np.float64) for number in (0, 1))
    numbers = to.constant(scale, f"{to.of}/multiplier0"), to.constant(shift, f"{to.of}/offset")
    return to.add("BatchNormalization", tensor, *numbers, *moments, epsilon=0.0)


def _is_wide(to: Graph, node: Requantize) -> bool:
    """Whether the numbers before the division may be beyond float64 with the zero point of the result added."""
    reach = node.reach(*(to.values[source] for source in node.inputs)).max()
    # a multiplier times a byte that has a zero point is up to twice as large as times the value of that byte
    return bool(2 * reach + zero_point(to.values[to.of]) * 2.0**node.right_shift > 2 * EXACT_LIMIT)


def _shifted(numbers: np.ndarray, node: Requantize) -> np.ndarray:
    return np.ldexp(numbers.astype(np.float64), -node.right_shift)


def write_quantize(to: Graph, node: Quantize) -> str:
    """ONNX's Round, too, takes the even one of two integers. The ends are integers, so that the clip may come first."""
    made = to.values[to.of]
    tensor = to.add("Round", _clip(to, to.get(node.inputs[0], "float"), node.least, node.most, np.float32))
    if to.marks:
        _mark(to, node, tensor)
    if not (to.integers and fits_byte(made)):
        return "float"
    if zero := zero_point(made):
        tensor = to.add("Add", tensor, to.number(zero, np.float32))
    to.cast(tensor, np.uint8)
    return "code"


def _clip(to: Graph, tensor: str, low: float, high: float, dtype: type) -> str:
    return to.add("Clip", tensor, *(to.number(end, dtype) for end in (low, high)))


def _mark(to: Graph, node: Requantize | Quantize, tensor: str) -> None:
    """QONNX's Quant, which changes no integer of its range: tools read from it how many bits the value has."""
    signed = node.least < 0
    bits = max((-node.least - 1).bit_length(), node.most.bit_length()) + signed
    numbers = (to.number(number, np.float32) for number in (1, 0, bits))
    to.add("Quant", tensor, *numbers, domain=QONNX_DOMAIN, signed=int(signed), narrow=0, rounding_mode="ROUND")
