"""Files that somebody damaged or forged: each one is a FormatError of one line, at once, and nothing else."""

from __future__ import annotations

import json
import pickle
import random
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as save_tensors

from onebit.errors import FormatError
from onebit.packed import PackedNet, dumps, infer, load, loads

Maker = Callable[..., PackedNet]
Header = dict[str, Any]


def split(data: bytes) -> tuple[Header, Header, bytes]:
    """Header without metadata, graph, tensors."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    return header, json.loads(header.pop("__metadata__")["onebit"]), data[start:]


def join(header: Any, graph: Any, tensors: bytes) -> bytes:
    """A file with whatever header and graph; text or bytes are taken as they are."""
    graph = graph if isinstance(graph, str) else json.dumps(graph)
    if isinstance(header, dict):
        header = {"__metadata__": {"onebit": graph}, **header}
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


@pytest.fixture
def data(packed_mlp: Maker) -> bytes:
    return dumps(packed_mlp((12, 70, 10), form="mixed"))


def refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as info:
        loads(data)
    assert "\n" not in str(info.value)
    assert len(str(info.value)) < 500


def test_the_helpers_make_a_sound_file(data: bytes) -> None:
    assert dumps(loads(join(*split(data)))) == data


def test_every_truncation_is_refused(data: bytes) -> None:
    header = 8 + int.from_bytes(data[:8], "little")
    places = {*range(0, 20), *range(20, header, 37), header - 1, header, header + 1, *range(header, len(data), 61)}
    for length in sorted(places | {len(data) - 1}):
        with pytest.raises(FormatError):
            loads(data[:length])


@pytest.mark.parametrize("extra", [b"\0", b"x" * 1000])
def test_bytes_after_the_end_are_refused(data: bytes, extra: bytes) -> None:
    refused(data + extra, "not a sound safetensors file")


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 200_000_000, 4_000_001, 1, 0])
def test_impossible_header_lengths_are_refused(data: bytes, length: int) -> None:
    refused(struct.pack("<Q", length) + data[8:], "is no .1bit file, or a truncated one")


def test_a_header_beyond_the_limit_is_not_even_parsed() -> None:
    text = b"{" + b" " * 4_000_000 + b"}"
    refused(struct.pack("<Q", len(text)) + text, "is no .1bit file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe{}", "the header is not JSON in UTF-8"),
        ("{}".encode("utf-16"), "the header is not JSON in UTF-8"),
        (b"\xef\xbb\xbf{}", "the header is not JSON in UTF-8"),
        (b"[" * 100_000, "the header is nested too deeply"),
        (b'{"a":' * 100_000, "the header is nested too deeply"),
        (b"{}", "is no packed net: the safetensors metadata has no text 'onebit'"),
        (b"[]", "the header is not an object"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": NaN}', "the header has the number NaN"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of 5000 digits"),
        (b'{"a": 1, "a": 2}', "the header has the key 'a' twice"),
        (b'{"__metadata__": {"onebit": 3}}', "has no text 'onebit'"),
        (b'{"__metadata__": {"onebit": "{}", "more": ""}}', "unknown field 'more'"),
        (b'{"__metadata__": []}', "has no text 'onebit'"),
    ],
)
def test_bad_headers_are_refused(text: bytes, message: str) -> None:
    refused(join(text, "", b""), message)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("", "the graph is not JSON"),
        ("[" * 100_000, "the graph is nested too deeply"),
        ("null", "format None"),
        ('{"format": 1, "format": 1}', "key 'format' twice"),
        ({"format": 2, "new": 1}, "is of format 2, newer than the 1 this onebit reads; upgrade onebit"),
        ({"format": 0}, "format 0"),
        ({"format": True}, "format True"),
        ({"format": "1"}, "format '1'"),
        ({"format": 1}, "the graph lacks the field 'name'"),
    ],
)
def test_bad_graphs_are_refused(data: bytes, graph: Any, message: str) -> None:
    header, _, tensors = split(data)
    refused(join(header, graph, tensors), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.update(more=1), "the graph has the unknown field 'more'"),
        (lambda g: g.update(nodes={}), "nodes is {}, expected a list"),
        (lambda g: g.update(nodes=[]), "the net has no nodes"),
        (lambda g: g.update(output="gone"), "output 'gone' is made by no node"),
        (lambda g: g.update(output=["a"]), "is no value name"),
        (lambda g: g.update(name=None), "name is None, expected printable text"),
        (lambda g: g.update(classes="0123456789"), "classes is '0123456789', expected a list"),
        (lambda g: g.update(classes=[1] * 10), "class name is 1"),
        (lambda g: g.update(classes=["\x1b[2J"] * 10), "expected printable text"),
        (lambda g: g.update(classes=["a"]), "got 1 class names for 10 outputs"),
        (lambda g: g.update(certificate={}), "certificate lacks the field"),
        (lambda g: g.update(input=None), "input is None, expected an object"),
        (lambda g: g["input"].update(shape=[1, 12]), "expected three positive integers"),
        (lambda g: g["input"].update(shape=[1, 1, 10**19]), "more than"),
        (lambda g: g["input"].update(shape=[-1, -1, 12]), "expected three positive integers"),
        (lambda g: g["input"].update(shape=[1, 1, 12.0]), "expected three positive integers"),
        (lambda g: g["input"].update(coding="integer"), "'integer' has none"),
        (lambda g: g["input"].update(coding={}), "coding is {}"),
        (lambda g: g["nodes"].insert(0, 3), "node 0 has the unknown op None"),
        (lambda g: g["nodes"][1].update(op="dens"), "node 1 has the unknown op 'dens'; did you mean 'dense'"),
        (lambda g: g["nodes"][1].update(op=["dense"]), "node 1 has the unknown op"),
        (lambda g: g["nodes"][1].update(stride=1), "node 1 .dense. has the unknown field 'stride'"),
        (lambda g: g["nodes"][1].pop("in_features"), "node 1 .dense. lacks the field 'in_features'"),
        (lambda g: g["nodes"][1].update(in_features=13), r"node 'fc0' \(dense\): got a value of shape \(12,\)"),
        (lambda g: g["nodes"][1].update(in_features=17), "expected uint8 rows for 17 signs"),
        (lambda g: g["nodes"][1].update(in_features="12"), "expected uint8 rows for '12' signs"),
        (lambda g: g["nodes"][1].update(in_features=-4), "signs are uint8"),
        (lambda g: g["nodes"][1].update(inputs="flat"), "inputs of node 1 is 'flat', expected a list"),
        (lambda g: g["nodes"][1].update(inputs=[["flat"]]), "no text"),
        (lambda g: g["nodes"][1].update(inputs=["flat", "flat"]), "got 2 inputs, expected 1"),
        (lambda g: g["nodes"][1].update(inputs=["sign0"]), "reads 'sign0', which no node before it makes"),
        (lambda g: g["nodes"][1].update(output="fc1"), "signs is NoneType"),
        (lambda g: g["nodes"][1].update(output=None), "no text"),
        (lambda g: g["nodes"].pop(), "output 'bias1' is made by no node"),
    ],
)
def test_changed_graphs_are_refused(data: bytes, change: Callable[[Header], Any], message: str) -> None:
    header, graph, tensors = split(data)
    change(graph)
    refused(join(header, graph, tensors), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "BF16"}, "dtype 'BF16', expected one of U8, I8, I32, F32"),
        ({"dtype": "F8_E4M3"}, "expected one of"),
        ({"dtype": ["F32"]}, "expected one of"),
        ({"dtype": "I32"}, "scale is int32 .*expected a float32 array"),
        ({"shape": [35, 2]}, "scale is float32 .*with 1 axes"),
        ({"shape": [7, 10, 1, 1, 1]}, "expected 1 to 4 positive integers"),
        ({"shape": [1] * 70}, "expected 1 to 4 positive integers"),
        ({"shape": []}, "expected 1 to 4 positive integers"),
        ({"shape": [70, 0]}, "expected 1 to 4 positive integers"),
        ({"shape": [-70]}, "expected 1 to 4 positive integers"),
        ({"shape": [70.0]}, "expected 1 to 4 positive integers"),
        ({"shape": 70}, "expected 1 to 4 positive integers"),
        ({"shape": [True, 70]}, "expected 1 to 4 positive integers"),
        ({"shape": [2**62, 2**62]}, "which its shape .* does not need"),
        ({"shape": [69]}, "280 bytes, which its shape .* does not need"),
        ({"data_offsets": [0, 276]}, "does not need"),
        ({"data_offsets": [-280, 0]}, "expected two inside"),
        ({"data_offsets": [280, 0]}, "does not need"),
        ({"data_offsets": [10**12, 10**12 + 280]}, "expected two inside"),
        ({"data_offsets": [0]}, "expected two inside"),
        ({"data_offsets": None}, "expected two inside"),
        ({"data_offsets": [1, 281]}, "not a sound safetensors file"),
        ({"more": 1}, "unknown field 'more'"),
    ],
)
def test_changed_tensors_are_refused(data: bytes, change: Header, message: str) -> None:
    header, graph, tensors = split(data)
    header["fc0.scale"].update(change)
    refused(join(header, graph, tensors), message)


def test_overlapping_tensors_are_refused(data: bytes) -> None:
    header, graph, tensors = split(data)
    header["fc0.scale"]["data_offsets"] = header["fc0.centre"]["data_offsets"]
    refused(join(header, graph, tensors), "not a sound safetensors file")


@pytest.mark.parametrize("name", ["../x", "fc0.more", "fc0", "", "input.", "flat.signs", "\x1b[2J", "fc9.signs"])
def test_tensors_that_no_node_has_are_refused(packed_mlp: Maker, name: str) -> None:
    header, graph, tensors = split(dumps(packed_mlp((12, 70, 10))))
    header[name] = {"dtype": "U8", "shape": [4], "data_offsets": [len(tensors), len(tensors) + 4]}
    refused(join(header, graph, tensors + bytes(4)), "belongs to no node")


def test_too_many_tensors_are_refused_before_anything_else() -> None:
    header = {str(i): {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(10_001)}
    refused(join(header, {"format": 1}, bytes(10_001)), "has 10001 tensors, expected at most 10000")


@pytest.mark.parametrize(
    ("tensor", "value", "message"),
    [
        ("fc0.scale", np.float32(np.nan), "node 'fc0' .dense.: 1 of 70 values of scale are not finite"),
        ("fc1.weight", np.float32(np.inf), "node 'fc1' .real_dense.: 1 of 700 values of weight are not finite"),
        ("input.std", np.float32(-1), "std is not positive"),
        ("input.mean", np.float32(np.nan), "input mean"),
        ("fc0.signs", b"\0\x10", r"node 'fc0' \(dense\): 1 rows have bits set after their 12 signs"),
    ],
)
def test_contents_that_mean_nothing_are_refused(data: bytes, tensor: str, value: Any, message: str) -> None:
    header, graph, tensors = split(data)
    value = value if isinstance(value, bytes) else value.tobytes()
    first = header[tensor]["data_offsets"][0]
    refused(join(header, graph, tensors[:first] + value + tensors[first + len(value) :]), message)


def test_a_huge_claim_costs_nothing() -> None:
    node = {"op": "dense", "inputs": ["input"], "output": "fc", "in_features": 10**12}
    graph = {"format": 1, "name": "", "input": {"shape": [1, 1, 1], "coding": "integer"}, "nodes": [node],
             "output": "fc", "classes": None, "certificate": None}  # fmt: skip
    size = 10**12 // 8
    header = {"fc.signs": {"dtype": "U8", "shape": [1, size], "data_offsets": [0, size]}}
    tracemalloc.start()
    started = time.perf_counter()
    refused(join(header, graph, b""), "expected two inside the 0 bytes of data")
    header = {"fc.signs": {"dtype": "U8", "shape": [1, 1], "data_offsets": [0, 1]}}
    refused(join(header, graph, b"\0"), "expected uint8 rows for 1000000000000 signs")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert time.perf_counter() - started < 1


def test_shapes_are_checked_before_the_tensors_are_read(tmp_path: Path, packed_mlp: Maker) -> None:
    header, graph, _ = split(dumps(packed_mlp((12, 70, 10))))
    rows = 10**8
    header = {"fc0.signs": {"dtype": "U8", "shape": [rows, 2], "data_offsets": [0, 2 * rows]}}
    graph["nodes"] = graph["nodes"][:3]  # flatten, fc0 and an affine map without arrays
    path = tmp_path / "sparse.1bit"
    path.write_bytes(join(header, graph, b""))
    with open(path, "r+b") as stream:
        stream.truncate(path.stat().st_size + 2 * rows)  # 200 MB that take no disk
    tracemalloc.start()
    with pytest.raises(FormatError, match="neither scale nor shift"):
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_pickles_are_named_and_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:  # what torch.save makes
        archive.writestr("model/data.pkl", pickle.dumps({"weight": 1}))
    message = r"model\.pth: is a pickled file such as a torch checkpoint, not a packed net; `onebit pack` makes one"
    with pytest.raises(FormatError, match=message):
        load(path)
    for protocol in (2, 4):  # what it made before
        path.write_bytes(pickle.dumps({"weight": list(range(100))}, protocol=protocol))
        with pytest.raises(FormatError, match=message):
            load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.1bit"
    for content, message in [
        (b"", "is no .1bit file, or a truncated one"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is no .1bit file"),
        (b"onebit" * 100, "is no .1bit file"),
        (save_tensors({"weight": np.ones(3, np.float32)}), "is no packed net"),
        (save_tensors({"weight": np.ones(3, np.float32)}, metadata={"format": "pt"}), "is no packed net"),
    ]:
        path.write_bytes(content)
        with pytest.raises(FormatError, match=rf"x\.1bit: {message}"):
            load(path)


@pytest.mark.parametrize("form", ["weight-only", "sign", "mixed"])
def test_random_damage_is_refused_or_still_a_sound_net(packed_mlp: Maker, form: str) -> None:
    rng = random.Random(form)
    net = packed_mlp((12, 70, 10), form=form)
    good = dumps(net)
    start = 8 + int.from_bytes(good[:8], "little")
    outcomes = {"refused": 0, "sound": 0}
    for index in range(300):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 5])):
            where = rng.randrange(start if index % 3 else len(data))  # two of three in the header
            action = rng.randrange(4)
            if action == 0:
                data[where] ^= 1 << rng.randrange(8)
            elif action == 1:
                data[where] = rng.choice(b'0123456789-.eE"{}[],:\\ \x00\xff')
            elif action == 2:
                del data[where : where + rng.choice([1, 8])]
            else:
                data[where:where] = rng.randbytes(rng.choice([1, 8]))
        try:
            back = loads(bytes(data))
        except FormatError:
            outcomes["refused"] += 1
        else:
            assert infer(back)[back.output].shape == infer(net)[net.output].shape
            assert [type(node) for node in back.nodes] == [type(node) for node in net.nodes]
            outcomes["sound"] += 1
    assert min(outcomes.values()) > 10, outcomes
