"""Pools as ONNX nodes."""

from __future__ import annotations

import numpy as np

from onebit.export.onnx.exactness import sum_bound
from onebit.export.onnx.graph import DTYPES, Graph
from onebit.export.onnx.products import max_pool, pool_codes, pool_geometry
from onebit.packed import AdaptiveAveragePool, AveragePool, MaxPool
from onebit.packed.grid import FLOAT32_EXACT


def write_max_pool(to: Graph, node: MaxPool) -> str:
    (source,) = node.inputs
    form = to.natural(source)
    if form == "code":
        to.cast(pool_codes(to, to.get(source, form), node), np.uint8)
        return form
    form = {"int": "double", "raw": "float"}.get(form, form)  # onnxruntime has no MaxPool of int32
    max_pool(to, to.get(source, form), node, DTYPES[form])
    return form


def write_average_pool(to: Graph, node: AveragePool) -> str:
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


def write_adaptive_average_pool(to: Graph, node: AdaptiveAveragePool) -> str:
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
