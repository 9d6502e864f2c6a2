"""Integers of few bits as ONNX nodes: sums of integers in float64, which are exact, and one rounding."""

from __future__ import annotations

import numpy as np

from onebit.export.onnx.exactness import fits_byte, zero_point
from onebit.export.onnx.graph import QONNX_DOMAIN
from onebit.export.onnx.values import Values
from onebit.packed import Quantize, Requantize
from onebit.packed.nodes.rounding import EXACT_LIMIT


def write_requantize(to: Values, node: Requantize) -> None:
    """The inputs times multipliers / 2^shift, and offset / 2^shift, added up in float64: no bit is lost."""
    name, made = node.output, to.value(node.output)
    code = to.integers and fits_byte(made) and not _is_wide(to, node)
    offset = node.offset + (zero_point(made) << node.right_shift) if code else node.offset
    terms = []
    for index, (source, row) in enumerate(zip(node.inputs, node.multiplier.astype(np.int64), strict=True)):
        form = to.natural(source)
        factor, zero = to.coding(source, form)
        offset = offset - row * zero
        row = row[:1] if (row == row[0]).all() else row  # as of shortcuts: one number for all channels
        multiplier = to.per_channel(_shifted(row * factor, node), name, f"multiplier{index}")
        terms.append(to.add("Mul", to.cast(to.get(source, form), np.float64, of=name), multiplier, of=name))
    total = to.per_channel(_shifted(offset, node), name, "offset")
    for term in terms:
        total = to.add("Add", term, total, of=name)
    if code:  # nothing is negative, so that the Cast, which cuts the fraction off, is the floor
        total = _clip(to, total, 0, made.limits[1] + zero_point(made) + 0.5, np.float64, of=name)
        to.cast(total, np.uint8, of=name, form="code")
        return
    total = _clip(to, to.add("Floor", total, of=name), node.least, node.most, np.float64, of=name)
    marked = to.graph.stored == "bipolar"
    total = to.cast(total, np.float32, of=name, form="" if marked else "float")
    if marked:
        _mark(to, node, total)


def _is_wide(to: Values, node: Requantize) -> bool:
    """Whether the numbers before the division may be beyond float64 with the zero point of the result added."""
    reach = node.reach(*(to.value(source) for source in node.inputs)).max()
    # a multiplier times a byte that has a zero point is up to twice as large as times the value of that byte
    return bool(2 * reach + zero_point(to.value(node.output)) * 2.0**node.right_shift > 2 * EXACT_LIMIT)


def _shifted(numbers: np.ndarray, node: Requantize) -> np.ndarray:
    return np.ldexp(numbers.astype(np.float64), -node.right_shift)


def write_quantize(to: Values, node: Quantize) -> None:
    """ONNX's Round, too, takes the even one of two integers. The ends are integers, so that the clip may come first."""
    name, made = node.output, to.value(node.output)
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
