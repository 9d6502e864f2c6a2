"""Files as damage and forgery leave them, and nets whose numbers are the extremes of their types."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
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


def sound(data: bytes) -> PackedNet | None:
    """The net in the bytes, None when they are refused."""
    try:
        return loads(data)
    except FormatError:
        return None


def assert_refused(data: bytes, noun: str = "") -> None:
    """The bytes give a FormatError of one short line that has the noun."""
    with pytest.raises(FormatError) as info:
        loads(data)
    assert noun in str(info.value)
    assert str(info.value).isprintable()
    assert len(str(info.value)) < 500


def header_end(good: bytes) -> int:
    """Where the header of a safetensors file ends; 0 in files of other formats."""
    end = 8 + int.from_bytes(good[:8], "little")
    return end if end < len(good) else 0


def damaged(good: bytes, rng: random.Random, *, header_only: bool) -> bytes:
    """The bytes with one to five changes."""
    data = bytearray(good)
    start = header_end(good)
    for _ in range(rng.choice([1, 1, 2, 5])):
        where = rng.randrange(start if header_only else len(data))
        action = rng.randrange(4)
        if action == 0:
            data[where] ^= 1 << rng.randrange(8)
        elif action == 1:
            data[where] = rng.choice(b'0123456789-.eE"{}[],:=\\ \x00\xff')
        elif action == 2:
            del data[where : where + rng.choice([1, 8])]
        else:
            data[where:where] = rng.randbytes(rng.choice([1, 8]))
    return sealed(bytes(data))


def mutated(good: bytes, rng: random.Random) -> bytes:
    """The bytes with one to three of them at random, half of the files in the arrays alone."""
    data = bytearray(good)
    first = rng.choice([0, header_end(good)])
    for _ in range(rng.choice([1, 2, 3])):
        data[rng.randrange(first, len(data))] = rng.randrange(256)
    return sealed(bytes(data))


def renumbered(good: bytes, rng: random.Random) -> bytes:
    """A file with other digits in one or two lines of its graph: paddings, strides, groups, shapes."""
    header, graph, tensors = split(good)
    lines = list(graph["nodes"])
    for _ in range(rng.choice([1, 1, 2])):
        which = rng.randrange(len(lines))
        line = lines[which]
        digits = [i for i, letter in enumerate(line) if letter.isdigit() and "=" in line[:i]]
        if digits:
            at = rng.choice(digits)
            lines[which] = line[:at] + rng.choice(["0", "1", "2", "3", "9", "77", "-1"]) + line[at + 1 :]
    return join(header, {**graph, "nodes": lines}, tensors)


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
        for change in (mutated, renumbered):
            found = 0
            while found < count:
                net = sound(change(good, rng))
                if net is not None:
                    yield net
                    found += 1
        for n in range(count):
            yield extreme(make(n), numbers)


_VALUES = (
    *(b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b'""', b"[]", b"{}", b"2001-99-99"),
    *(b"!!python/name:os", b"&a", b"*a", b"\\u0000", b"\xff", b"9" * 400, b"[" * 200, b'"' + b"x" * 3000 + b'"'),
)


def forged_values(good: bytes, rng: random.Random) -> bytes:
    """The bytes with one value of a text format in place of another one; of other formats some bytes."""
    starts = [i + 1 for i, byte in enumerate(good) if byte in b":,[" and i + 1 < len(good)]
    if not starts:
        return mutated(good, rng)
    start = rng.choice(starts)
    end = next((i for i in range(start, len(good)) if good[i] in b",]}\n"), len(good))
    return good[:start] + b" " + rng.choice(_VALUES) + good[end:]
