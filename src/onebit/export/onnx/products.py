"""Dense layers and convolutions as ONNX nodes.

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
from onebit.export.onnx.pointwise import real, rising, write_sign
from onebit.export.onnx.values import Values
from onebit.packed import Node, OneBitWeights, nodes
from onebit.packed.grid import FLOAT32_EXACT

AnyConv = nodes.Conv | nodes.RealConv | nodes.ConvTranspose | nodes.RealConvTranspose
_TWICE = 0.5
"""The scale of the output of a QLinearConv: twice the sum minus the threshold, around the code 2, is cut to {0, 2}."""


def write_real_dense(to: Values, node: nodes.RealDense) -> None:
    weight = to.graph.constant(node.weight.T, f"{node.output}/weight")
    to.add("MatMul", to.get(node.inputs[0], "float"), weight, of=node.output, form="float")


def write_dense(to: Values, node: nodes.Dense) -> None:
    (source,), name = node.inputs, node.output
    x = to.values[source]
    signs = node.rows.T
    raw = to.natural(source) == "raw"
    if to.integers and (raw or x.bound == 1 or to.natural(source) == "code"):
        _integer_dense(to, node, signs, raw=raw)
        return
    form = "float" if not x.exact or sum_bound(node, x) <= FLOAT32_EXACT else "double"
    weight = to.graph.weights(name, signs, np.float32 if form == "float" else np.float64)
    tensor = to.get(source, form)
    _finish(to, node, to.add("MatMul", tensor, weight, of=name, form=_last_form(node, form)), form)


def _integer_dense(to: Values, node: nodes.Dense, signs: np.ndarray, *, raw: bool) -> None:
    """MatMulInteger of codes, or of the bytes b of the input, whose values are 2b - 255."""
    (source,), name, graph = node.inputs, node.output, to.graph
    zero = graph.number(0 if raw else zero_point(to.values[source]), np.uint8)
    weight = graph.weights(name, signs, np.int8)
    form = "" if raw else _last_form(node, "int")
    sums = to.add("MatMulInteger", to.get(source, "raw" if raw else "code"), weight, zero, of=name, form=form)
    if raw:
        sums = to.add("Mul", sums, graph.number(2, np.int32), of=name)
        shift = to.per_channel(255 * signs.sum(axis=0, dtype=np.int64), name, "offset", np.int32)
        sums = to.add("Sub", sums, shift, of=name, form=_last_form(node, "int"))
    _finish(to, node, sums, "int")


def write_conv(to: Values, node: nodes.Conv | nodes.RealConv) -> None:
    (source,), name = node.inputs, node.output
    if isinstance(node, nodes.Conv) and to.integers and (found := to.uses.conv_to_sign(node)):
        _conv_to_sign(to, node, *found)
        return
    if isinstance(node, nodes.Conv) and to.natural(source) == "code" and (after := to.uses.conv_to_requantize(node)):
        factors = scales(node, after, to.values[source])
        if factors is not None:
            _conv_to_code(to, node, after, factors)
            return
    tensor, padding = to.get(source, "float"), node.padding
    if node.padding_value and any(padding):
        tensor = to.padded(tensor, padding, node.padding_value, np.float32, of=name)
        padding = (0, 0, 0, 0)
    _convolve(to, node, "Conv", tensor, geometry(node, padding))


def write_conv_transpose(to: Values, node: nodes.ConvTranspose | nodes.RealConvTranspose) -> None:
    tensor, extra = to.get(node.inputs[0], "float"), list(node.extra)
    top, bottom, left, right = node.padding
    if any(count >= stride for count, stride in zip(extra, node.stride, strict=True)):
        # more than onnxruntime adds: rows and columns of zeros in the image, of whose results the rest is cut off
        below, beside = (-(-count // stride) for count, stride in zip(extra, node.stride, strict=True))
        tensor = to.padded(tensor, (0, below, 0, beside), 0, np.float32, of=node.output)
        bottom += below * node.stride[0] - extra[0]
        right += beside * node.stride[1] - extra[1]
        extra = [0, 0]
    attributes = geometry(node, (top, bottom, left, right))
    if any(extra):
        attributes["output_padding"] = extra
    _convolve(to, node, "ConvTranspose", tensor, attributes)


def _convolve(to: Values, node: AnyConv, op: str, tensor: str, attributes: dict[str, Any]) -> None:
    """A convolution in float32, in which sums of integers are exact up to 2^24."""
    x, name = to.values[node.inputs[0]], node.output
    to.require_float32_sums(node, x)
    if not isinstance(node, OneBitWeights):
        weight = to.graph.constant(node.kernels(), f"{name}/weight")
        to.add(op, tensor, weight, of=name, form="float", **attributes)
        return
    weight = to.graph.weights(name, node.kernels())
    sums = to.add(op, tensor, weight, of=name, form=_last_form(node, "float"), **attributes)
    _finish(to, node, sums, "float", lambda: _window_sums(to, node, op, tensor, attributes))


def _window_sums(to: Values, node: Any, op: str, tensor: str, attributes: dict[str, Any]) -> str:
    """The sums of the pixels that each output reads: the same convolution, of ones."""
    outputs, shape = node.outputs if node.groups > 1 else 1, (node.group_channels, *node.kernel)
    transposed = node.groups * node.group_channels, max(1, outputs // node.groups), *node.kernel
    shape = (outputs, *shape) if op == "Conv" else transposed
    one = to.graph.number(1, np.float32)
    ones = to.add("Expand", one, to.graph.shape(*shape), of=node.output)
    return to.add(op, tensor, ones, of=node.output, **attributes)


def _finish(to: Values, node: OneBitWeights, sums: str, form: str, totals: Callable[[], str] | None = None) -> None:
    """`scale` · sums + `centre` · (sum of the inputs), where the node has them; `totals` writes the sums."""
    if _last_form(node, form):
        return
    name = node.output
    if form != "float":
        sums = to.cast(sums, np.float32, of=name)
    if node.scale is not None:
        scale = to.per_channel(node.scale, name, "scale")
        sums = real(to, "Mul", sums, scale, of=name, last=node.centre is None)
    if node.centre is not None:
        centre = to.per_channel(node.centre, name, "centre")
        total = real(to, "Mul", totals() if totals else _total(to, node), centre, of=name)
        real(to, "Add", sums, total, of=name, last=True)


def _total(to: Values, node: OneBitWeights) -> str:
    """(N, 1) sums of the inputs of a dense layer."""
    x = to.values[node.inputs[0]]
    exact = not x.exact or sum_bound(node, x) <= FLOAT32_EXACT
    tensor = to.get(node.inputs[0], "float" if exact else "double")
    total = to.add("ReduceSum", tensor, to.graph.shape(1), of=node.output)
    return total if exact else to.cast(total, np.float32, of=node.output)


def _conv_to_sign(to: Values, node: nodes.Conv, pool: nodes.MaxPool | None, after: Node) -> None:
    """QLinearConv of codes whose bias is the threshold: 2 · (sum - threshold) + 2, cut to {0, 2}, is the code."""
    name, graph = node.output, to.graph
    least, direction = rising(after, to.values[name])
    signs = node.kernels()
    if pool is None:  # sum <= threshold is -sum >= -threshold; `least` is threshold + 1 there
        flipped = direction < 0
        signs = np.where(flipped[:, None, None, None], -signs, signs)
        least, direction = np.where(flipped, 1 - least, least), np.ones_like(direction)
    codes, padding = _padded_codes(to, node)
    one, zero = graph.number(1, np.float32), graph.number(zero_point(to.values[node.inputs[0]]), np.uint8)
    weight = graph.weights(name, signs, np.int8)
    more = (
        *(graph.number(0, np.int8), graph.number(_TWICE, np.float32)),
        *(graph.number(2, np.uint8), graph.constant(-least, f"{name}/bias", np.int32)),
    )
    tensor = to.add("QLinearConv", codes, one, zero, weight, one, *more, of=name, **geometry(node, padding))
    form = "code" if pool is None else ""
    target = after.output
    tensor = to.add("Clip", tensor, graph.number(0, np.uint8), more[2], of=target, form=form)
    to.written.add(target)
    if pool is None:
        return
    to.written.add(pool.output)
    tensor = pool_codes(to, tensor, pool, of=target)
    if (direction > 0).all():
        to.cast(tensor, np.uint8, of=target, form="code")
    else:
        write_sign(to, target, to.cast(tensor, np.bool_, of=target), direction)


def _conv_to_code(to: Values, node: nodes.Conv, after: nodes.Requantize, found: Scales) -> None:
    """QLinearConv of codes whose output is the code of the requantization, see `byte_conv`."""
    (source,), name, graph, made = node.inputs, after.output, to.graph, to.values[after.output]
    codes, padding = _padded_codes(to, node)
    weight = graph.weights(node.output, node.kernels())
    sizes = graph.constant(found.weight.reshape(-1, 1, 1, 1), f"{name}/sizes", np.float32)
    weight = to.cast(to.add("Mul", weight, sizes, of=name), np.int8, of=name)
    one, none = graph.number(1, np.float32), graph.number(0, np.uint8)
    zero, scale = graph.number(zero_point(to.values[source]), np.uint8), graph.constant(found.scale, f"{name}/scale")
    bias = graph.constant(found.bias, f"{name}/bias", np.int32)
    most = made.limits[1] + zero_point(made)
    more = (scale, graph.number(0, np.int8), one, none, bias)
    form = "code" if most == 255 else ""
    attributes = geometry(node, padding)
    tensor = to.add("QLinearConv", codes, one, zero, weight, *more, of=name, form=form, **attributes)
    if most < 255:
        to.add("Clip", tensor, none, graph.number(most, np.uint8), of=name, form="code")
    to.written.add(name)


def _padded_codes(to: Values, node: nodes.Conv) -> tuple[str, tuple[int, int, int, int]]:
    """The codes that a convolution reads, and the padding that is left: QLinearConv pads with the code of 0."""
    (source,) = node.inputs
    codes = to.get(source, "code")
    if not (node.padding_value and any(node.padding)):
        return codes, node.padding
    border = node.padding_value + zero_point(to.values[source])
    return to.padded(codes, node.padding, border, np.uint8, of=node.output), (0, 0, 0, 0)


def pool_codes(to: Values, codes: str, node: nodes.MaxPool, *, of: str) -> str:
    """The largest code of each window as float32, which onnxruntime pools several times as fast as uint8."""
    return max_pool(to, to.cast(codes, np.float32, of=of), node, np.float32, of=of)


def max_pool(to: Values, tensor: str, node: nodes.MaxPool, dtype: Any, *, of: str, form: str = "") -> str:
    """The largest number of each window of a tensor of floats."""
    attributes = pool_geometry(node)
    top, bottom, left, right = node.padding
    height, width = node.kernel
    if max(top, bottom) >= height or max(left, right) >= width:  # as dilations allow; onnxruntime refuses it
        tensor = to.padded(tensor, node.padding, -np.inf, dtype, of=of)
        del attributes["pads"]
    return to.add("MaxPool", tensor, of=of, form=form, **attributes)


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


def _last_form(node: OneBitWeights, form: str) -> str:
    """The form of sums that are the value itself; "" if a factor follows."""
    return form if node.scale is None and node.centre is None else ""
