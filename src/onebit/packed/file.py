"""The `.1bit` file: a safetensors file with packed signs, and the graph as JSON under one metadata key.

docs/format.md specifies the format. Files are not trusted: the header is bounded and checked by hand, and the shapes of
all arrays are checked against the graph before any array is read. A digest of all bytes detects accidental changes; it
does not protect against deliberate ones.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, BinaryIO

import numpy as np

from onebit.common.files import open_regular, write_atomic
from onebit.errors import FormatError, first_line, short
from onebit.nets import net_path, not_a_net
from onebit.packed.bits import byte_count, bytes_to_words, word_count, words_to_bytes
from onebit.packed.card import Card
from onebit.packed.certificate import Certificate
from onebit.packed.net import INPUT, MOST_NODES, InputSpec, PackedNet
from onebit.packed.node_text import from_line, to_lines
from onebit.packed.nodes import Node
from onebit.packed.strict_json import check_fields, parse_json

FORMAT = 2
KEY = "onebit"  # the only key, because safetensors writes several in random order
MOST_HEADER_BYTES = (
    4_000_000  # 20 times the header of a net of a thousand layers; parsed JSON takes 40 times the memory of its text
)

TENSORS: dict[str, str] = {
    "signs": "U8",
    "scale": "F32",
    "centre": "F32",
    "weight": "F32",
    "shift": "F32",
    "slope": "F32",
    "threshold": "I32",
    "direction": "I8",
    "multiplier": "I32",
    "offset": "I64",
    "low": "F32",
    "high": "F32",
    f"{INPUT}.mean": "F32",
    f"{INPUT}.std": "F32",
}
"""The possible tensors of a file: each concatenates the arrays of one field over all nodes."""

_DTYPES = {
    name: np.dtype(kind) for name, kind in {"U8": "u1", "I8": "i1", "I32": "i4", "I64": "i8", "F32": "f4"}.items()
}
_FIELDS = ("digest", "format", "name", "input", "nodes", "output", "classes", "certificate")
_SPEC_FIELDS = ("shape", "coding", "dtype", "meaning")
_SPEC_DEFAULTS = {"dtype": "uint8", "meaning": ""}  # not written, so that image nets have the bytes of before
_NO_DIGEST = "0" * 64  # replaces the digest while it is computed
_DIGEST = re.compile("[0-9a-f]{64}")


def save(net: PackedNet, path: str | os.PathLike[str]) -> None:
    """Write a packed net, completely or not at all. The same net always gives the same bytes.

    Raises:
        FormatError: some array has invalid values (NaN, infinite, set tail bits).
        OnebitError: the file cannot be written.
    """
    write_atomic(path, dumps(net))


def load(path: str | os.PathLike[str]) -> PackedNet:
    """Read a packed net; inverse of `save`.

    Args:
        path: of a `.1bit` file, or the name of a net that comes with onebit, see `onebit.nets.net_path`.

    Raises:
        UsageError: the name of a net, and also of a file or run folder here.
        FormatError: the file cannot be read, is not a valid `.1bit` file or was changed after it was written; the
            message names the file.
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
        hint = not_a_net(path) if isinstance(error, FileNotFoundError) else ""
        raise FormatError(
            f"cannot read {os.fspath(path)!r}: {getattr(error, 'strerror', None) or first_line(error)}{hint}"
        ) from error


def dumps(net: PackedNet) -> bytes:
    """The bytes of the file of a packed net; FormatError for invalid values."""
    from safetensors.numpy import save as save_tensors

    net.check_values()
    moments = {f"{INPUT}.{name}": getattr(net.input, name) for name in ("mean", "std")}
    parts = {name: [array] for name, array in moments.items() if array is not None}
    for node in net.nodes:
        for name, array in node.stored.items():
            rows = words_to_bytes(array, node.in_features) if name == "signs" else array  # type: ignore[attr-defined]
            parts.setdefault(name, []).append(rows.reshape(-1))
    graph = {
        "digest": _NO_DIGEST,  # first, so that these are the first 64 zeros of the file
        "format": FORMAT,
        "name": net.name,
        "input": _spec_fields(net.input),
        "nodes": to_lines(net.nodes),
        "output": net.output,
        "classes": None if net.classes is None else list(net.classes),
        "certificate": None if net.certificate is None else net.certificate.to_json(),
        **({} if net.card is None else {"card": net.card.to_json()}),
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
    graph = parse_json("the graph", graph_text)
    shapes = {name: np.broadcast_to(np.zeros((), dtype), count) for name, (dtype, count) in tensors.items()}
    _build(graph, shapes, _shape_of_words)  # checks the whole graph, with arrays of the right shape that take no memory

    data = header + stream.read()
    _check_digest(graph["digest"], data, len(header))
    try:
        arrays = load_tensors(data)
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"is not a valid safetensors file: {error}") from None
    net = _build(graph, arrays, bytes_to_words)
    net.check_values()
    return net, graph["digest"]


def _spec_fields(spec: InputSpec) -> dict[str, Any]:
    fields = {name: getattr(spec, name) for name in _SPEC_FIELDS}
    return {name: value for name, value in fields.items() if _SPEC_DEFAULTS.get(name) != value}


def _check_digest(digest: object, data: bytes, header: int) -> None:
    """Raise FormatError unless `digest` is that of all bytes of a file, with its own digits as zeros."""
    text = digest if isinstance(digest, str) and _DIGEST.fullmatch(digest) else _NO_DIGEST
    start = max(0, data.find(text.encode(), 0, header))
    actual = hashlib.sha256(data[:start])
    actual.update(_NO_DIGEST.encode())
    actual.update(memoryview(data)[start + len(text) :])
    if actual.hexdigest() != digest:
        raise FormatError("was changed after it was written: its bytes do not match its digest; pack the net again")


def _read_header(stream: BinaryIO, size: int) -> tuple[bytes, dict[str, tuple[np.dtype[Any], int]], str]:
    """The bytes of a file before the arrays, dtype and length of each tensor, and the text of the graph."""
    prefix = stream.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or not 2 <= length <= min(MOST_HEADER_BYTES, size - 8):
        raise FormatError("is not a .1bit file, or is truncated; `onebit pack` makes one of a checkpoint")
    text = stream.read(length)
    header = parse_json("the header", text)
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else header
    check_fields("is not a packed net: its metadata", metadata, (KEY,))
    tensors = {name: _tensor(name, entry, size - 8 - length) for name, entry in header.items()}
    return prefix + text, tensors, metadata[KEY]


def _tensor(name: str, entry: object, size: int) -> tuple[np.dtype[Any], int]:
    """dtype and length of a header entry, whose data must be within the `size` bytes after the header."""
    what = f"tensor {short(name)}"
    if name not in TENSORS:
        raise FormatError(f"{what} is not part of a packed net; known: {', '.join(TENSORS)}")
    fields = check_fields(what, entry, ("dtype", "shape", "data_offsets"))
    dtype, shape, offsets = _DTYPES[TENSORS[name]], fields["shape"], fields["data_offsets"]
    fits = fields["dtype"] == TENSORS[name] and _are_sizes(shape) and _are_sizes(offsets)
    if not fits or len(shape) != 1 or shape[0] < 1 or len(offsets) != 2 or offsets[1] > size:
        raise FormatError(f"is truncated: {what} is {short(entry)}, expected {TENSORS[name]} inside of {size} bytes")
    if offsets[1] - offsets[0] != shape[0] * dtype.itemsize:
        raise FormatError(f"{what} has {offsets[1] - offsets[0]} bytes, which does not match its shape {short(shape)}")
    return dtype, shape[0]


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _shape_of_words(rows: np.ndarray, count: int) -> np.ndarray:
    """Replaces `bytes_to_words` while only shapes are checked."""
    return np.broadcast_to(np.zeros((), np.uint64), (len(rows), word_count(count)))


def _build(
    graph: object, tensors: Mapping[str, np.ndarray], to_words: Callable[[np.ndarray, int], np.ndarray]
) -> PackedNet:
    """The net of a graph and its tensors, which must be used completely."""
    version = graph.get("format") if isinstance(graph, dict) else None
    if type(version) is not int or version != FORMAT:
        raise FormatError(f"the graph has format {short(version)}, expected {FORMAT}")
    fields = check_fields("the graph", graph, _FIELDS, optional=("card",))
    spec = fields["input"]
    spec = check_fields("input", {**_SPEC_DEFAULTS, **spec} if isinstance(spec, dict) else spec, _SPEC_FIELDS)
    moments: dict[str, Any] = {name: tensors.get(f"{INPUT}.{name}") for name in ("mean", "std")}
    used = Counter({f"{INPUT}.{name}": len(array) for name, array in moments.items() if array is not None})

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        stored = (shape[0], byte_count(shape[1])) if name == "signs" else shape
        start, stop = used[name], used[name] + prod(stored)
        if name not in tensors or stop > len(tensors[name]):
            left = len(tensors[name]) - start if name in tensors else 0
            raise FormatError(f"{name} of shape {short(shape)} is not in the file, which has {left} more values of it")
        used[name] = stop
        array = tensors[name][start:stop].reshape(stored)
        return to_words(array, shape[1]) if name == "signs" else array

    lines = _list("nodes", fields["nodes"])[: MOST_NODES + 1]  # with one more `infer` refuses the net
    nodes: list[Node] = []
    for line in lines:
        nodes.append(from_line(line, nodes[-1].output if nodes else INPUT, take))
    net = PackedNet(
        input=InputSpec(**{**spec, "shape": _tuple(spec["shape"])}, **moments),
        nodes=tuple(nodes),
        output=_tuple(fields["output"]),
        classes=None if fields["classes"] is None else tuple(_list("classes", fields["classes"])),
        certificate=None if fields["certificate"] is None else Certificate.from_json(fields["certificate"]),
        name=fields["name"],
        card=Card.from_json(fields["card"]) if "card" in fields else None,
    )
    for name, array in tensors.items():
        if used[name] != len(array):
            raise FormatError(f"tensor {name!r} has {len(array)} values, but the nodes use {used[name]}")
    return net


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _list(what: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise FormatError(f"{what} is {short(value)}, expected a list")
    return value
