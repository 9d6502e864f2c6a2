"""Dense layers, convolutions and pools as ONNX nodes.

Products of ±1 weights and ±1 values are products of integers: MatMulInteger and QLinearConv of uint8 codes {0, 2},
whose zero point is 1, and int8 weights. So are those of other integers of at most 8 bits, in dense layers, and in
convolutions whose sums are requantized at once. With both int8, or by ConvInteger, onnxruntime is many times slower
than with floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onebit.export.onnx.byte_conv import Scales, scales
from onebit.export.onnx.exactness import sum_bound, zero_point
from onebit.export.onnx.graph import DTYPES, Graph
from onebit.export.onnx.pointwise import rising, write_sign
from onebit.packed import Node, OneBitWeights, nodes
from onebit.packed.grid import FLOAT32_EXACT

_TWICE = 0.5
"""The scale of the output of a QLinearConv: twice the sum minus the threshold, around the code 2, is cut to {0, 2}."""


def write_real_dense(to: Graph, node: nodes.RealDense) -> str:
    weight = to.constant(node.weight.T, f"{to.of}/weight")
    to.add("MatMul", to.get(node.inputs[0], "float"), weight)
    return "float"


def write_dense(to: Graph, node: nodes.Dense) -> str:
    """Of codes, of the bytes b of the input, whose values are 2b - 255, or of floats."""
    (source,), signs = node.inputs, node.rows.T
    x, natural = to.values[source], to.natural(source)
    if to.integers and (x.bound == 1 or natural in ("raw", "code")):
        raw = natural == "raw"
        zero = to.number(0 if raw else zero_point(x), np.uint8)
        weight = to.weights(signs, np.int8)
        sums = to.add("MatMulInteger", to.get(source, "raw" if raw else "code"), weight, zero)
        if raw:
            sums = to.add("Mul", sums, to.number(2, np.int32))
            shift = to.per_channel(255 * signs.sum(axis=0, dtype=np.int64), "offset", np.int32)
            sums = to.add("Sub", sums, shift)
        return _finish(to, node, sums, "int")
    form = _exact_form(to, node)
    weight = to.weights(signs, DTYPES[form])
    return _finish(to, node, to.add("MatMul", to.get(source, form), weight), form)


def write_conv(to: Graph, node: nodes.Conv | nodes.RealConv) -> str:
    (source,) = node.inputs
    if isinstance(node, nodes.Conv):
        if to.integers and (found := to.uses.conv_to_sign(node)):
            return _conv_to_sign(to, node, *found)
        after = to.uses.conv_to_requantize(node) if to.natural(source) == "code" else None
        if after is not None and (factors := scales(node, after, to.values[source])):
            return _conv_to_code(to, node, after, factors)
    tensor, padding = _padded(to, node, "float")
    return _convolve(to, node, "Conv", tensor, geometry(node, padding))


def write_conv_transpose(to: Graph, node: nodes.ConvTranspose | nodes.RealConvTranspose) -> str:
    tensor, extra = to.get(node.inputs[0], "float"), list(node.extra)
    top, bottom, left, right = node.padding
    if any(count >= stride for count, stride in zip(extra, node.stride, strict=True)):
        # more than onnxruntime adds: rows and columns of zeros in the image, of whose results the rest is cut off
        below, beside = (-(-count // stride) for count, stride in zip(extra, node.stride, strict=True))
        tensor = to.padded(tensor, (0, below, 0, beside), 0, np.float32)
        bottom += below * node.stride[0] - extra[0]
        right += beside * node.stride[1] - extra[1]
        extra = [0, 0]
    attributes = geometry(node, (top, bottom, left, right))
    if any(extra):
        attributes["output_padding"] = extra
    return _convolve(to, node, "ConvTranspose", tensor, attributes)


def _convolve(to: Graph, node: Any, op: str, tensor: str, attributes: dict[str, Any]) -> str:
    """A convolution in float32, in which sums of integers are exact up to 2^24."""
    to.require_float32_sums(node, to.values[node.inputs[0]])
    if isinstance(node, (nodes.RealConv, nodes.RealConvTranspose)):
        weight = to.constant(node.kernels(), f"{to.of}/weight")
        to.add(op, tensor, weight, **attributes)
        return "float"

    def window_sums() -> str:
        """The sums of the pixels that each output reads: the same convolution, of ones."""
        outputs = node.outputs if node.groups > 1 else 1
        first = outputs, node.group_channels
        if op != "Conv":
            first = node.groups * node.group_channels, max(1, outputs // node.groups)
        one = to.number(1, np.float32)
        return to.add(op, tensor, to.add("Expand", one, to.shape(*first, *node.kernel)), **attributes)

    sums = to.add(op, tensor, to.weights(node.kernels()), **attributes)
    return _finish(to, node, sums, "float", window_sums)


def _finish(to: Graph, node: OneBitWeights, sums: str, form: str, totals: Callable[[], str] | None = None) -> str:
    """`scale` · sums + `centre` · (sum of the inputs), where the node has them; `totals` writes the sums."""
    if node.scale is None and node.centre is None:
        return form
    if form != "float":
        sums = to.cast(sums, np.float32)
    if node.scale is not None:
        sums = to.real("Mul", sums, to.per_channel(node.scale, "scale"))
    if node.centre is not None:
        centre = to.per_channel(node.centre, "centre")
        to.real("Add", sums, to.real("Mul", totals() if totals else _total(to, node), centre))
    return "float"


def _total(to: Graph, node: OneBitWeights) -> str:
    """(N, 1) sums of the inputs of a dense layer."""
    form = _exact_form(to, node)
    total = to.add("ReduceSum", to.get(node.inputs[0], form), to.shape(1))
    return total if form == "float" else to.cast(total, np.float32)


def _exact_form(to: Graph, node: OneBitWeights) -> str:
    """The form in which sums of the inputs are exact, where they are integers."""
    x = to.values[node.inputs[0]]
    return "float" if not x.exact or sum_bound(node, x) <= FLOAT32_EXACT else "double"


def _conv_to_sign(to: Graph, node: nodes.Conv, pool: nodes.MaxPool | None, after: Node) -> str:
    """QLinearConv of codes whose bias is the threshold: 2 · (sum - threshold) + 2, cut to {0, 2}, is the code."""
    least, direction = rising(after, to.values[to.of])
    signs = node.kernels()
    if pool is None:  # sum <= threshold is -sum >= -threshold; `least` is threshold + 1 there
        flipped = direction < 0
        signs = np.where(flipped[:, None, None, None], -signs, signs)
        least, direction = np.where(flipped, 1 - least, least), np.ones_like(direction)
    codes, padding = _padded(to, node, "code")
    one, zero = to.number(1, np.float32), to.number(zero_point(to.values[node.inputs[0]]), np.uint8)
    weight = to.weights(signs, np.int8)
    none, scale, two = to.number(0, np.int8), to.number(_TWICE, np.float32), to.number(2, np.uint8)
    bias = to.constant(-least, f"{to.of}/bias", np.int32)
    given = codes, one, zero, weight, one, none, scale, two, bias
    tensor = to.add("QLinearConv", *given, **geometry(node, padding))
    to.of = after.output
    tensor = to.add("Clip", tensor, to.number(0, np.uint8), two)
    to.written.add(to.of)
    if pool is None:
        return "code"
    to.written.add(pool.output)
    tensor = pool_codes(to, tensor, pool)
    if (direction < 0).any():
        return write_sign(to, to.cast(tensor, np.bool_), direction)
    to.cast(tensor, np.uint8)
    return "code"


def _conv_to_code(to: Graph, node: nodes.Conv, after: nodes.Requantize, found: Scales) -> str:
    """QLinearConv of codes whose output is the code of the requantization, see `byte_conv`."""
    codes, padding = _padded(to, node, "code")
    weight = to.weights(node.kernels())
    to.of = after.output
    sizes = to.constant(found.weight.reshape(-1, 1, 1, 1), f"{to.of}/sizes", np.float32)
    weight = to.cast(to.add("Mul", weight, sizes), np.int8)
    one, none = to.number(1, np.float32), to.number(0, np.uint8)
    zero, scale = (
        to.number(zero_point(to.values[node.inputs[0]]), np.uint8),
        to.constant(found.scale, f"{to.of}/scale"),
    )
    bias = to.constant(found.bias, f"{to.of}/bias", np.int32)
    made = to.values[to.of]
    most = made.limits[1] + zero_point(made)
    given = codes, one, zero, weight, scale, to.number(0, np.int8), one, none, bias
    tensor = to.add("QLinearConv", *given, **geometry(node, padding))
    if most < 255:
        to.add("Clip", tensor, none, to.number(most, np.uint8))
    to.written.add(to.of)
    return "code"


def _padded(to: Graph, node: nodes.Conv | nodes.RealConv, form: str) -> tuple[str, tuple[int, int, int, int]]:
    """What a convolution reads, and the padding that is left: ONNX pads with zeros."""
    (source,) = node.inputs
    tensor = to.get(source, form)
    if not (node.padding_value and any(node.padding)):
        return tensor, node.padding
    border = node.padding_value + (zero_point(to.values[source]) if form == "code" else 0)
    return to.padded(tensor, node.padding, border, DTYPES[form]), (0, 0, 0, 0)


def pool_codes(to: Graph, codes: str, node: nodes.MaxPool) -> str:
    """The largest code of each window as float32, which onnxruntime pools several times as fast as uint8."""
    return max_pool(to, to.cast(codes, np.float32), node, np.float32)


def max_pool(to: Graph, tensor: str, node: nodes.MaxPool, dtype: Any) -> str:
    """The largest number of each window of a tensor of floats."""
    attributes = pool_geometry(node)
    top, bottom, left, right = node.padding
    height, width = node.kernel
    if max(top, bottom) >= height or max(left, right) >= width:  # as dilations allow; onnxruntime refuses it
        tensor = to.padded(tensor, node.padding, -np.inf, dtype)
        del attributes["pads"]
    return to.add("MaxPool", tensor, **attributes)


def geometry(node: nodes.Kernel, padding: tuple[int, int, int, int]) -> dict[str, Any]:
    """Strides, dilations, padding and groups of a kernel as attributes, without those that have their defaults."""
    top, bottom, left, right = padding
    every = {
        "strides": (node.stride, (1, 1)),
        "dilations": (node.dilation, (1, 1)),
        "pads": ((top, left, bottom, right), (0, 0, 0, 0)),
        "group": (getattr(node, "groups", 1), 1),
    }
    return {name: value for name, (value, default) in every.items() if value != default}


def pool_geometry(node: nodes.Pool) -> dict[str, Any]:
    """Attributes of a pool."""
    return {"kernel_shape": node.kernel, **geometry(node, node.padding)}


def write_max_pool(to: Graph, node: nodes.MaxPool) -> str:
    (source,) = node.inputs
    form = to.natural(source)
    if form == "code":
        to.cast(pool_codes(to, to.get(source, form), node), np.uint8)
        return form
    form = {"int": "double", "raw": "float"}.get(form, form)  # onnxruntime has no MaxPool of int32
    max_pool(to, to.get(source, form), node, DTYPES[form])
    return form


def write_average_pool(to: Graph, node: nodes.AveragePool) -> str:
    """A convolution with ones if the sums are integers, or if ONNX's AveragePool lacks something; else that."""
    (source,) = node.inputs
    x, attributes = to.values[source], pool_geometry(node)
    tensor = to.get(source, "float")
    if not (x.exact or node.sums or "dilations" in attributes):
        to.add("AveragePool", tensor, count_include_pad=node.count_padding, **attributes)
        return "float"
    to.require_float32_sums(node, x)
    ones = to.constant(np.ones((1, 1, *node.kernel)), f"{to.of}/ones", np.float32)
    tensor = to.add("Reshape", tensor, to.shape(-1, 1, *x.shape[1:]))
    tensor = to.add("Conv", tensor, ones, **attributes)
    tensor = to.add("Reshape", tensor, to.shape(-1, *to.values[to.of].shape))
    if not node.sums:
        _divide(to, tensor, node.pixels(x))
    return "float"


def write_adaptive_average_pool(to: Graph, node: nodes.AdaptiveAveragePool) -> str:
    """Sums down the rows and across, as products with 0 and 1, so that windows may overlap; then the division."""
    (source,) = node.inputs
    x = to.values[source]
    form = "double" if x.exact and sum_bound(node, x) > FLOAT32_EXACT else "float"
    tensor = to.get(source, form)
    if node.size == (1, 1):
        tensor = to.add("ReduceSum", tensor, to.shape(2, 3))
    else:
        rows, columns = (
            np.array([[start <= place < stop for place in range(size)] for start, stop in windows], DTYPES[form])
            for size, windows in zip(x.shape[1:], node.windows(x), strict=True)
        )
        tensor = to.add("MatMul", to.constant(rows, f"{to.of}/rows"), tensor)
        tensor = to.add("MatMul", tensor, to.constant(columns.T, f"{to.of}/columns"))
    if form == "double":
        tensor = to.cast(tensor, np.float32)
    _divide(to, tensor, node.pixels(x))
    return "float"


def _divide(to: Graph, tensor: str, pixels: np.ndarray) -> None:
    if (pixels == pixels.flat[0]).all():
        pixels = pixels.flat[0]
    to.real("Div", tensor, to.constant(pixels, f"{to.of}/pixels", np.float32))
