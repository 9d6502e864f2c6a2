"""Pools as ONNX nodes."""

from __future__ import annotations

import numpy as np

from onebit.export.onnx.exactness import sum_bound
from onebit.export.onnx.pointwise import real
from onebit.export.onnx.products import max_pool, pool_codes, pool_geometry
from onebit.export.onnx.values import DTYPES, Values
from onebit.packed import AdaptiveAveragePool, AveragePool, MaxPool
from onebit.packed.grid import FLOAT32_EXACT


def write_max_pool(to: Values, node: MaxPool) -> None:
    (source,), name = node.inputs, node.output
    form = to.natural(source)
    if form == "code":
        to.cast(pool_codes(to, to.get(source, form), node, of=name), np.uint8, of=name, form=form)
        return
    if form == "int":  # onnxruntime has no MaxPool of int32; double holds the same integers
        form = "double"
    if form == "raw":
        form = "float"
    max_pool(to, to.get(source, form), node, DTYPES[form], of=name, form=form)


def write_average_pool(to: Values, node: AveragePool) -> None:
    """A convolution with ones if the sums are integers, or if ONNX's AveragePool lacks something; else that."""
    (source,), name = node.inputs, node.output
    x, attributes = to.values[source], pool_geometry(node)
    tensor = to.get(source, "float")
    if not (x.exact or node.sums or "dilations" in attributes):
        to.add("AveragePool", tensor, of=name, form="float", count_include_pad=node.count_padding, **attributes)
        return
    to.require_float32_sums(node, x)
    _, height, width = x.shape
    ones = to.graph.constant(np.ones((1, 1, *node.kernel)), f"{name}/ones", np.float32)
    tensor = to.add("Reshape", tensor, to.graph.shape(-1, 1, height, width), of=name)
    tensor = to.add("Conv", tensor, ones, of=name, **attributes)
    form = "float" if node.sums else ""
    tensor = to.add("Reshape", tensor, to.graph.shape(-1, *to.values[name].shape), of=name, form=form)
    if not node.sums:
        _divide(to, name, tensor, node.pixels(x))


def write_adaptive_average_pool(to: Values, node: AdaptiveAveragePool) -> None:
    """Sums down the rows and across, as products with 0 and 1, so that windows may overlap; then the division."""
    (source,), name = node.inputs, node.output
    x = to.values[source]
    form = "double" if x.exact and sum_bound(node, x) > FLOAT32_EXACT else "float"
    dtype = np.float64 if form == "double" else np.float32
    rows, columns = node.windows(x)
    tensor = to.get(source, form)
    if node.size == (1, 1):
        tensor = to.add("ReduceSum", tensor, to.graph.shape(2, 3), of=name)
    else:
        for axis, windows in ((2, rows), (3, columns)):
            inside = np.zeros((len(windows), x.shape[axis - 1]), dtype)
            for row, (start, stop) in zip(inside, windows, strict=True):
                row[start:stop] = 1
            if axis == 2:
                tensor = to.add("MatMul", to.graph.constant(inside, f"{name}/rows"), tensor, of=name)
            else:
                tensor = to.add("MatMul", tensor, to.graph.constant(inside.T, f"{name}/columns"), of=name)
    if form == "double":
        tensor = to.cast(tensor, np.float32, of=name)
    _divide(to, name, tensor, node.pixels(x))


def _divide(to: Values, name: str, tensor: str, pixels: np.ndarray) -> None:
    if (pixels == pixels.flat[0]).all():
        pixels = pixels.flat[0]
    real(to, "Div", tensor, to.graph.constant(pixels, f"{name}/pixels", np.float32), of=name, last=True)
