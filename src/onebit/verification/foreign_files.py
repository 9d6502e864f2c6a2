"""Whether the weights in a GGUF or an ONNX file are binary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onebit.common.files import open_regular
from onebit.errors import FormatError, UsageError
from onebit.packed.gguf_file import CARD, GROUP, Q1_0, GgufTensor, gguf_package, read_gguf
from onebit.packed.strict_json import parse_object
from onebit.verification.inspection import Inspection, LayerReport, inspect_weight

WEIGHT_INPUT = {
    "MatMul": 1,
    "Gemm": 1,
    "Conv": 1,
    "ConvTranspose": 1,
    "MatMulInteger": 1,
    "ConvInteger": 1,
    "QLinearConv": 3,
}
"""Operation of ONNX -> which input is its weight."""
SUFFIXES = (".gguf", ".onnx")


def inspect_foreign(path: Path) -> Inspection:
    """Inspect a file with one of `SUFFIXES`."""
    layers, facts, real = (_gguf if path.suffix == ".gguf" else _onnx)(path)
    if not layers:
        raise FormatError(f"{path}: no weights of two or more axes found")
    verdicts = {layer.verdict for layer in layers}
    weights, length = sum(math.prod(layer.shape) for layer in layers), path.stat().st_size
    binary = sum(math.prod(layer.shape) for layer in layers if layer.verdict == "binary")
    total = {
        "parameters": weights + real,
        "weights": weights,
        "binary_weights": binary,
        "bits_per_weight": 8 * length / weights,
        "bytes_in_file": length,
        "bytes_at_32_bit": 4 * (weights + real),
        "bytes_at_1_bit": -(-binary // 8) + 4 * (weights - binary + real),
        "macs": None,
    }
    verdict = verdicts.pop() if len(verdicts) == 1 else "mixed"
    tensors = tuple({"name": layer.name, "shape": list(layer.shape), "dtype": layer.dtype} for layer in layers)
    return Inspection(str(path), path.suffix[1:], verdict, tuple(layers), total, facts, tensors, ())


def _gguf(path: Path) -> tuple[list[LayerReport], dict[str, Any], int]:
    file = read_gguf(path)
    keys = {"name": "general.name", "architecture": "general.architecture", "onebit": "onebit.version"}
    facts = {name: file.facts[key] for name, key in keys.items() if key in file.facts}
    if CARD in file.facts:
        facts["card"] = parse_object("card", str(file.facts[CARD]))
    matrices = {name: tensor for name, tensor in file.tensors.items() if len(tensor.shape) > 1}
    real = sum(math.prod(tensor.shape) for name, tensor in file.tensors.items() if name not in matrices)
    sizes = {kind.name: 8 * size / block for kind, (block, size) in gguf_package().GGML_QUANT_SIZES.items()}
    layers = [replace(_matrix(name, tensor), bits=sizes[tensor.kind]) for name, tensor in matrices.items()]
    return layers, facts, real


def _matrix(name: str, tensor: GgufTensor) -> LayerReport:
    """The report of a matrix: binary if the weights of each block of 128, or of each row, are ±d."""
    if tensor.kind != Q1_0:
        values = tensor.values()
        found = inspect_weight(name, values, dtype=tensor.kind)
        blocks = np.abs(values.reshape(-1, GROUP if values.shape[-1] % GROUP == 0 else values.shape[-1]))
        even = found.not_numbers == 0 and bool(((blocks == blocks[:, :1]) & (blocks > 0)).all())
        return replace(found, verdict="binary" if even else found.verdict)
    blocks = tensor.data.reshape(-1, 2 + GROUP // 8)  # counted by block: published nets have billions of weights
    scale = np.abs(np.ascontiguousarray(blocks[:, :2]).view("<f2")[:, 0].astype(np.float32))
    numbers, ones = np.isfinite(scale), np.bitwise_count(blocks[:, 2:]).sum(1, dtype=np.int64)
    plus, size = int(ones[scale == 1].sum()), [int((x).sum()) * GROUP for x in (scale == 1, scale < 1, scale > 1)]
    most, sound = float(scale.max()), bool((numbers & (scale > 0)).all())
    return LayerReport(
        name=name,
        shape=tensor.shape,
        dtype=tensor.kind,
        verdict="binary" if sound else "real",
        low=-most,
        high=most,
        minus_one=size[0] - plus,
        plus_one=plus,
        between=size[1],
        outside=size[2],
        not_numbers=int((~numbers).sum()) * GROUP,
        distance=float(np.abs(scale - 1).mean(dtype=np.float64)),
        bits=1,
    )


def _onnx(path: Path) -> tuple[list[LayerReport], dict[str, Any], int]:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError:
        raise UsageError("ONNX files need the package onnx: pip install 'onebit[export]'") from None
    try:
        with open_regular(path) as file:
            content = file.read()
        constants = _Constants(onnx.load_model_from_string(content), onnx, budget=512 * len(content))
        layers = [*constants.weights()]
    except (OSError, DecodeError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise FormatError(f"{path}: damaged, or not an ONNX file of one part ({error})") from None
    return layers, constants.facts, constants.others()


class _Constants:
    """What an ONNX graph computes of its constants alone, by a few operations.

    Args:
        budget: the most numbers to compute; a small file must not fill the memory.
    """

    def __init__(self, model: Any, onnx: Any, budget: int) -> None:
        self.graph, self.onnx, self.budget = model.graph, onnx, budget
        self.facts = {"producer": f"{model.producer_name} {model.producer_version}".strip()}
        self.stored = {tensor.name: tensor for tensor in self.graph.initializer}
        self.made = {name: (node, n) for node in self.graph.node for n, name in enumerate(node.output)}
        self.found: dict[str, tuple[np.ndarray, float] | None] = {}

    def value(self, name: str) -> tuple[np.ndarray, float] | None:
        """(the tensor, bits of each number in the file); None if it depends on inputs, or on other operations."""
        if name not in self.found:
            self.found[name] = None  # of a loop
            self.found[name] = found = self._value(name)
            self._spend(0 if found is None else found[0].size)
        return self.found[name]

    def _spend(self, numbers: int) -> None:
        self.budget -= numbers
        if self.budget < 0:
            raise ValueError("its weights are far larger than it")

    def _value(self, name: str) -> tuple[np.ndarray, float] | None:
        if name in self.stored:
            array = self.onnx.numpy_helper.to_array(self.stored[name])
            return array, 8 * array.itemsize
        node, n = self.made.get(name, (None, 0))
        if node is None or node.op_type not in (
            "Gather",
            "Reshape",
            "Split",
            "Cast",
            "Mul",
            "Transpose",
            "BipolarQuant",
        ):
            return None
        inputs = [found for each in node.input if (found := self.value(each)) is not None]
        if not inputs or len(inputs) < len(node.input):
            return None
        (x, bits), *others = inputs
        y = others[0][0] if others else np.ones(())
        match node.op_type:
            case "Gather" if x.ndim == 2 and x.shape[1] * y.size <= self.budget:
                return x[y], others[0][1] / x.shape[1]
            case "Reshape":
                return x.reshape(y), bits
            case "Split":
                end = y[: n + 1].sum()
                return x[end - y[n] : end], bits
            case "Cast":
                return x, bits
            case "Transpose":
                return x.T, bits
            case "Mul" if np.broadcast_shapes(x.shape, y.shape) == x.shape:
                return x * y, bits
            case "BipolarQuant" if y.size == 1:
                return np.where(x >= 0, y, -y), bits
        return None

    def weights(self) -> Iterator[LayerReport]:
        """The report of each weight."""
        for node in self.graph.node:
            place = WEIGHT_INPUT.get(node.op_type, len(node.input))
            name = node.input[place] if place < len(node.input) else ""
            if (found := self.value(name)) is None or found[0].ndim < 2:
                continue
            self._spend(found[0].size)  # the same weight may come often
            weight, bits = found[0].astype(np.float32), found[1]
            of_columns = node.op_type.startswith("MatMul") or (
                node.op_type == "Gemm" and not any(a.name == "transB" and a.i for a in node.attribute)
            )
            report = inspect_weight(name, weight.T if of_columns else weight, dtype=str(found[0].dtype))
            yield replace(report, bits=bits)

    def others(self) -> int:
        """Real numbers that are no weights."""
        kind = self.onnx.TensorProto.FLOAT
        return sum(
            math.prod(t.dims) for name, t in self.stored.items() if t.data_type == kind and not self.found.get(name)
        )
