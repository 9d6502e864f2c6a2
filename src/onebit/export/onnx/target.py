"""The export target `onnx`: a net as an ONNX file.

`flavor` "standard": ±1 weights take one bit each in the file, and products of ±1 values are products of integers.
"float": the same net in plain float32, 32 times as large. "qonnx": floats that BipolarQuant marks as binary, for FINN
and other tools that read QONNX; one sample at a time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from onebit.common import __version__
from onebit.errors import OnebitError, first_line
from onebit.export.onnx import pointwise, products, rounding
from onebit.export.onnx.graph import Graph
from onebit.export.pixels import pixels_in_words
from onebit.export.targets import CannotRun
from onebit.packed import PackedNet, dumps, nodes
from onebit.packed.net import INPUT

WRITERS: dict[type, Callable[[Graph, Any], str]] = {
    nodes.Flatten: lambda to, node: pointwise.move(to, node, "Flatten", axis=1),
    nodes.Dense: products.write_dense,
    nodes.RealDense: products.write_real_dense,
    nodes.Convolution: products.write_conv,
    nodes.Transposed: products.write_conv_transpose,
    nodes.MaxPool: products.write_max_pool,
    nodes.AveragePool: products.write_average_pool,
    nodes.AdaptiveAveragePool: products.write_adaptive_average_pool,
    nodes.Affine: pointwise.write_affine,
    nodes.Threshold: pointwise.write_threshold,
    nodes.Sign: pointwise.write_threshold,
    nodes.Bounded: pointwise.write_bounded,
    nodes.Prelu: pointwise.write_prelu,
    nodes.Add: pointwise.write_add,
    nodes.Concat: pointwise.write_concat,
    nodes.Slice: pointwise.write_slice,
    nodes.Pad: pointwise.write_pad,
    nodes.Reshape: lambda to, node: pointwise.move(to, node, "Reshape", to.shape(-1, *node.shape)),
    nodes.Permute: lambda to, node: pointwise.move(to, node, "Transpose", perm=[0, *(1 + axis for axis in node.axes)]),
    nodes.Repeat: pointwise.write_repeat,
    nodes.Multiply: pointwise.write_multiply,
    nodes.Requantize: rounding.write_requantize,
    nodes.Quantize: rounding.write_quantize,
}
OPERATIONS = WRITERS.keys()
EXACT = False  # real numbers are added in another order, and some zeros have the other sign
RUNS_WITH = "onnxruntime"
_BATCH_VALUES = 1 << 22  # of the largest value of a net in one batch


def write(net: PackedNet, path: Path, *, flavor: str = "standard") -> None:
    """Write a net as an ONNX file."""
    path.write_bytes(build(net, flavor=flavor).SerializeToString())


def build(net: PackedNet, *, flavor: str = "standard") -> Any:
    """The model of a net, an onnx.ModelProto. Errors: see `write`."""
    to = Graph(net, flavor)
    for node in net.nodes:
        if node.output not in to.written:
            to.of = node.output
            form = nodes.by_class(WRITERS, node)(to, node)
            to.make(form)
    for name in net.outputs:
        to.get(name, "float")  # whose tensor has the name of the value
    model = to.model(producer_name="onebit", producer_version=__version__)
    to.helper.set_model_props(model, card(net))
    return model


def card(net: PackedNet) -> dict[str, str]:
    """What the metadata of the file tell about a net: names of fields -> texts, JSON where a field has parts."""
    spec = net.input
    values = {"values": pixels} if (pixels := pixels_in_words(net)) else {}
    fields: dict[str, Any] = {
        "name": net.name,
        "statement": net.statement,
        "input": {"dtype": spec.dtype, "shape": list(spec.shape), "meaning": spec.meaning, **values},
        "output": net.output,
        "classes": net.classes,
        "onebit": __version__,
        "sha256": hashlib.sha256(dumps(net)).hexdigest(),
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items() if value}


def run(net: PackedNet, path: Path, inputs: np.ndarray, *, flavor: str = "standard") -> dict[str, np.ndarray]:
    """What onnxruntime computes, or the executor of qonnx for its flavor."""
    if flavor == "qonnx":
        return _run_qonnx(net, path, inputs)
    if find_spec("onnxruntime") is None:
        raise CannotRun("onnxruntime is not installed: pip install 'onebit[export]'")
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    size = max(1, _BATCH_VALUES // max(prod(value.shape) for value in net.values.values()))
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        parts = [
            session.run(net.outputs, {INPUT: inputs[start : start + size].reshape(-1, *net.input.shape)})
            for start in range(0, len(inputs), size)
        ]
    except Exception as error:  # those of onnxruntime have no base of their own
        said = f"onnxruntime {onnxruntime.__version__} says {first_line(error)}"
        raise OnebitError(f"the exported file fails: {said}; please report this") from error
    return {name: np.concatenate(part) for name, part in zip(net.outputs, zip(*parts, strict=True), strict=True)}


def _run_qonnx(net: PackedNet, path: Path, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """What the executor of qonnx computes, sample by sample."""
    if find_spec("qonnx") is None:
        raise CannotRun("qonnx is not installed; qonnx 1.0.0 needs onnx 1.19, best in an environment of its own")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    model = ModelWrapper(str(path)).transform(InferShapes())
    samples = [execute_onnx(model, {INPUT: sample[None]}) for sample in inputs.reshape(-1, *net.input.shape)]
    return {name: np.concatenate([made[name] for made in samples]) for name in net.outputs}
