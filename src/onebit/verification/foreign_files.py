"""Whether the weights in a GGUF or an ONNX file are binary."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from onebit.common.files import open_regular
from onebit.errors import FormatError, UsageError, short
from onebit.packed.gguf_file import CARD, GROUP, Q1_0, TYPES, GgufTensor, read_gguf
from onebit.packed.strict_json import parse_object
from onebit.verification.inspection import Inspection, LayerReport, inspect_weight

SUFFIXES = (".gguf", ".onnx")
_Constant = tuple[np.ndarray, float] | None
"""A constant of an ONNX graph, and the bits that each of its numbers takes in the file; None if it was not computed."""
_Found = tuple[list[LayerReport], dict[str, Any], int, list[str]]
"""Reports of matrices, facts, the number of other real numbers, and the names of weights that cannot be read."""


def inspect_foreign(path: Path) -> Inspection:
    """Inspect a file with one of `SUFFIXES`: its matrices, and how many bits of the file a weight takes."""
    layers, facts, real, unread = (_gguf if path.suffix == ".gguf" else _onnx)(path)
    if not layers and not unread:
        raise FormatError(f"{path}: no weights of two or more axes found")
    verdicts, length = {layer.verdict for layer in layers}, path.stat().st_size
    weights, binary = (sum(prod(x.shape) for x in layers if x.verdict in kinds) for kinds in (verdicts, {"binary"}))
    total = {
        "parameters": weights + real,
        "weights": weights,
        "binary_weights": binary,
        "macs": None,
        "bits_per_weight": 8 * length / max(1, weights),
        "bytes_in_file": length,
        "bytes_at_32_bit": 4 * (weights + real),
        "bytes_at_1_bit": -(-binary // 8) + 4 * (weights - binary + real),
    }
    verdict = verdicts.pop() if len(verdicts) == 1 and not unread else "mixed"
    warnings = [f"{name}: a weight by operations that are not known here" for name in unread[:5]]
    tensors = tuple({"name": layer.name, "shape": list(layer.shape), "dtype": layer.dtype} for layer in layers)
    return Inspection(str(path), path.suffix[1:], verdict, tuple(layers), total, facts, tensors, tuple(warnings))


def _gguf(path: Path) -> _Found:
    found, _, tensors = read_gguf(path)
    keys = {"name": "general.name", "architecture": "general.architecture", "onebit": "onebit.version"}
    facts = {name: found[key] for name, key in keys.items() if key in found}
    if CARD in found:
        facts["card"] = parse_object("card", str(found[CARD]))
    sizes = {name: 8 * size / block for name, block, size in TYPES.values()}
    layers = [replace(_matrix(*x), bits=sizes[x[1].kind]) for x in tensors.items() if len(x[1].shape) > 1]
    return layers, facts, sum(prod(tensor.shape) for tensor in tensors.values() if len(tensor.shape) < 2), []


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


def _onnx(path: Path) -> _Found:
    """The weights are what the graph computes of its constants alone, which stand in topological order."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError:
        raise UsageError("ONNX files need the package onnx: pip install 'onebit[export]'") from None
    try:
        with open_regular(path) as file:
            content = file.read()

        def to_array(tensor: Any) -> np.ndarray:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:  # onnx would open any file beside it
                raise ValueError(f"{short(tensor.name)} lies in another file")
            return onnx.numpy_helper.to_array(tensor)

        model = onnx.load_model_from_string(content)
        stored = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
        constants: dict[str, _Constant] = {name: (x, 8 * x.itemsize) for name, x in stored.items()}
        layers, lost, unread = dict[str, LayerReport](), set[str](), set[str]()
        budget = 512 * len(content)  # numbers: a small file must not fill the memory
        for node in model.graph.node:
            op, given = node.op_type, {n: name for n, name in enumerate(node.input) if name in constants}
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            if any(isinstance(value, onnx.GraphProto) for value in attributes.values()):
                unread.add(f"{op} {node.name}")  # its graph may have weights
            if op == "Constant" and "value" in attributes:
                constants[node.output[0]] = (x := to_array(attributes["value"])), 8 * x.itemsize
            elif len(given) == len(node.input):
                for n, name in enumerate(node.output):
                    found = _computed(op, attributes, n, [constants[name] for name in given.values()], budget)
                    constants[name] = found
                    if found is None and any(each in lost or _is_matrix(constants[each]) for each in given.values()):
                        lost.add(name)
                    budget -= 0 if found is None else found[0].size
            else:
                for n, name in given.items():
                    if name in lost:
                        unread.add(name)
                    elif (found := constants[name]) and name not in layers and _is_matrix(found):
                        of_columns = n and ("MatMul" in op or (op == "Gemm" and not attributes.get("transB")))
                        weight = (found[0].T if of_columns else found[0]).astype(np.float32)
                        layers[name] = replace(inspect_weight(name, weight, dtype=str(found[0].dtype)), bits=found[1])
            if budget < 0:
                raise ValueError("its weights are far larger than it")
    except (OSError, DecodeError, ValueError, LookupError, TypeError) as error:
        raise FormatError(f"{path}: damaged, or not an ONNX file of one part ({error})") from None
    real = sum(x.size for x in stored.values() if x.dtype == np.float32 and sum(side > 1 for side in x.shape) < 2)
    return [*layers.values()], {"producer": f"{model.producer_name} {model.producer_version}"}, real, sorted(unread)


def _is_matrix(found: _Constant) -> bool:
    """Whether a constant may be a weight; int64 are shapes and indices."""
    return found is not None and sum(side > 1 for side in found[0].shape) > 1 and found[0].dtype != int


def _computed(op: str, attributes: dict[str, Any], n: int, given: list[_Constant], most: int) -> _Constant:
    """The output `n` of a node whose inputs are constants; None for other operations, or more than `most` numbers."""
    known = [each for each in given if each is not None]
    if not known or len(known) < len(given):
        return None
    (x, bits), (y, others) = known[0], known[-1]
    match op:
        case "Cast" | "Identity":
            return x, bits
        case "Reshape":
            return x.reshape(y), bits
        case "Transpose":
            return x.transpose(attributes.get("perm")), bits
        case "Split" if len(known) == 2 and not attributes.get("axis"):
            end = y[: n + 1].sum()
            return x[end - y[n] : end], bits
        case "Gather" if x.ndim == 2 and not attributes.get("axis") and x.shape[1] * y.size <= most:
            return x[y], others / x.shape[1]
        case "Mul" if np.broadcast_shapes(x.shape, y.shape) == x.shape:
            return x * y, bits
        case "BipolarQuant" if y.size == 1:
            return np.where(x >= 0, y, -y), bits
        case "DequantizeLinear" if x.ndim > 1:
            axis = attributes.get("axis", 1) % x.ndim
            shape = [-1 if i == axis else 1 for i in range(x.ndim)]
            if all(part.size in (1, x.shape[axis]) for part, _ in known[1:]):
                zero = y.reshape(shape) if len(known) > 2 else 0
                return (x.astype(np.float32) - zero) * known[1][0].reshape(shape), bits
    return None
