"""Rounding to low-bit integers as ONNX nodes: exact sums of integers in float64, and one rounding."""

from __future__ import annotations

from math import prod

import numpy as np

from onebit.export.onnx.exactness import fits_byte, zero_point
from onebit.export.onnx.graph import QONNX_DOMAIN, Graph
from onebit.packed import Quantize, Requantize
from onebit.packed.nodes.rounding import EXACT_LIMIT


def write_requantize(graph: Graph, node: Requantize) -> str:
    """Write the sum of inputs · multipliers / 2^shift and offset / 2^shift, which is exact in float64."""
    made = graph.values[graph.current]
    code = graph.integers and fits_byte(made) and not _is_wide(graph, node)
    offset = node.offset + (zero_point(made) << node.right_shift) if code else node.offset
    terms = []
    for source, row in zip(node.inputs, node.multiplier.astype(np.int64), strict=True):
        factor, zero = graph.coding(source)
        offset = offset - row * zero
        terms.append((_wide(graph, source), _shifted(row * factor, node)))
    # a multiplier that all channels share, as shortcuts have, is left to Mul
    terms.sort(key=lambda term: bool((term[1] == term[1][0]).all()))
    total = _affine(graph, *terms[0], _shifted(offset, node))
    for index, (tensor, row) in enumerate(terms[1:], 1):
        row = row[:1] if (row == row[0]).all() else row
        total = graph.add("Add", graph.add("Mul", tensor, graph.per_channel(row, f"multiplier{index}")), total)
    if code:  # nothing is negative, so the Cast, which truncates, is the floor
        total = _clip(graph, total, 0, made.limits[1] + zero_point(made) + 0.5, np.float64)
        graph.cast(total, np.uint8)
        return "code"
    total = _clip(graph, graph.add("Floor", total), node.least, node.most, np.float64)
    total = graph.cast(total, np.float32)
    if graph.marks:
        _mark(graph, node, total)
    return "float"


def _wide(graph: Graph, source: str) -> str:
    """An input in float64.

    onnxruntime computes QLinearConv with channels last, and moves its transpose past the operations that follow, where
    float64 has eight times as many bytes. A Reshape, which is free, prevents that.
    """
    form, shape = graph.natural(source), graph.values[source].shape
    tensor = graph.get(source, form)
    if form != "code" or source not in graph.written or len(shape) < 2 or graph.marks or graph.free:
        return graph.cast(tensor, np.float64)
    flat = graph.add("Reshape", tensor, graph.shape(0, 0, prod(shape[1:])))
    return graph.add("Reshape", graph.cast(flat, np.float64), graph.shape(0, *shape))


def _affine(graph: Graph, tensor: str, scale: np.ndarray, shift: np.ndarray) -> str:
    """scale · x + shift in float64: a BatchNormalization of mean 0 and variance 1, which is one pass."""
    if graph.marks:  # QONNX tools take a BatchNormalization for a layer of the net
        tensor = graph.add("Mul", tensor, graph.per_channel(scale, "multiplier0"))
        return graph.add("Add", tensor, graph.per_channel(shift, "offset"))
    moments = (graph.filled(number, len(shift), np.float64) for number in (0, 1))
    numbers = graph.constant(scale, f"{graph.current}/multiplier0"), graph.constant(shift, f"{graph.current}/offset")
    return graph.add("BatchNormalization", tensor, *numbers, *moments, epsilon=0.0)


def _is_wide(graph: Graph, node: Requantize) -> bool:
    """Whether the numbers before the division, with the zero point of the result, may exceed what float64 holds."""
    reach = node.reach(*(graph.values[source] for source in node.inputs)).max()
    # multiplier · code is up to twice as large as multiplier · value
    return bool(2 * reach + zero_point(graph.values[graph.current]) * 2.0**node.right_shift > 2 * EXACT_LIMIT)


def _shifted(numbers: np.ndarray, node: Requantize) -> np.ndarray:
    return np.ldexp(numbers.astype(np.float64), -node.right_shift)


def write_quantize(graph: Graph, node: Quantize) -> str:
    """Write a Clip to integer ends, and a Round, which rounds halves to even integers."""
    made = graph.values[graph.current]
    tensor = graph.add("Round", _clip(graph, graph.get(node.inputs[0], "float"), node.least, node.most, np.float32))
    if graph.marks:
        _mark(graph, node, tensor)
    if not (graph.integers and fits_byte(made)):
        return "float"
    if zero := zero_point(made):
        tensor = graph.add("Add", tensor, graph.number(zero, np.float32))
    graph.cast(tensor, np.uint8)
    return "code"


def _clip(graph: Graph, tensor: str, low: float, high: float, dtype: type) -> str:
    return graph.add("Clip", tensor, *(graph.number(end, dtype) for end in (low, high)))


def _mark(graph: Graph, node: Requantize | Quantize, tensor: str) -> None:
    """Append QONNX's Quant, which tells tools the number of bits and changes no integer."""
    signed = node.least < 0
    bits = max((-node.least - 1).bit_length(), node.most.bit_length()) + signed
    numbers = (graph.number(number, np.float32) for number in (1, 0, bits))
    graph.add("Quant", tensor, *numbers, domain=QONNX_DOMAIN, signed=int(signed), narrow=0, rounding_mode="ROUND")
