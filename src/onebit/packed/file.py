"""The `.1bit` file: a safetensors file with packed signs, and the graph as JSON under one metadata key.

The format is specified in docs/format.md. A file is hostile until it is read: its header is bounded and checked by
hand, and the shapes of all arrays are checked against the graph before an array is read.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, BinaryIO

import numpy as np

from onebit.bits import byte_count, bytes_to_words, word_count, words_to_bytes
from onebit.errors import FormatError
from onebit.files import write_atomic
from onebit.packed.certificate import Certificate
from onebit.packed.net import INPUT, InputSpec, PackedNet, op_name
from onebit.packed.nodes import OPS, Node
from onebit.packed.strict import check_fields, parse_json, short
from onebit.tables import did_you_mean

FORMAT = 1
KEY = "onebit"  # exactly one key: safetensors writes several in random order
MOST_HEADER_BYTES = 4_000_000  # 20 times what a net of a thousand layers needs; parsed JSON takes 40 times its text
MOST_TENSORS = 10_000
MOST_AXES = 4

_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32),
}
_FIELDS = ("format", "name", "input", "nodes", "output", "classes", "certificate")


def save(net: PackedNet, path: str | os.PathLike[str]) -> None:
    """Write a packed net; the file appears whole or not at all, and the same net always makes the same bytes.

    Raises:
        FormatError: some array holds what no net can mean (NaN, infinite, set tail bits).
        OnebitError: the file cannot be written.
    """
    write_atomic(path, dumps(net))


def load(path: str | os.PathLike[str]) -> PackedNet:
    """Read a packed net; inverse of `save`.

    Raises:
        FormatError: the file cannot be read or is not a sound `.1bit` file; one line that names it.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
            raise FormatError("is not a regular file")
        with open(path, "rb") as stream:
            return _read(stream, os.fstat(stream.fileno()).st_size)
    except FormatError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from None
    except MemoryError:
        raise FormatError(f"{os.fspath(path)}: needs more memory than there is") from None
    except OSError as error:
        raise FormatError(f"cannot read {os.fspath(path)!r}: {error.strerror or error}") from error


def dumps(net: PackedNet) -> bytes:
    """The bytes of the file of a packed net.

    Raises:
        FormatError: as `save`.
    """
    from safetensors.numpy import save as save_tensors

    net.check_values()
    tensors: dict[str, np.ndarray] = {}
    for name in ("mean", "std"):
        if (array := getattr(net.input, name)) is not None:
            tensors[f"{INPUT}.{name}"] = np.ascontiguousarray(array)
    nodes = []
    for node in net.nodes:
        attributes = {name: getattr(node, name) for name in node.attributes}
        nodes.append({"op": op_name(node), "inputs": list(node.inputs), "output": node.output, **attributes})
        for name in node.arrays:
            if (array := getattr(node, name)) is not None:
                if name == "signs":
                    array = words_to_bytes(array, attributes["in_features"])
                # safetensors would store the raw memory of a transposed array under its logical shape
                tensors[f"{node.output}.{name}"] = np.ascontiguousarray(array)
    graph = {
        "format": FORMAT,
        "name": net.name,
        "input": {"shape": list(net.input.shape), "coding": net.input.coding},
        "nodes": nodes,
        "output": net.output,
        "classes": None if net.classes is None else list(net.classes),
        "certificate": None if net.certificate is None else net.certificate.to_json(),
    }
    data = save_tensors(tensors, metadata={KEY: json.dumps(graph, separators=(",", ":"), allow_nan=False)})
    _read_header(io.BytesIO(data), len(data))  # its limits hold for what we write too
    return data


def loads(data: bytes) -> PackedNet:
    """The packed net in the bytes of a file; inverse of `dumps`.

    Raises:
        FormatError: the bytes are not a sound `.1bit` file.
    """
    return _read(io.BytesIO(data), len(data))


def _read(stream: BinaryIO, size: int) -> PackedNet:
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_tensors

    header, tensors, graph_text = _read_header(stream, size)
    graph = parse_json("the graph", graph_text)
    shapes = {name: np.broadcast_to(np.zeros((), dtype), shape) for name, (dtype, shape) in tensors.items()}
    _build(graph, shapes, _shape_of_words)  # the whole graph, with arrays of the right shape that take no memory

    data = header + stream.read()
    if len(data) != size:
        raise FormatError(f"has {len(data)} bytes, expected {size}: it changed while it was read")
    try:
        arrays = load_tensors(data)
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"is not a sound safetensors file: {error}") from None
    net = _build(graph, arrays, bytes_to_words)
    net.check_values()
    return net


def _read_header(stream: BinaryIO, size: int) -> tuple[bytes, dict[str, tuple[np.dtype[Any], tuple[int, ...]]], str]:
    """The first bytes of a file up to the arrays, dtype and shape of each tensor, and the text of the graph."""
    prefix = stream.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or not 2 <= length <= min(MOST_HEADER_BYTES, size - 8):
        if prefix[:4] == b"PK\x03\x04" or prefix[:1] == b"\x80":
            raise FormatError("is a pickled file such as a torch checkpoint, not a packed net; `onebit pack` makes one")
        raise FormatError("is no .1bit file, or a truncated one")
    text = stream.read(length)
    if len(text) < length:
        raise FormatError(f"has {len(text)} bytes of its header, expected {length}")
    header = parse_json("the header", text)
    if not isinstance(header, dict):
        raise FormatError("the header is not an object")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(KEY), str):
        raise FormatError(f"is no packed net: the safetensors metadata has no text {KEY!r}; `onebit pack` makes one")
    check_fields("the metadata", metadata, (KEY,))
    if len(header) > MOST_TENSORS:
        raise FormatError(f"has {len(header)} tensors, expected at most {MOST_TENSORS}")
    tensors = {name: _tensor(name, entry, size - 8 - length) for name, entry in header.items()}
    return prefix + text, tensors, metadata[KEY]


def _tensor(name: str, entry: object, size: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """dtype and shape of a header entry that lies inside the `size` bytes after the header."""
    what = f"tensor {short(name)}"
    fields = check_fields(what, entry, ("dtype", "shape", "data_offsets"))
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise FormatError(f"{what} has dtype {short(dtype)}, expected one of {', '.join(_DTYPES)}")
    if not _are_sizes(shape) or not 1 <= len(shape) <= MOST_AXES or 0 in shape:
        raise FormatError(f"{what} has shape {short(shape)}, expected 1 to {MOST_AXES} positive integers")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[1] > size:
        raise FormatError(f"{what} has offsets {short(offsets)}, expected two inside the {size} bytes of data")
    if offsets[1] - offsets[0] != prod(shape) * _DTYPES[dtype].itemsize:
        raise FormatError(f"{what} has {offsets[1] - offsets[0]} bytes, which its shape {short(shape)} does not need")
    return _DTYPES[dtype], tuple(shape)


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _shape_of_words(rows: np.ndarray, count: int) -> np.ndarray:
    """Stands in for `bytes_to_words` while only shapes are checked."""
    return np.broadcast_to(np.zeros((), np.uint64), (len(rows), word_count(count)))


def _build(
    graph: object, tensors: Mapping[str, np.ndarray], to_words: Callable[[np.ndarray, int], np.ndarray]
) -> PackedNet:
    """The net of a graph and its tensors; each tensor must be used."""
    version = graph.get("format") if isinstance(graph, dict) else None
    if type(version) is not int or version < 1:
        raise FormatError(f"the graph has format {short(version)}, expected {FORMAT}")
    if version > FORMAT:
        raise FormatError(f"is of format {version}, newer than the {FORMAT} this onebit reads; upgrade onebit")
    fields = check_fields("the graph", graph, _FIELDS)
    left = dict(tensors)
    spec = check_fields("input", fields["input"], ("shape", "coding"))
    if not _are_sizes(spec["shape"]):
        raise FormatError(f"input shape is {short(spec['shape'])}, expected three positive integers (C, H, W)")
    moments = {name: left.pop(f"{INPUT}.{name}", None) for name in ("mean", "std")}
    entries = _list("nodes", fields["nodes"])
    classes = None if fields["classes"] is None else tuple(_list("classes", fields["classes"]))
    certificate = None if fields["certificate"] is None else Certificate.from_json(fields["certificate"])
    net = PackedNet(
        input=InputSpec(shape=tuple(spec["shape"]), coding=spec["coding"], **moments),
        nodes=tuple(_build_node(index, entry, left, to_words) for index, entry in enumerate(entries)),
        output=fields["output"],
        classes=classes,
        certificate=certificate,
        name=fields["name"],
    )
    if left:
        raise FormatError(f"tensor {short(min(left))} belongs to no node")
    return net


def _build_node(
    index: int, entry: object, left: dict[str, np.ndarray], to_words: Callable[[np.ndarray, int], np.ndarray]
) -> Node:
    """One node of the graph; its tensors are taken out of `left`."""
    op = entry.get("op") if isinstance(entry, dict) else None
    if not isinstance(op, str) or op not in OPS:
        hint = did_you_mean(op[:100], OPS) if isinstance(op, str) else ""
        raise FormatError(f"node {index} has the unknown op {short(op)}{hint}")
    kind = OPS[op]
    fields = check_fields(f"node {index} ({op})", entry, ("op", "inputs", "output", *kind.attributes))
    inputs, output = _list(f"inputs of node {index}", fields["inputs"]), fields["output"]
    if not isinstance(output, str) or not all(isinstance(name, str) for name in inputs):
        raise FormatError(f"node {index} ({op}) has inputs or an output that is no text")
    attributes = {name: fields[name] for name in kind.attributes}
    arrays = {name: left.pop(f"{output}.{name}", None) for name in kind.arrays}
    try:
        if (rows := arrays.get("signs")) is not None:
            count = attributes["in_features"]
            if type(count) is not int or rows.dtype != np.uint8 or rows.shape[1:] != (byte_count(count),):
                raise FormatError(f"signs are {rows.dtype} {rows.shape}, expected uint8 rows for {short(count)} signs")
            arrays["signs"] = to_words(rows, count)
        return kind(inputs=tuple(inputs), output=output, **attributes, **arrays)
    except FormatError as error:
        raise FormatError(f"node {short(output)} ({op}): {error}") from None


def _list(what: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise FormatError(f"{what} is {short(value)}, expected a list")
    return value
