"""Files as damage and forgery leave them, and nets whose numbers are the extremes of their types."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
import pytest

from onebit.errors import FormatError
from onebit.packed import PackedNet, dumps, loads
from support.packed_nets import IMAGE_NETS

Header = dict[str, Any]

NO_DIGEST = "0" * 64
DIGEST = b'{\\"digest\\":\\"'

_INT32 = np.iinfo(np.int32)
_INTEGERS = np.array([_INT32.min, _INT32.min + 1, -1, 0, 1, _INT32.max - 1, _INT32.max], np.int32)
_REALS = np.array([np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1e-38, -0.0, 0.0, 1.0, -1.0, 3.4e38, -3.4e38], np.float32)


def split(data: bytes) -> tuple[Header, Header, bytes]:
    """Header without metadata, graph, tensors."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    graph = json.loads(header.pop("__metadata__")["onebit"])
    return header, {"digest": graph.pop("digest") and NO_DIGEST, **graph}, data[start:]


def join(header: Any, graph: Any, tensors: bytes) -> bytes:
    """A file with whatever header and graph, and with its digest; text or bytes are taken as they are."""
    graph = graph if isinstance(graph, str) else json.dumps(graph, separators=(",", ":"))
    if isinstance(header, dict):
        header = {"__metadata__": {"onebit": graph}, **header}
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return sealed(struct.pack("<Q", len(text)) + text + tensors)


def sealed(data: bytes) -> bytes:
    """A file with the digest of its bytes: damage that is not by accident."""
    start = data.find(DIGEST) + len(DIGEST)
    if start < len(DIGEST):
        return data
    blank = data[:start] + NO_DIGEST.encode() + data[start + 64 :]
    return data[:start] + sha256(blank).hexdigest().encode() + data[start + 64 :]


def assert_refused(data: bytes, noun: str = "") -> None:
    """The bytes give a FormatError of one short line that has the noun."""
    with pytest.raises(FormatError) as info:
        loads(data)
    assert noun in str(info.value)
    assert str(info.value).isprintable()
    assert len(str(info.value)) < 500


_VALUES = (
    *(b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b'""', b"[]", b"{}", b"2001-99-99"),
    *(b"!!python/name:os", b"&a", b"*a", b"\\u0000", b"\xff", b"9" * 400, b"[" * 200, b'"' + b"x" * 3000 + b'"'),
)
_BYTES = b'0123456789-.eE"{}[],:=\\ \x00\x01\x7f\x80\xff'


def damaged(good: bytes, rng: random.Random) -> bytes:
    """The bytes after one to five changes anywhere, in their head, or behind it; some lack their end."""
    data = bytearray(good)
    head = 8 + int.from_bytes(good[:8], "little")  # of safetensors
    if head >= len(good):
        head = min(len(good), 2000)
    first, last = rng.choice([(0, len(good)), (0, head), (head if head < len(good) else 0, len(good))])
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(first, max(first + 1, min(last, len(data))))
        stop = at + 1
        action = rng.randrange(7)
        if action == 0:
            new = bytes(byte ^ 1 << rng.randrange(8) for byte in data[at:stop])
        elif action == 1:
            new = bytes([rng.randrange(256)])
        elif action == 2:
            new = bytes([rng.choice(_BYTES)])
        elif action == 3:
            new, stop = b"", at + rng.choice([1, 8])
        elif action == 4:
            new, stop = rng.randbytes(rng.choice([1, 8])), at
        elif action == 5:  # bytes of another place
            there = rng.randrange(len(data) + 1)
            new = bytes(data[there : there + rng.choice([1, 8, 64])])
            stop = at + len(new)
        else:  # a value of a text format
            at = next((n + 1 for n in range(at, len(data)) if data[n] in b":,["), at)
            stop = next((n for n in range(at, len(data)) if data[n] in b",]}\n"), len(data))
            new = b" " + rng.choice(_VALUES)
        data[at:stop] = new
    return sealed(bytes(data[: rng.randrange(len(data) + 1)] if rng.randrange(20) == 0 else data))


def reworded(good: bytes, rng: random.Random) -> bytes:
    """A `.1bit` file with one or two other words in its inputs or nodes: numbers, names, codings, dtypes."""
    header, graph, tensors = split(good)
    part = rng.choice([name for name in ("input", "inputs", "nodes", "nodes", "nodes") if name in graph])
    text = json.dumps(graph[part])
    for _ in range(rng.choice([1, 1, 2])):
        numbers, names = (list(re.finditer(kind, text)) for kind in (r"(?<=[=, \[])\d+", r"\b[a-z]\w*"))
        words = numbers if numbers and rng.randrange(4) else names
        word = rng.choice(words)
        new = rng.choice(["0", "1", "2", "3", "9", "77", "-1"]) if word[0].isdigit() else rng.choice(words)[0]
        text = text[: word.start()] + new + text[word.end() :]
    with suppress(ValueError):  # words without quotes
        return join(header, graph | {part: json.loads(text)}, tensors)
    return reworded(good, rng)


def extreme(net: PackedNet, rng: np.random.Generator) -> PackedNet:
    """The net with one of its real arrays, and all of its thresholds, drawn from the ends of float32 and int32.

    Some of it no file can hold, as real numbers there are finite.
    """
    owners = [n for n, node in enumerate(net.nodes) if _real_arrays(node)]
    chosen = int(rng.choice(owners)) if owners else -1
    nodes = []
    for n, node in enumerate(net.nodes):
        names = ["threshold"] if hasattr(node, "threshold") else []
        names += [str(rng.choice(_real_arrays(node)))] if n == chosen else []
        changed: dict[str, Any] = {}
        for name in names:
            array = getattr(node, name)
            drawn = rng.choice(_INTEGERS if name == "threshold" else _REALS, array.shape)
            changed[name] = np.where(rng.random(array.shape) < rng.choice([0.1, 1.0]), drawn, array)
        nodes.append(replace(node, **changed))
    return replace(net, nodes=tuple(nodes))


def _real_arrays(node: Any) -> list[str]:
    return [name for name, array in node.stored.items() if array.dtype == "float32"]


def changed_nets(count: int, seed: int = 0) -> Iterator[PackedNet]:
    """For each form, `count` nets with changed bytes, `count` with other geometry and `count` with extreme numbers."""
    for form, make in IMAGE_NETS.items():
        rng, numbers = random.Random(f"{form} {seed}"), np.random.default_rng(seed)
        good = dumps(make())
        for change in (damaged, reworded):
            found = 0
            while found < count:
                with suppress(FormatError):
                    yield loads(change(good, rng))
                    found += 1
        for n in range(count):
            yield extreme(make(n), numbers)
