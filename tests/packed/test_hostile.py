"""Damaged and forged files: each gives a FormatError of one line at once, and nothing else."""

from __future__ import annotations

import json
import pickle
import re
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as save_tensors

from onebit.errors import FormatError
from onebit.packed import Card, CardScore, Certificate, dumps, load, loads
from support.covering import covering
from support.hostile_files import Header, assert_refused, join, sealed, split
from support.packed_nets import NETS, NETS_OF_OTHER_INPUTS, four_inputs, make_packed_mlp

GOOD = dumps(make_packed_mlp((12, 70, 10), form="mixed"))


def test_the_helpers_make_a_sound_file() -> None:
    again = join(*split(GOOD))
    assert join(*split(again)) == again
    assert dumps(loads(again)) == GOOD


def test_truncated_files_are_refused() -> None:
    header = 8 + int.from_bytes(GOOD[:8], "little")
    lengths = {*range(0, 20), *range(20, header, 37), header - 1, header, header + 1, *range(header, len(GOOD), 61)}
    for length in sorted(lengths | {len(GOOD) - 1}):
        assert_refused(GOOD[:length], "truncated")
    for first in (b"\x80\x02", b"PK\x03\x04"):  # a length that looks like the start of a pickle or zip
        assert_refused(first + bytes(8 - len(first)) + GOOD[8:400], "truncated")


@pytest.mark.parametrize("length", [2**64 - 1, 200_000_000, 4_000_001, 1])
def test_impossible_header_lengths_are_refused(length: int) -> None:
    assert_refused(struct.pack("<Q", length) + GOOD[8:], "truncated")


def test_headers_beyond_the_limit_and_bytes_after_the_end_are_refused() -> None:
    text = b"{" + b" " * 4_000_000 + b"}"
    assert_refused(struct.pack("<Q", len(text)) + text, "is not a .1bit file")
    assert_refused(sealed(GOOD + b"\0"), "safetensors")


@pytest.mark.parametrize(
    ("text", "noun"),
    [
        ("{}".encode("utf-16"), "UTF-8"),
        (b"[" * 100_000, "header"),
        (b"{}", "metadata"),
        (b"[]", "object"),
        (b'{"a": 1', "JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": 1, "a": 2}', "'a'"),
        (b'{"__metadata__": {"onebit": 3}}', "graph"),
        (b'{"__metadata__": {"onebit": "{}", "more": ""}}', "'more'"),
        (b'{"__metadata__": []}', "metadata"),
    ],
)
def test_bad_headers_are_refused(text: bytes, noun: str) -> None:
    assert_refused(join(text, "", b""), noun)


@pytest.mark.parametrize(
    ("graph", "noun"),
    [
        ("", "graph"),
        ("[" * 100_000, "graph"),
        ("null", "graph"),
        ('{"format": 2, "format": 2}', "'format'"),
        ({"format": 3, "new": 1}, "format 3"),
        ({"format": 1}, "format 1"),
    ],
)
def test_bad_graphs_are_refused(graph: Any, noun: str) -> None:
    header, _, tensors = split(GOOD)
    assert_refused(join(header, graph, tensors), noun)


ODD = (None, True, -1, 0, 1.5, 10**18, "", "x", "x" * 201, "\x1b[2J", [], {}, [[]], ["x"], [0], {"x": 1})
SCORES = {name: CardScore(correct=3, count=4, reestimated=True, mean_iou=0.2) for name in "ab"}
CARD = Card(summary="x", seed=3, epochs=0.5, chosen_epoch=1, test=SCORES)


def forgeries(tree: Any) -> Iterator[Any]:
    """A tree with another value in each place, one after the other, or with nothing there, or with one key more."""
    keys = range(len(tree)) if isinstance(tree, list) else [*tree] if isinstance(tree, dict) else []
    for key in keys:
        value = tree[key]
        near = [value + 1, value - 1, float(value)] if type(value) in (int, float) else []
        for other in (*ODD, *near, *forgeries(value)):
            changed = tree.copy()
            changed[key] = other
            yield changed
        changed = tree.copy()
        del changed[key]
        yield changed
    if isinstance(tree, dict):
        yield {**tree, "more": 1}


@pytest.mark.parametrize("step", covering([7, 1], heavy={1}))
@pytest.mark.parametrize("form", ["mlp", "features", "four inputs"])
def test_other_values_of_a_header_or_graph_are_refused_or_kept(form: str, step: int, certificate: Certificate) -> None:
    mlp = replace(make_packed_mlp((12, 7, 5), form="mixed", certificate=certificate), card=CARD)
    net = {"mlp": mlp, "features": NETS_OF_OTHER_INPUTS["features"](), "four inputs": four_inputs()}[form]
    header, graph, tensors = split(dumps(net))
    digest = graph.pop("digest")
    parts = [*((made, graph) for made in forgeries(header)), *((header, made) for made in forgeries(graph))]
    assert len(parts) > 1000
    for other, made in parts[::step]:
        data = join(other, {"digest": digest, **made}, tensors)
        try:
            back = loads(data)
        except FormatError:
            assert_refused(data)
            continue
        kept = json.dumps([other, {"digest": digest, **made}]).replace(', "test": {}', "")  # no scores are not written
        assert json.dumps(split(dumps(back))[:2]) == kept


WORDS = "x", "1.5", "01", "٣", ",", "1,,1", str(10**18), ",".join("1234567")


@pytest.mark.parametrize("form", covering(NETS, heavy={"integer"}))
def test_other_words_in_a_line_of_a_graph_are_refused(form: str) -> None:
    """In place of a number, of all of them, or of a field; and fields that come twice, or are not known."""
    header, graph, tensors = split(dumps(NETS[form]()))
    for n, line in enumerate(graph["nodes"]):
        kind, name, *fields = line.split(" ")
        others = ["x " + name, kind, kind + " ", f"{kind} {name} ", f"{kind} {name}\tb", line + " more=1"]
        for field in fields:
            key = field.partition("=")[0]
            others += [f"{line} {field}", *(line.replace(field, f"{key}={word}") for word in WORDS)]
            numbers = re.finditer(r"(?<=[=,])\d+", field)
            others += [line.replace(field, field[: x.start()] + "01" + field[x.end() :]) for x in numbers]
        for other in others:
            nodes = [*graph["nodes"][:n], other, *graph["nodes"][n + 1 :]]
            assert_refused(join(header, graph | {"nodes": nodes}, tensors))


MLP_GRAPHS: list[tuple[str, Any, str]] = [
    ("nodes", ["relu x"] * 10_001, "nodes"),
    ("output", {"a\n": "bias1"}, "output"),
    ("output", ["bias1"], "class"),
    ("classes", ["\x1b[2J"] * 10, "classes"),
    ("input", {"coding": "integer"}, "mean"),
    ("first", "relu", "op"),
    ("first", "relu ", "name"),
    ("first", "relu a ", "field"),
    ("fc0", "dens fc0 signs=70,12 scale=70 centre=70", "op"),
    ("fc0", "dense fc0 in_features=12 signs=70,12 scale=70 centre=70", "in_features"),
    ("fc0", "dense fc0 scale=70 centre=70", "'signs'"),
    ("fc0", "dense fc0 signs=70,13 scale=70 centre=70", "'fc0'"),
    ("fc0", "dense fc0 signs=70,17 scale=70 centre=70", "140 more"),
    ("fc0", "dense fc0 signs=69,12 scale=70 centre=70", "scale"),
    ("fc0", "dense fc0 signs=0,12 scale=70 centre=70", "shape 0,12"),
    ("fc0", "dense fc0 signs=70,12 scale=70", "'centre' has 70"),
    ("fc0", "dense fc0 signs=70,12 scale=70 centre=71", "centre"),
    ("fc0", "dense fc0 inputs=flat,flat signs=70,12 scale=70 centre=70", "2 inputs"),
    ("fc0", "dense fc0 inputs= signs=70,12 scale=70 centre=70", "0 inputs"),
    ("fc0", "dense fc0 inputs=sign0 signs=70,12 scale=70 centre=70", "'sign0'"),
    ("fc0", "dense fc1 signs=70,12 scale=70 centre=70", "name"),
    ("fc0", "dense fc0 like=fc0", "like"),
    ("fc0", "dense fc0 like=flat", "like"),
    ("sign0", "dense sign0 like=fc0 scale=70", "like"),
    ("sign0", "dense sign0 like=fc0", "'sign0'"),
]
FEATURES_GRAPHS: list[tuple[str, Any, str | None]] = [
    ("input", {"dtype": "uint8", "coding": "integer"}, None),
    ("input", {"dtype": "float16"}, "coding"),
    ("input", {"coding": "standardise"}, "mean"),
    ("input", {"shape": [20, 1]}, "'n0'"),
    ("input", {"shape": [1] * 7}, "shape"),
    ("input", {"shape": [2**27 + 1]}, "shape"),
    ("input", {"shape": [2**14, 2**14]}, "values"),
    ("output", {"gated": "n5"}, "'n7'"),
    ("output", {"": "n7", "b": "n5"}, None),
    ("output", {"x" * 201: "n7"}, "output"),
    ("output", {"gated": "input"}, "'input'"),
    ("output", ["n7", "n7", "n5"], None),
    ("output", {str(k): "n7" for k in range(101)}, "output"),
    ("classes", ["a"] * 33, "class"),
    ("n2", "clamp n2 low=2 high=1", "low"),
    ("n2", "clamp n2", "high"),
    ("n2", "clamp n2 low=0", "low"),
    ("n5", "multiply n5 inputs=n3", "1 inputs"),
    ("n5", "multiply n5 inputs=n3,n4,n4", "3 inputs"),
    ("n5", "multiply n5 inputs=n3,input", "shapes"),
    ("n7", "reshape n7 shape=2", "elements"),
    ("n7", "reshape n7 shape=0", "integers"),
    ("n7", "reshape n7 shape=1048576,1048576,1048576,1048576", "elements"),
    ("n7", "reshape n7 shape=1,1,1,1,1,1", None),
]
TOKENS_GRAPHS = [
    ("n1", "permute n1 axes=1,1", "permutation"),
    ("n1", "permute n1 axes=0", "permutation"),
    ("n1", "permute n1 axes=", "permutation"),
    ("n1", "permute n1 axes=0,-1", "integers"),
    ("n8", "repeat n8 times=1,1,3", "times"),
    ("n8", "repeat n8 times=1,1,0,1", "integers"),
    ("n8", "repeat n8 times=1048576,1048576,1048576,1048576", "values"),
]


@pytest.mark.parametrize(
    ("form", "where", "change", "noun"),
    [
        *(("mlp", *rest) for rest in MLP_GRAPHS),
        *(("features", *rest) for rest in FEATURES_GRAPHS),
        *(("tokens", *rest) for rest in TOKENS_GRAPHS),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, (str, dict, list)) else None,
)
def test_changed_graphs_are_refused(form: str, where: str, change: Any, noun: str | None) -> None:
    """`where`: a field of the graph, "first" for another first node, or the node to replace; noun None: still valid."""
    header, graph, tensors = split(GOOD if form == "mlp" else dumps(NETS_OF_OTHER_INPUTS[form]()))
    if where == "first":
        graph["nodes"].insert(0, change)
    elif where in [line.split(" ")[1] for line in graph["nodes"]]:
        graph["nodes"] = [change if line.split(" ")[1] == where else line for line in graph["nodes"]]
    elif where == "input" and change:
        graph["input"] |= change
    else:
        graph[where] = change
    if noun is None:
        loads(join(header, graph, tensors))
    else:
        assert_refused(join(header, graph, tensors), noun)


@pytest.mark.parametrize(
    ("change", "noun"),
    [
        ({"dtype": "I32"}, "'I32'"),
        ({"shape": [35, 2]}, "shape"),
        ({"shape": [69]}, "truncated"),
        ({"data_offsets": [280, 0]}, "truncated"),
        ({"data_offsets": [1, 281]}, "safetensors"),
        ({"data_offsets": [0, 280]}, "safetensors"),  # those of another tensor
        ({"data_offsets": [276, 556]}, "safetensors"),
    ],
)
def test_changed_tensors_are_refused(change: Header, noun: str) -> None:
    header, graph, tensors = split(GOOD)
    header["scale"].update(change)
    assert_refused(join(header, graph, tensors), noun)


@pytest.mark.parametrize(
    ("name", "dtype", "noun"),
    [
        ("../x", "U8", "part of"),
        ("input.", "U8", "part of"),
        ("in_features", "U8", "part of"),
        ("\x1b[2J", "U8", "part of"),
        ("direction", "I8", "'direction' has 4"),
    ],
)
def test_tensors_that_the_net_does_not_use_are_refused(name: str, dtype: str, noun: str) -> None:
    header, graph, tensors = split(GOOD)
    header[name] = {"dtype": dtype, "shape": [4], "data_offsets": [len(tensors), len(tensors) + 4]}
    assert_refused(join(header, graph, tensors + bytes(4)), noun)


@pytest.mark.parametrize(
    ("form", "tensor", "value", "noun"),
    [
        ("mlp", "scale", np.float32(np.nan), "1 of 70"),
        ("mlp", "weight", np.float32(np.inf), "1 of 700"),
        ("mlp", "input.std", np.float32(-1), "std"),
        ("mlp", "input.mean", np.float32(np.nan), "mean"),
        ("mlp", "signs", b"\0\x10", "1 rows"),
        ("features", "low", np.float32(np.nan), "low"),
        ("features", "high", np.float32(-np.inf), "high"),
        ("features", "high", np.float32(-9), "-9.0"),  # below `low`
    ],
)
def test_invalid_contents_are_refused(form: str, tensor: str, value: Any, noun: str) -> None:
    header, graph, tensors = split(GOOD if form == "mlp" else dumps(NETS_OF_OTHER_INPUTS[form]()))
    value = value if isinstance(value, bytes) else value.tobytes()
    first = header[tensor]["data_offsets"][0]
    assert_refused(join(header, graph, tensors[:first] + value + tensors[first + len(value) :]), noun)


def graph_with(*lines: str, shape: tuple[int, int, int] = (1, 1, 1)) -> Header:
    """A graph with these nodes."""
    return {"digest": "0" * 64, "format": 2, "name": "",
            "input": {"shape": list(shape), "coding": "integer"}, "nodes": list(lines),
            "output": lines[-1].split(" ")[1], "classes": None, "certificate": None}  # fmt: skip


def test_nodes_beyond_the_limit_are_not_read() -> None:
    lines = [f"relu r{index}" for index in range(10_001)]
    assert_refused(join({}, graph_with(*lines, "no node"), b""), "10,000 nodes")


def test_huge_shapes_take_no_memory() -> None:
    tracemalloc.start()
    started = time.process_time()
    size = 10**12 // 8
    graph = graph_with(f"dense fc signs=1,{10**12}")
    header = {"signs": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    assert_refused(join(header, graph, b""), "truncated")
    header = {"signs": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    assert_refused(join(header, graph, b"\0"), "signs")
    doubled = [f"concat c{i} inputs=c{i - 1},c{i - 1}" for i in range(1, 40)]
    for lines, noun in [
        (["conv c signs=1,1 kernel=1 padding=1048576"], "padded image"),
        (["conv_transpose c signs=1,1 kernel=1 extra=1048576"], "result"),
        (["conv c signs=1,1 kernel=1 padding=0,200000000,0,0"], "integers"),
        (["max_pool c kernel=1000000 padding=999999"], "padded image"),
        (["pad c padding=1048576"], "value"),
        (["repeat c times=1048576,1048576,1048576"], "value"),
        (["repeat c times=512,1,1", "repeat d times=512,1,1", "repeat e times=513,1,1"], "'e'"),
        (["reshape c shape=1048576"], "elements"),
        (["concat c0 inputs=input,input", *doubled], "'c27'"),
    ]:
        assert_refused(join(header if "signs" in lines[0] else {}, graph_with(*lines), b"\0"), noun)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert time.process_time() - started < 2


def test_a_million_layers_are_refused_at_once() -> None:
    """No layer is made: the header is too long, or has too many lines."""
    started = time.process_time()
    for layers, noun in ((10**6, "is not a .1bit file"), (300_000, "nodes")):
        assert_refused(join({}, graph_with(*["relu x"] * layers), b""), noun)
    assert time.process_time() - started < 5


def test_shapes_are_checked_before_the_tensors_are_read(tmp_path: Path) -> None:
    size = 2 * 10**8
    header = {"signs": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    graph = graph_with(f"dense fc0 signs={10**8},12", "prelu a", shape=(1, 1, 12))
    graph["nodes"].insert(0, "flatten flat")
    path = tmp_path / "sparse.1bit"
    path.write_bytes(join(header, graph, b""))
    with open(path, "r+b") as stream:
        stream.truncate(path.stat().st_size + size)  # 200 MB that take no disk
    tracemalloc.start()
    with pytest.raises(FormatError, match="slope"):
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.1bit"
    with zipfile.ZipFile(path, "w") as archive:  # as torch.save does
        archive.writestr("model/data.pkl", pickle.dumps({"weight": 1}))
    weight = {"weight": np.ones(3, np.float32)}
    for content, noun in [
        (path.read_bytes(), "checkpoint"),
        (pickle.dumps({"weight": list(range(100))}), "checkpoint"),
        (b"", "truncated"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "truncated"),
        (save_tensors(weight), "metadata"),
        (save_tensors(weight, metadata={"format": "pt"}), "metadata"),
        (save_tensors({"linear1.weight": weight["weight"]}, metadata={"onebit": "{}"}), "tensor"),
    ]:
        path.write_bytes(content)
        with pytest.raises(FormatError, match=rf"x\.1bit: .*{noun}"):
            load(path)
