"""Integers of few bits as ONNX nodes: sums of integers in float64, which are exact, and one rounding."""

from __future__ import annotations

from math import prod

import numpy as np

from onebit.export.onnx.exactness import fits_byte, zero_point
from onebit.export.onnx.graph import QONNX_DOMAIN
from onebit.export.onnx.values import Values
from onebit.packed import Quantize, Requantize
from onebit.packed.nodes.rounding import EXACT_LIMIT


def write_requantize(to: Values, node: Requantize) -> None:
    """The inputs times multipliers / 2^shift, and offset / 2^shift, added up in float64: no bit is lost."""
    name, made = node.output, to.values[node.output]
    code = to.integers and fits_byte(made) and not _is_wide(to, node)
    offset = node.offset + (zero_point(made) << node.right_shift) if code else node.offset
    terms = []
    for source, row in zip(node.inputs, node.multiplier.astype(np.int64), strict=True):
        form = to.natural(source)
        factor, zero = to.coding(source, form)
        offset = offset - row * zero
        terms.append((_wide(to, source, form, of=name), _shifted(row * factor, node)))
    # one multiplier for all channels, as of shortcuts, is left to Mul
    terms.sort(key=lambda term: bool((term[1] == term[1][0]).all()))
    total = _affine(to, *terms[0], _shifted(offset, node), of=name)
    for index, (tensor, row) in enumerate(terms[1:], 1):
        row = row[:1] if (row == row[0]).all() else row
        multiplier = to.per_channel(row, name, f"multiplier{index}")
        total = to.add("Add", to.add("Mul", tensor, multiplier, of=name), total, of=name)
    if code:  # nothing is negative, so that the Cast, which cuts the fraction off, is the floor
        total = _clip(to, total, 0, made.limits[1] + zero_point(made) + 0.5, np.float64, of=name)
        to.cast(total, np.uint8, of=name, form="code")
        return
    total = _clip(to, to.add("Floor", total, of=name), node.least, node.most, np.float64, of=name)
    marked = to.graph.stored == "bipolar"
    total = to.cast(total, np.float32, of=name, form="" if marked else "float")
    if marked:
        _mark(to, node, total)


def _wide(to: Values, source: str, form: str, *, of: str) -> str:
    """An input in float64.

    onnxruntime has the channels of what QLinearConv gives in the last axis, and moves them back behind the operations
    that follow: of float64, eight times as many bytes. It does not look behind a Reshape, which costs nothing.
    """
    tensor, shape = to.get(source, form), to.values[source].shape
    if form != "code" or source not in to.written or len(shape) < 2 or to.graph.stored == "bipolar":
        return to.cast(tensor, np.float64, of=of)
    flat = to.add("Reshape", tensor, to.graph.shape(0, 0, prod(shape[1:])), of=of)
    return to.add("Reshape", to.cast(flat, np.float64, of=of), to.graph.shape(0, *shape), of=of)


def _affine(to: Values, tensor: str, scale: np.ndarray, shift: np.ndarray, *, of: str) -> str:
    """scale · x + shift in float64: a BatchNormalization of mean 0 and variance 1, which is one pass."""
    if to.graph.stored == "bipolar":  # whose tools treat a BatchNormalization as one of the net
        tensor = to.add("Mul", tensor, to.per_channel(scale, of, "multiplier0"), of=of)
        return to.add("Add", tensor, to.per_channel(shift, of, "offset"), of=of)
    moments = (to.graph.filled(number, len(shift), np.float64) for number in (0, 1))
    numbers = to.graph.constant(scale, f"{of}/multiplier0"), to.graph.constant(shift, f"{of}/offset")
    return to.add("BatchNormalization", tensor, *numbers, *moments, of=of, epsilon=0.0)


def _is_wide(to: Values, node: Requantize) -> bool:
    """Whether the numbers before the division may be beyond float64 with the zero point of the result added."""
    reach = node.reach(*(to.values[source] for source in node.inputs)).max()
    # a multiplier times a byte that has a zero point is up to twice as large as times the value of that byte
    return bool(2 * reach + zero_point(to.values[node.output]) * 2.0**node.right_shift > 2 * EXACT_LIMIT)


def _shifted(numbers: np.ndarray, node: Requantize) -> np.ndarray:
    return np.ldexp(numbers.astype(np.float64), -node.right_shift)


def write_quantize(to: Values, node: Quantize) -> None:
    """ONNX's Round, too, takes the even one of two integers. The ends are integers, so that the clip may come first."""
    name, made = node.output, to.values[node.output]
    tensor = _clip(to, to.get(node.inputs[0], "float"), node.least, node.most, np.float32, of=name)
    if to.graph.stored == "bipolar":
        _mark(to, node, to.add("Round", tensor, of=name))
    elif to.integers and fits_byte(made):
        tensor = to.add("Round", tensor, of=name)
        if zero := zero_point(made):
            tensor = to.add("Add", tensor, to.graph.number(zero, np.float32), of=name)
        to.cast(tensor, np.uint8, of=name, form="code")
    else:
        to.add("Round", tensor, of=name, form="float")


def _clip(to: Values, tensor: str, low: float, high: float, dtype: type, *, of: str) -> str:
    return to.add("Clip", tensor, *(to.graph.number(end, dtype) for end in (low, high)), of=of)


def _mark(to: Values, node: Requantize | Quantize, tensor: str) -> None:
    """QONNX's Quant, which changes no integer of its range: tools read from it how many bits the value has."""
    signed = node.least < 0
    bits = max((-node.least - 1).bit_length(), node.most.bit_length()) + signed
    numbers = (to.graph.number(number, np.float32) for number in (1, 0, bits))
    settings = {"signed": int(signed), "narrow": 0, "rounding_mode": "ROUND"}
    to.add("Quant", tensor, *numbers, of=node.output, form="float", domain=QONNX_DOMAIN, **settings)
