"""The export target `onnx`: a net as an ONNX file.

Flavors: "standard" stores ±1 weights with one bit each, and multiplies ±1 values as integers. "float" is the same net
in float32, 32 times as large. "qonnx" marks binary floats with BipolarQuant, for FINN and other tools that read QONNX;
it takes one sample at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from onebit.common import __version__
from onebit.export.comparison import run_in_batches
from onebit.export.onnx import pointwise, products, rounding
from onebit.export.onnx.graph import Graph, output_keys
from onebit.export.pixels import pixels_in_words
from onebit.export.tools import require
from onebit.packed import PackedNet, dumps, nodes
from onebit.packed.net import INPUT

WRITERS: dict[type, Callable[[Graph, Any], str]] = {
    nodes.Flatten: lambda graph, node: pointwise.move(graph, node, "Flatten", axis=1),
    nodes.Dense: products.write_dense,
    nodes.RealDense: products.write_real_dense,
    nodes.Convolution: products.write_conv,
    nodes.Transposed: products.write_conv_transpose,
    nodes.MaxPool: products.write_max_pool,
    nodes.AveragePool: products.write_average_pool,
    nodes.AdaptiveAveragePool: products.write_adaptive_average_pool,
    nodes.Product: products.write_product,
    nodes.Normalize: products.write_normalize,
    nodes.Softmax: products.write_softmax,
    nodes.Affine: pointwise.write_affine,
    nodes.Threshold: pointwise.write_threshold,
    nodes.Sign: pointwise.write_threshold,
    nodes.Bounded: pointwise.write_bounded,
    nodes.Activation: pointwise.write_activation,
    nodes.Prelu: pointwise.write_prelu,
    nodes.Add: pointwise.write_add,
    nodes.Concat: pointwise.write_concat,
    nodes.Slice: pointwise.write_slice,
    nodes.Take: pointwise.write_take,
    nodes.Pad: pointwise.write_pad,
    nodes.Reshape: lambda graph, node: pointwise.move(graph, node, "Reshape", graph.shape(-1, *node.shape)),
    nodes.Permute: lambda graph, node: pointwise.move(
        graph, node, "Transpose", perm=[0, *(1 + axis for axis in node.axes)]
    ),
    nodes.Repeat: pointwise.write_repeat,
    nodes.Multiply: pointwise.write_multiply,
    nodes.Requantize: rounding.write_requantize,
    nodes.Quantize: rounding.write_quantize,
}
OPERATIONS = WRITERS.keys()
EXACT = False  # real numbers are added in another order, and some zeros have the other sign
RUNS_WITH = "onnxruntime"
_BATCH_VALUES = 1 << 22  # elements of a net's largest value in one batch


def write(net: PackedNet, path: Path, *, flavor: str = "standard") -> None:
    """Write the ONNX file of a net."""
    path.write_bytes(build(net, flavor=flavor).SerializeToString())


def build(net: PackedNet, *, flavor: str = "standard") -> Any:
    """The onnx.ModelProto of a net."""
    graph = Graph(net, flavor)
    for node in net.nodes:
        if node.output not in graph.written:
            graph.current = node.output
            form = nodes.by_class(WRITERS, node)(graph, node)
            graph.make(form)
    for name, value in graph.outputs.items():
        if (tensor := graph.get(value, "float")) != name:  # a second key of the same value
            graph.add("Identity", tensor, output=name)
    model = graph.model(producer_name="onebit", producer_version=__version__)
    graph.helper.set_model_props(model, card(net, [*graph.outputs]))
    return model


def card(net: PackedNet, outputs: list[str]) -> dict[str, str]:
    """The metadata of the file with outputs of these names: field -> text, which is JSON if the field has parts."""
    inputs = {
        name: {"dtype": spec.dtype, "shape": list(spec.shape), "meaning": spec.meaning}
        | ({"values": pixels} if (pixels := pixels_in_words(net, spec)) else {})
        for name, spec in net.inputs.items()
    }
    fields: dict[str, Any] = {
        "name": net.name,
        "statement": net.statement,
        **({"input": inputs[INPUT]} if [*inputs] == [INPUT] else {"inputs": inputs}),
        "output": dict(zip(net.output, outputs, strict=True)) if isinstance(net.output, dict) else net.output,
        "classes": net.classes,
        "onebit": __version__,
        "sha256": hashlib.sha256(dumps(net)).hexdigest(),
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items() if value}


def run(net: PackedNet, path: Path, *inputs: np.ndarray, flavor: str = "standard") -> dict[str, np.ndarray]:
    """Run the file in onnxruntime, or in the executor of qonnx for that flavor."""
    if flavor == "qonnx":
        return _run_qonnx(net, path, inputs)
    require("onnxruntime", find=find_spec, hint=": pip install 'onebit[export]'")
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    size = max(1, _BATCH_VALUES // max(prod(value.shape) for value in net.values.values()))
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])

    def compute(*batch: np.ndarray) -> dict[str, np.ndarray]:
        given = dict(zip(net.inputs, batch, strict=True))
        return dict(zip(output_keys(net).values(), session.run(None, given), strict=True))

    return run_in_batches(compute, inputs, size)


def _run_qonnx(net: PackedNet, path: Path, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Run the file in the executor of qonnx, sample by sample."""
    require("qonnx", find=find_spec, hint="; qonnx 1.0.0 needs onnx 1.19, best in a separate environment")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    model = ModelWrapper(str(path)).transform(InferShapes())
    found = run_in_batches(lambda *sample: execute_onnx(model, dict(zip(net.inputs, sample, strict=True))), inputs, 1)
    return dict(zip(output_keys(net).values(), found.values(), strict=True))
