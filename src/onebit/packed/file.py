"""The `.1bit` file: a safetensors file with packed signs, and the graph as JSON under one metadata key.

docs/format.md specifies the format. Files are not trusted: the header is bounded and checked by hand, and the shapes of
all arrays are checked against the graph before any array is read. A digest of all bytes detects accidental
changes, not deliberate ones.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Annotated, Any, BinaryIO

import numpy as np

from onebit.common.fields import within
from onebit.common.files import open_regular, write_atomic
from onebit.common.record import Record, Text, Whole
from onebit.errors import FormatError, first_line, short
from onebit.nets import nearest_net, net_path
from onebit.packed.bits import byte_count, bytes_to_words, word_count, words_to_bytes
from onebit.packed.net import INPUT, MAX_NODES, InputSpec, PackedNet
from onebit.packed.node_text import from_line, to_lines
from onebit.packed.nodes import Node
from onebit.packed.nodes.node import ARRAYS
from onebit.packed.strict_json import parse_object

FORMAT = 2
KEY = "onebit"  # the only key, because safetensors writes several in random order
MAX_HEADER_BYTES = 4_000_000
"""20 times the header of a net with a thousand layers. Parsed JSON takes 40 times the memory of its text."""

TENSORS = {name: dtype for name, (dtype, _) in ARRAYS.items()} | {"signs": "uint8"}
TENSORS |= dict.fromkeys((f"{INPUT}.mean", f"{INPUT}.std"), "float32")
"""The possible tensors of a file. Each concatenates the arrays of one field over all nodes but `PackedNet.repeats`."""

_CODES = {"uint8": "U8", "int8": "I8", "int32": "I32", "int64": "I64", "float32": "F32"}
_NO_DIGEST = "0" * 64  # replaces the digest while it is computed


def save(net: PackedNet, path: str | os.PathLike[str]) -> None:
    """Write a packed net, completely or not at all. Equal nets give equal bytes.

    Raises:
        FormatError: an array has invalid values (NaN, infinity, set tail bits).
        OnebitError: the file cannot be written.
    """
    write_atomic(path, dumps(net))


def load(path: str | os.PathLike[str]) -> PackedNet:
    """Read a packed net; inverse of `save`.

    Args:
        path: a `.1bit` file, or the name of a net that ships with onebit, see `onebit.nets.net_path`.

    Raises:
        UsageError: the name of a net that is also a file or run folder here.
        FormatError: the file cannot be read, is not a valid `.1bit` file or was changed after it was written.
    """
    return load_with_digest(path)[0]


def load_with_digest(path: str | os.PathLike[str]) -> tuple[PackedNet, str]:
    """The packed net of a file and its verified digest. Errors: see `load`."""
    try:
        with open_regular(net_path(path)) as stream:
            return _read(stream, os.fstat(stream.fileno()).st_size)
    except FormatError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from None
    except (OSError, MemoryError) as error:
        hint = nearest_net(path) if isinstance(error, FileNotFoundError) else ""
        raise FormatError(
            f"cannot read {os.fspath(path)!r}: {getattr(error, 'strerror', None) or first_line(error)}{hint}"
        ) from error


def dumps(net: PackedNet) -> bytes:
    """The bytes of the file of a packed net; FormatError for invalid values."""
    from safetensors.numpy import save as save_tensors

    net.check_values()
    parts: dict[str, list[np.ndarray]] = {}
    for spec in net.inputs.values():
        for name, array in (("mean", spec.mean), ("std", spec.std)):
            if array is not None:
                parts.setdefault(f"{INPUT}.{name}", []).append(array)
    for node in net.nodes:
        for name, array in ({} if node.output in net.repeats else node.stored).items():
            rows = words_to_bytes(array, node.in_features) if name == "signs" else array  # type: ignore[attr-defined]
            parts.setdefault(name, []).append(rows.reshape(-1))
    specs = {name: spec.to_json() for name, spec in net.inputs.items()}
    graph = {
        "digest": _NO_DIGEST,  # first, so that these are the first 64 zeros of the file
        "format": FORMAT,
        "name": net.name,
        **({"input": specs[INPUT]} if [*specs] == [INPUT] else {"inputs": specs}),
        "nodes": to_lines(net.nodes, net.repeats),
        **net.to_json(),
    }
    # contiguous, because safetensors would write the raw memory of a strided array
    tensors = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    data = save_tensors(tensors, metadata={KEY: json.dumps(graph, separators=(",", ":"), allow_nan=False)})
    _read_header(io.BytesIO(data), len(data))  # files that we write obey the same limits
    return data.replace(_NO_DIGEST.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def loads(data: bytes) -> PackedNet:
    """The packed net in the bytes of a file; inverse of `dumps`.

    Raises:
        FormatError: not a valid `.1bit` file, or changed bytes.
    """
    return _read(io.BytesIO(data), len(data))[0]


def _read(stream: BinaryIO, size: int) -> tuple[PackedNet, str]:
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_tensors

    header, tensors, graph_text = _read_header(stream, size)
    graph = parse_object("the graph", graph_text)
    digest, version, lines = (graph.pop(name, None) for name in ("digest", "format", "nodes"))
    specs = {INPUT: graph.pop("input")} if "input" in graph else graph.pop("inputs", None)
    if type(version) is not int or version != FORMAT:
        raise FormatError(f"the graph has format {short(version)}, expected {FORMAT}")
    # first the whole graph, with arrays of the right shape that take no memory
    shapes = {name: np.broadcast_to(np.zeros((), dtype), count) for name, (dtype, count) in tensors.items()}
    net = PackedNet.from_json(graph, **_parts(specs, lines, shapes, _shape_of_words))

    data = header + stream.read()
    blank = data.replace(str(digest).encode(errors="replace"), _NO_DIGEST.encode(), 1)
    if hashlib.sha256(blank).hexdigest() != digest:
        raise FormatError("its bytes do not match its digest: the file was changed after it was written")
    try:
        arrays = load_tensors(data)
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"is not a valid safetensors file: {error}") from None
    net = replace(net, **_parts(specs, lines, arrays, bytes_to_words))
    net.check_values()
    return net, digest


def _read_header(stream: BinaryIO, size: int) -> tuple[bytes, dict[str, tuple[np.dtype[Any], int]], str]:
    """The bytes of a file before the arrays, dtype and length of each tensor, and the text of the graph."""
    prefix = stream.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise FormatError("is not a .1bit file, or is truncated; `onebit pack` converts a checkpoint")
    text = stream.read(length)
    header = parse_object("the header", text)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.keys() != {KEY}:
        raise FormatError(f"is not a packed net: its metadata is {short(metadata)}")
    tensors = {name: _tensor(name, entry, size - 8 - length) for name, entry in header.items()}
    return prefix + text, tensors, metadata[KEY]


@dataclass(frozen=True)
class _Tensor(Record):
    """An entry of the header."""

    dtype: Text
    shape: tuple[Annotated[Whole, within("[1, inf)")]]
    data_offsets: tuple[Whole, Whole]

    KIND = "a tensor"


def _tensor(name: str, entry: object, size: int) -> tuple[np.dtype[Any], int]:
    """dtype and length of a header entry, whose data must lie within the `size` bytes after the header."""
    if name not in TENSORS:
        raise FormatError(f"tensor {short(name)} is not part of a packed net; known: {', '.join(TENSORS)}")
    made, dtype = _Tensor.from_json(entry), np.dtype(TENSORS[name])
    start, stop = made.data_offsets
    if made.dtype != _CODES[TENSORS[name]] or stop > size or stop - start != made.shape[0] * dtype.itemsize:
        raise FormatError(f"is truncated: tensor {name} is {short(entry)}, with {size} bytes after the header")
    return dtype, made.shape[0]


def _shape_of_words(rows: np.ndarray, count: int) -> np.ndarray:
    """Replaces `bytes_to_words` while only shapes are checked."""
    return np.broadcast_to(np.zeros((), np.uint64), (len(rows), word_count(count)))


def _parts(
    specs: object, lines: object, tensors: Mapping[str, np.ndarray], to_words: Callable[[np.ndarray, int], np.ndarray]
) -> dict[str, Any]:
    """The inputs and the nodes of a graph; they must use every value of the tensors."""
    if not isinstance(lines, list):
        raise FormatError(f"nodes is {short(lines)}, expected a list")
    if not isinstance(specs, dict):
        raise FormatError(f"the inputs are {short(specs)}, expected an object")
    used = Counter[str]()

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        stored = (shape[0], byte_count(shape[1])) if name == "signs" else shape
        start, stop = used[name], used[name] + prod(stored)
        if name not in tensors or stop > len(tensors[name]):
            left = len(tensors[name]) - start if name in tensors else 0
            raise FormatError(f"{name} of shape {short(shape)} is not in the file, which has {left} more values of it")
        used[name] = stop
        array = tensors[name][start:stop].reshape(stored)
        return to_words(array, shape[1]) if name == "signs" else array

    inputs = {}
    for name, spec in specs.items():
        moments: dict[str, Any] = {}
        if isinstance(spec, dict) and spec.get("coding") == "standardise":
            shape = spec.get("shape")
            channels = shape[0] if isinstance(shape, list) and shape and type(shape[0]) is int else 0
            moments = {field: take(f"{INPUT}.{field}", (max(0, channels),)) for field in ("mean", "std")}
        inputs[name] = InputSpec.from_json(spec, **moments)
    nodes, earlier = list[Node](), dict[str, Node]()
    for line in lines[: MAX_NODES + 1]:  # `infer` refuses a net with one more
        nodes.append(from_line(line, earlier, take))
        earlier[nodes[-1].output] = nodes[-1]
    for name, array in tensors.items():
        if used[name] != len(array):
            raise FormatError(f"tensor {name!r} has {len(array)} values, but the nodes use {used[name]}")
    return {"inputs": inputs, "nodes": tuple(nodes)}
