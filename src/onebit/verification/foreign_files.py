"""Whether the weights in a GGUF or an ONNX file are binary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from onebit.common.files import open_regular
from onebit.errors import FormatError, UsageError
from onebit.packed.gguf_file import CARD, GROUP, Q1_0, GgufTensor, gguf_package, read_gguf
from onebit.packed.strict_json import parse_object
from onebit.verification.inspection import Inspection, LayerReport, inspect_weight

PRODUCTS = {"MatMul": 1, "Gemm": 1, "Conv": 1, "ConvTranspose": 1, "MatMulInteger": 1, "ConvInteger": 1}
PRODUCTS |= {"QLinearConv": 3}
"""Operation of ONNX -> which input is its weight."""
SUFFIXES = (".gguf", ".onnx")


def inspect_foreign(path: Path) -> Inspection:
    """Inspect a file with one of `SUFFIXES`: its matrices, and how many bits of the file a weight takes."""
    layers, facts, real = (_gguf if path.suffix == ".gguf" else _onnx)(path)
    if not layers:
        raise FormatError(f"{path}: no weights of two or more axes found")
    verdicts, length = {layer.verdict for layer in layers}, path.stat().st_size
    weights, binary = (sum(prod(x.shape) for x in layers if x.verdict in kinds) for kinds in (verdicts, {"binary"}))
    total = {
        **{"parameters": weights + real, "weights": weights, "binary_weights": binary, "macs": None},
        **{"bits_per_weight": 8 * length / weights, "bytes_in_file": length, "bytes_at_32_bit": 4 * (weights + real)},
        "bytes_at_1_bit": -(-binary // 8) + 4 * (weights - binary + real),
    }
    verdict = verdicts.pop() if len(verdicts) == 1 else "mixed"
    tensors = tuple({"name": layer.name, "shape": list(layer.shape), "dtype": layer.dtype} for layer in layers)
    return Inspection(str(path), path.suffix[1:], verdict, tuple(layers), total, facts, tensors, ())


def _gguf(path: Path) -> tuple[list[LayerReport], dict[str, Any], int]:
    found, tensors = read_gguf(path)
    keys = {"name": "general.name", "architecture": "general.architecture", "onebit": "onebit.version"}
    facts = {name: found[key] for name, key in keys.items() if key in found}
    if CARD in found:
        facts["card"] = parse_object("card", str(found[CARD]))
    sizes = {kind.name: 8 * size / block for kind, (block, size) in gguf_package().GGML_QUANT_SIZES.items()}
    layers = [replace(_matrix(*x), bits=sizes[x[1].kind]) for x in tensors.items() if len(x[1].shape) > 1]
    return layers, facts, sum(prod(tensor.shape) for tensor in tensors.values() if len(tensor.shape) < 2)


def _matrix(name: str, tensor: GgufTensor) -> LayerReport:
    """The report of a matrix: binary if the weights of each block of 128, or of each row, are ±d."""
    if tensor.kind != Q1_0:
        values = tensor.values()
        found = inspect_weight(name, values, dtype=tensor.kind)
        blocks = np.abs(values.reshape(-1, GROUP if values.shape[-1] % GROUP == 0 else values.shape[-1]))
        even = found.not_numbers == 0 and bool(((blocks == blocks[:, :1]) & (blocks > 0)).all())
        return replace(found, verdict="binary" if even else found.verdict)
    # of each block a ±d stands for all: published nets have billions of weights
    blocks = tensor.data.reshape(-1, 2 + GROUP // 8)
    scale = np.abs(np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32))
    found = inspect_weight(name, np.concatenate([scale, -scale], axis=1), dtype=tensor.kind)
    ones, one = int(np.bitwise_count(blocks[scale[:, 0] == 1, 2:]).sum()), GROUP * int((scale == 1).sum())
    counts: dict[str, Any] = {"minus_one": one - ones, "plus_one": ones, "not_numbers": found.not_numbers * GROUP // 2}
    counts |= {"between": found.between * GROUP // 2, "outside": found.outside * GROUP // 2}
    sound = found.not_numbers == 0 and bool((scale > 0).all())
    return replace(found, shape=tensor.shape, verdict="binary" if sound else "real", histogram=(), **counts)


def _onnx(path: Path) -> tuple[list[LayerReport], dict[str, Any], int]:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError:
        raise UsageError("ONNX files need the package onnx: pip install 'onebit[export]'") from None
    try:
        with open_regular(path) as file:
            content = file.read()
        model = onnx.load_model_from_string(content)
        constants = _Constants(model.graph, onnx, budget=512 * len(content))
        layers = [*constants.weights()]
    except (OSError, DecodeError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise FormatError(f"{path}: damaged, or not an ONNX file of one part ({error})") from None
    real = [
        t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and not constants.found.get(t.name)
    ]
    return layers, {"producer": f"{model.producer_name} {model.producer_version}"}, sum(prod(t.dims) for t in real)


class _Constants:
    """What an ONNX graph computes of its constants alone, by a few operations.

    Args:
        budget: the most numbers to compute; a small file must not fill the memory.
    """

    def __init__(self, graph: Any, onnx: Any, budget: int) -> None:
        self.graph, self.onnx, self.budget = graph, onnx, budget
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self.made = {name: (node, n) for node in graph.node for n, name in enumerate(node.output)}
        self.found: dict[str, tuple[np.ndarray, float] | None] = {}

    def value(self, name: str) -> tuple[np.ndarray, float] | None:
        """(the tensor, bits of each number in the file); None if it depends on inputs, or on other operations."""
        if name not in self.found:
            self.found[name] = None  # of a loop
            self.found[name] = found = self._value(name)
            self._spend(found)
        return self.found[name]

    def _spend(self, found: tuple[np.ndarray, float] | None) -> None:
        self.budget -= 0 if found is None else found[0].size
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
        (x, bits), (y, others) = inputs[0], inputs[-1]
        match node.op_type:
            case "Gather" if x.ndim == 2 and x.shape[1] * y.size <= self.budget:
                return x[y], others / x.shape[1]
            case "Reshape":
                return x.reshape(y), bits
            case "Split":
                end = y[: n + 1].sum()
                return x[end - y[n] : end], bits
            case "Transpose":
                return x.T, bits
            case "Mul" if np.broadcast_shapes(x.shape, y.shape) == x.shape:
                return x * y, bits
            case "BipolarQuant" if y.size == 1:
                return np.where(x >= 0, y, -y), bits
        return (x, bits) if node.op_type == "Cast" else None

    def weights(self) -> Iterator[LayerReport]:
        """The report of each weight."""
        for node in self.graph.node:
            place = PRODUCTS.get(node.op_type, len(node.input))
            name = "".join(node.input[place : place + 1])
            found = self.value(name)
            self._spend(found)  # the same weight may come often
            if found is not None and found[0].ndim >= 2 and found[0].size:
                weight = found[0].astype(np.float32)
                transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
                of_columns = node.op_type in ("MatMul", "MatMulInteger", "Gemm") and not transposed
                report = inspect_weight(name, weight.T if of_columns else weight, dtype=str(found[0].dtype))
                yield replace(report, bits=found[1])
