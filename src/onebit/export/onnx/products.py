"""Dense layers, convolutions and pools as ONNX nodes.

Products of ±1 weights and ±1 values are products of integers: MatMulInteger and QLinearConv of uint8 codes {0, 2} with
zero point 1, and int8 weights. The same holds for other integers of at most 8 bits in dense layers, and in convolutions
whose sums are requantized at once. With int8 for both operands, or with ConvInteger, onnxruntime is many times slower
than with floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onebit.errors import UsageError
from onebit.export.onnx.byte_conv import scales
from onebit.export.onnx.exactness import sum_bound, zero_point
from onebit.export.onnx.graph import DTYPES, Graph
from onebit.export.onnx.pointwise import rising, write_sign
from onebit.packed import Node, OneBitWeights, nodes
from onebit.packed.grid import FLOAT32_EXACT

_TWICE = 0.5
"""Output scale of a QLinearConv that computes signs: 2 · (sum - threshold) + 2, clipped to {0, 2}."""


def write_real_dense(graph: Graph, node: nodes.RealDense) -> str:
    weight = graph.constant(node.weight.T, f"{graph.current}/weight")
    graph.add("MatMul", graph.get(node.inputs[0], "float"), weight)
    return "float"


def write_dense(graph: Graph, node: nodes.Dense) -> str:
    """A product of codes, of the bytes b of an input whose values are 2b - 255, or of floats."""
    (source,), signs = node.inputs, node.rows.T
    x, natural = graph.values[source], graph.natural(source)
    if graph.integers and (x.bound == 1 or natural in ("raw", "code")):
        raw = natural == "raw"
        zero = graph.number(0 if raw else zero_point(x), np.uint8)
        weight = graph.weights(signs, np.int8)
        sums = graph.add("MatMulInteger", graph.get(source, "raw" if raw else "code"), weight, zero)
        if raw:
            sums = graph.add("Mul", sums, graph.number(2, np.int32))
            shift = graph.per_channel(255 * signs.sum(axis=0, dtype=np.int64), "offset", np.int32)
            sums = graph.add("Sub", sums, shift)
        return _finish(graph, node, sums, "int")
    form = _exact_form(graph, node)
    weight = graph.weights(signs, DTYPES[form])
    return _finish(graph, node, graph.add("MatMul", graph.get(source, form), weight), form)


def write_conv(graph: Graph, node: nodes.Convolution) -> str:
    (source,) = node.inputs
    if isinstance(node, nodes.Conv):
        if graph.integers and (found := graph.uses.conv_to_sign(node)):
            return _conv_to_sign(graph, node, *found)
        after = graph.uses.conv_to_requantize(node) if graph.natural(source) == "code" else None
        if after is not None and (factors := scales(node, after, graph.values[source])):
            return _conv_to_code(graph, node, after, *factors)
    tensor, padding = _padded(graph, node, "float")
    return _convolve(graph, node, "Conv", tensor, geometry(node, padding))


def write_conv_transpose(graph: Graph, node: nodes.Transposed) -> str:
    tensor, extra = graph.get(node.inputs[0], "float"), list(node.extra)
    top, bottom, left, right = node.padding
    if any(count >= stride for count, stride in zip(extra, node.stride, strict=True)):
        # onnxruntime adds fewer than the stride: pad the image with zeros, and crop the result
        below, beside = (-(-count // stride) for count, stride in zip(extra, node.stride, strict=True))
        tensor = graph.padded(tensor, (0, below, 0, beside), 0, np.float32)
        bottom += below * node.stride[0] - extra[0]
        right += beside * node.stride[1] - extra[1]
        extra = [0, 0]
    attributes = geometry(node, (top, bottom, left, right))
    if any(extra):
        attributes["output_padding"] = extra
    return _convolve(graph, node, "ConvTranspose", tensor, attributes)


def _convolve(graph: Graph, node: Any, op: str, tensor: str, attributes: dict[str, Any]) -> str:
    """Write a convolution in float32, in which sums of integers are exact up to 2^24."""
    graph.require_float32_sums(node, graph.values[node.inputs[0]])
    if isinstance(node, (nodes.RealConv, nodes.RealConvTranspose)):
        weight = graph.constant(node.kernels(), f"{graph.current}/weight")
        graph.add(op, tensor, weight, **attributes)
        return "float"

    def window_sums() -> str:
        """The sum of the pixels that each output reads: the same convolution with weights of 1."""
        outputs = node.outputs if node.groups > 1 else 1
        first = outputs, node.group_channels
        if op != "Conv":
            first = node.groups * node.group_channels, max(1, outputs // node.groups)
        one = graph.number(1, np.float32)
        return graph.add(op, tensor, graph.add("Expand", one, graph.shape(*first, *node.kernel)), **attributes)

    sums = graph.add(op, tensor, graph.weights(node.kernels()), **attributes)
    return _finish(graph, node, sums, "float", window_sums)


def _finish(graph: Graph, node: OneBitWeights, sums: str, form: str, totals: Callable[[], str] | None = None) -> str:
    """Write scale · sums + centre · (sum of the inputs), if the node has them; `totals` writes the latter sums."""
    if node.scale is None and node.centre is None:
        return form
    if form != "float":
        sums = graph.cast(sums, np.float32)
    if node.scale is not None:
        sums = graph.real("Mul", sums, graph.per_channel(node.scale, "scale"))
    if node.centre is not None:
        centre = graph.per_channel(node.centre, "centre")
        graph.real("Add", sums, graph.real("Mul", totals() if totals else _total(graph, node), centre))
    return "float"


def _total(graph: Graph, node: OneBitWeights) -> str:
    """(N, 1) sums of the inputs of a dense layer."""
    form = _exact_form(graph, node)
    total = graph.add("ReduceSum", graph.get(node.inputs[0], form), graph.shape(1))
    return total if form == "float" else graph.cast(total, np.float32)


def _exact_form(graph: Graph, node: OneBitWeights) -> str:
    """The form in which sums of integer inputs are exact; "float" for real inputs."""
    x = graph.values[node.inputs[0]]
    return "float" if not x.exact or sum_bound(node, x) <= FLOAT32_EXACT else "double"


def _conv_to_sign(graph: Graph, node: nodes.Conv, pool: nodes.MaxPool | None, after: Node) -> str:
    """Write a QLinearConv of codes with the threshold as bias: 2 · (sum - threshold) + 2, clipped to {0, 2}."""
    least, direction = rising(after, graph.values[graph.current])
    signs = node.kernels()
    if pool is None:  # sum <= threshold is -sum >= -threshold, with least = threshold + 1
        flipped = direction < 0
        signs = np.where(flipped[:, None, None, None], -signs, signs)
        least, direction = np.where(flipped, 1 - least, least), np.ones_like(direction)
    one, scale, two = graph.number(1, np.float32), graph.number(_TWICE, np.float32), graph.number(2, np.uint8)
    tensor = _integer_conv(graph, node, graph.weights(signs, np.int8), one, scale, two, -least)
    graph.current = after.output
    tensor = graph.add("Clip", tensor, graph.number(0, np.uint8), two)
    graph.written.add(graph.current)
    if pool is None:
        return "code"
    graph.written.add(pool.output)
    tensor = pool_codes(graph, tensor, pool)
    if (direction < 0).any():
        return write_sign(graph, graph.cast(tensor, np.bool_), direction)
    graph.cast(tensor, np.uint8)
    return "code"


def _conv_to_code(
    graph: Graph, node: nodes.Conv, after: nodes.Requantize, sizes: np.ndarray, bias: np.ndarray, scales: np.ndarray
) -> str:
    """Write a QLinearConv of codes that includes the requantization; see `byte_conv`."""
    weight = graph.weights(node.kernels())
    graph.current = after.output
    factors = graph.constant(sizes.reshape(-1, 1, 1, 1), f"{graph.current}/sizes", np.float32)
    weight = graph.cast(graph.add("Mul", weight, factors), np.int8)
    one, none = graph.number(1, np.float32), graph.number(0, np.uint8)
    scale = graph.constant(scales, f"{graph.current}/scale")
    tensor = _integer_conv(graph, node, weight, scale, one, none, bias)
    made = graph.values[graph.current]
    most = made.limits[1] + zero_point(made)
    if most < 255:
        graph.add("Clip", tensor, none, graph.number(most, np.uint8))
    graph.written.add(graph.current)
    return "code"


def _integer_conv(
    graph: Graph, node: nodes.Conv, weight: str, weight_scale: str, scale: str, zero: str, bias: np.ndarray
) -> str:
    """Append a QLinearConv of the codes of the input; scale, zero: of the output."""
    codes, padding = _padded(graph, node, "code")
    source = graph.number(1, np.float32), graph.number(zero_point(graph.values[node.inputs[0]]), np.uint8)
    weights = weight, weight_scale, graph.number(0, np.int8)
    made = scale, zero, graph.constant(bias, f"{graph.current}/bias", np.int32)
    return graph.add("QLinearConv", codes, *source, *weights, *made, **geometry(node, padding))


def _padded(graph: Graph, node: nodes.Convolution, form: str) -> tuple[str, tuple[int, int, int, int]]:
    """The input of a convolution, and its padding with zeros; other borders are padded before."""
    (source,) = node.inputs
    tensor = graph.get(source, form)
    if not (node.padding_value and any(node.padding)):
        return tensor, node.padding
    border = node.padding_value + (zero_point(graph.values[source]) if form == "code" else 0)
    return graph.padded(tensor, node.padding, border, DTYPES[form]), (0, 0, 0, 0)


def pool_codes(graph: Graph, codes: str, node: nodes.MaxPool) -> str:
    """The largest code of each window as float32, which onnxruntime pools several times faster than uint8."""
    return max_pool(graph, graph.cast(codes, np.float32), node, np.float32)


def max_pool(graph: Graph, tensor: str, node: nodes.MaxPool, dtype: Any) -> str:
    """The largest number of each window of a tensor of floats."""
    if node.whole and graph.free:
        return graph.add("GlobalMaxPool", tensor)
    attributes = pool_geometry(node)
    top, bottom, left, right = node.padding
    height, width = node.kernel
    if max(top, bottom) >= height or max(left, right) >= width:  # which onnxruntime does not accept
        tensor = graph.padded(tensor, node.padding, -np.inf, dtype)
        del attributes["pads"]
    return graph.add("MaxPool", tensor, **attributes)


def geometry(node: nodes.Kernel, padding: tuple[int, int, int, int]) -> dict[str, Any]:
    """Strides, dilations, padding and groups of a kernel as attributes, without defaults."""
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


def write_max_pool(graph: Graph, node: nodes.MaxPool) -> str:
    (source,) = node.inputs
    form = graph.natural(source)
    if form == "code":
        graph.cast(pool_codes(graph, graph.get(source, form), node), np.uint8)
        return form
    form = {"int": "double", "raw": "float"}.get(form, form)  # onnxruntime has no MaxPool of int32
    max_pool(graph, graph.get(source, form), node, DTYPES[form])
    return form


def write_average_pool(graph: Graph, node: nodes.AveragePool) -> str:
    """Write a convolution with ones for sums of integers and for what ONNX's AveragePool lacks, else an AveragePool."""
    (source,) = node.inputs
    x, attributes = graph.values[source], pool_geometry(node)
    tensor = graph.get(source, "float")
    if not (x.exact or node.sums or "dilations" in attributes):
        graph.add("AveragePool", tensor, count_include_pad=node.count_padding, **attributes)
        return "float"
    graph.require_float32_sums(node, x)
    channels = x.shape[0] if graph.free else 1
    ones = graph.constant(np.ones((channels, 1, *node.kernel)), f"{graph.current}/ones", np.float32)
    if graph.free:
        tensor = graph.add("Conv", tensor, ones, group=channels, **attributes)
    else:
        tensor = graph.add("Reshape", tensor, graph.shape(-1, 1, *x.shape[1:]))
        tensor = graph.add("Conv", tensor, ones, **attributes)
        tensor = graph.add("Reshape", tensor, graph.shape(-1, *graph.values[graph.current].shape))
    if not node.sums:
        if graph.free and any(node.padding) and not node.count_padding:
            raise _needs_size(graph)
        _divide(graph, tensor, node.pixels(x))
    return "float"


def write_adaptive_average_pool(graph: Graph, node: nodes.AdaptiveAveragePool) -> str:
    """Write sums over rows and columns as products with 0 and 1, since windows may overlap, and the division."""
    (source,) = node.inputs
    x = graph.values[source]
    form = "double" if x.exact and (graph.free or sum_bound(node, x) > FLOAT32_EXACT) else "float"
    tensor = graph.get(source, form)
    if graph.free:
        if node.size != (1, 1):
            raise _needs_size(graph)
        sizes = graph.add("Slice", graph.add("Shape", tensor), graph.shape(2), graph.shape(4))
        pixels = graph.cast(graph.add("ReduceProd", sizes), np.float32)
        total = graph.add("ReduceSum", tensor, graph.shape(2, 3))
        graph.real("Div", graph.cast(total, np.float32) if form == "double" else total, pixels)
        return "float"
    if node.size == (1, 1):
        tensor = graph.add("ReduceSum", tensor, graph.shape(2, 3))
    else:
        rows, columns = (
            np.array([[start <= pixel < stop for pixel in range(size)] for start, stop in windows], DTYPES[form])
            for size, windows in zip(x.shape[1:], node.windows(x), strict=True)
        )
        tensor = graph.add("MatMul", graph.constant(rows, f"{graph.current}/rows"), tensor)
        tensor = graph.add("MatMul", tensor, graph.constant(columns.T, f"{graph.current}/columns"))
    if form == "double":
        tensor = graph.cast(tensor, np.float32)
    _divide(graph, tensor, node.pixels(x))
    return "float"


def _needs_size(graph: Graph) -> UsageError:
    return UsageError(f"{graph.current!r} divides by numbers of pixels, which ONNX needs images of one size for")


def _divide(graph: Graph, tensor: str, pixels: np.ndarray) -> None:
    if (pixels == pixels.flat[0]).all():
        pixels = pixels.flat[0]
    graph.real("Div", tensor, graph.constant(pixels, f"{graph.current}/pixels", np.float32))


def write_product(graph: Graph, node: nodes.Product) -> str:
    a, b = (graph.get(source, "float") for source in node.inputs)
    rows, columns = graph.add("Transpose", b, perm=[0, 2, 3, 1]), graph.add("Transpose", a, perm=[0, 2, 1, 3])
    graph.add("Transpose", graph.add("MatMul", rows, columns), perm=[0, 2, 1, 3])
    return "float"


def write_normalize(graph: Graph, node: nodes.Normalize) -> str:
    x = graph.get(node.inputs[0], "float")
    size = graph.values[graph.current].shape[0] // node.groups
    parts = graph.shape(0, node.groups, -1) if node.whole else graph.shape(0, node.groups, size, -1)
    y = graph.add("Reshape", x, parts)
    if node.centered:
        y = graph.add("Sub", y, graph.add("ReduceMean", y, axes=[2]))
    variance = graph.add("ReduceMean", graph.add("Mul", y, y), axes=[2])
    deviation = graph.add("Sqrt", graph.add("Add", variance, graph.number(float(node.eps[0]), np.float32)))
    graph.add("Reshape", graph.add("Div", y, deviation), graph.add("Shape", x))
    return "float"


def write_softmax(graph: Graph, node: nodes.Softmax) -> str:
    graph.add("Softmax", graph.get(node.inputs[0], "float"), axis=1)
    return "float"
