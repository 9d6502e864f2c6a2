"""Damaged and forged files: each gives a FormatError of one line at once, and nothing else."""

from __future__ import annotations

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

from onebit.errors import FormatError, NotBinaryError
from onebit.native import instruction_sets
from onebit.packed import PackedNet, dumps, infer, load, loads
from onebit.runtime import run
from support.hostile_files import Header, damaged, join, mutated, renumbered, sealed, sound, split
from support.packed_nets import IMAGE_NETS, OTHER_NETS, inputs_of

Maker = Callable[..., PackedNet]


@pytest.fixture
def data(packed_mlp: Maker) -> bytes:
    return dumps(packed_mlp((12, 70, 10), form="mixed"))


def refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as info:
        loads(data)
    assert "\n" not in str(info.value)
    assert len(str(info.value)) < 500


def test_the_helpers_make_a_sound_file(data: bytes) -> None:
    again = join(*split(data))
    assert join(*split(again)) == again
    assert dumps(loads(again)) == data


def test_every_truncation_is_refused(data: bytes) -> None:
    header = 8 + int.from_bytes(data[:8], "little")
    places = {*range(0, 20), *range(20, header, 37), header - 1, header, header + 1, *range(header, len(data), 61)}
    for length in sorted(places | {len(data) - 1}):
        with pytest.raises(FormatError, match="truncated"):
            loads(data[:length])


@pytest.mark.parametrize("extra", [b"\0", b"x" * 1000])
def test_bytes_after_the_end_are_refused(data: bytes, extra: bytes) -> None:
    refused(sealed(data + extra), "not a valid safetensors file")


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 200_000_000, 4_000_001, 1, 0])
def test_impossible_header_lengths_are_refused(data: bytes, length: int) -> None:
    refused(struct.pack("<Q", length) + data[8:], "is not a .1bit file, or is truncated")


def test_a_header_beyond_the_limit_is_not_even_parsed() -> None:
    text = b"{" + b" " * 4_000_000 + b"}"
    refused(struct.pack("<Q", len(text)) + text, "is not a .1bit file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe{}", "the header is not JSON in UTF-8"),
        ("{}".encode("utf-16"), "the header is not JSON in UTF-8"),
        (b"\xef\xbb\xbf{}", "the header is not JSON in UTF-8"),
        (b"[" * 100_000, "the header is nested too deeply"),
        (b'{"a":' * 100_000, "the header is nested too deeply"),
        (b"{}", "metadata"),
        (b"[]", "metadata"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": NaN}', "the header has the number NaN"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of 5000 digits"),
        (b'{"a": 1, "a": 2}', "the header has the key 'a' twice"),
        (b'{"__metadata__": {"onebit": 3}}', "metadata|graph"),
        (b'{"__metadata__": {"onebit": "{}", "more": ""}}', "'more'"),
        (b'{"__metadata__": []}', "metadata|graph"),
    ],
)
def test_bad_headers_are_refused(text: bytes, message: str) -> None:
    refused(join(text, "", b""), message)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("", "the graph is not JSON"),
        ("[" * 100_000, "the graph is nested too deeply"),
        ("null", "graph"),
        ('{"format": 2, "format": 2}', "key 'format' twice"),
        ({"format": 3, "new": 1}, "format 3"),
        ({"format": 1}, "format 1"),
        ({"format": True}, "format True"),
        ({"format": "1"}, "format '1'"),
        ({"format": 2}, "nodes"),
    ],
)
def test_bad_graphs_are_refused(data: bytes, graph: Any, message: str) -> None:
    header, _, tensors = split(data)
    refused(join(header, graph, tensors), message)


def edit(graph: Header, old: str, new: str) -> None:
    """Change the line of the dense layer."""
    assert old in graph["nodes"][1]
    graph["nodes"][1] = graph["nodes"][1].replace(old, new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.update(more=1), "the graph has the unknown field 'more'"),
        (lambda g: g.update(nodes={}), "nodes"),
        (lambda g: g.update(nodes=[]), "tensor"),
        (lambda g: g.update(output="gone"), "'gone'"),
        (lambda g: g.update(output=3), "output"),
        (lambda g: g.update(output=[]), "names"),
        (lambda g: g.update(output=["bias1"] * 101), "names"),
        (lambda g: g.update(output=[3]), "output"),
        (lambda g: g.update(output=["a"]), "made"),
        (lambda g: g.update(output={"a": []}), "output"),
        (lambda g: g.update(output={"a\n": "bias1"}), "output"),
        (lambda g: g.update(output=["bias1"]), "class"),
        (lambda g: g["input"].update(dtype="float64"), "input coding"),
        (lambda g: g["input"].update(dtype=[]), "input dtype is"),
        (lambda g: g["input"].update(dtype="float32"), "coding"),
        (lambda g: g["input"].update(meaning=3), "input meaning is 3"),
        (lambda g: g.update(name=None), "name"),
        (lambda g: g.update(classes="0123456789"), "classes"),
        (lambda g: g.update(classes=[1] * 10), "classes"),
        (lambda g: g.update(classes=["\x1b[2J"] * 10), "classes"),
        (lambda g: g.update(classes=["a"]), "class"),
        (lambda g: g.update(certificate={}), "certificate lacks the field"),
        (lambda g: g.update(input=None), "input"),
        (lambda g: g["input"].update(shape=[]), "shape"),
        (lambda g: g["input"].update(shape=[1, 1, 10**19]), "input shape"),
        (lambda g: g["input"].update(shape=[-1, -1, 12]), "integers"),
        (lambda g: g["input"].update(shape=[1, 1, 12.0]), "input shape"),
        (lambda g: g["input"].update(coding="integer"), "input mean"),
        (lambda g: g["input"].update(coding={}), "coding is {}"),
        (lambda g: g["nodes"].insert(0, 3), "op"),
        (lambda g: g["nodes"].insert(0, ""), "op"),
        (lambda g: g["nodes"].insert(0, "relu"), "relu"),
        (lambda g: g["nodes"].insert(0, "relu "), "name"),
        (lambda g: g["nodes"].insert(0, "relu  a"), "unknown"),
        (lambda g: g["nodes"].insert(0, "relu a "), "unknown"),
        (lambda g: g["nodes"].insert(0, "relu a\tb"), "name"),
        (lambda g: g.update(nodes=["relu x"] * 10_001), "nodes"),
        (lambda g: edit(g, "dense", "dens"), "op"),
        (lambda g: edit(g, "fc0 ", "fc0 stride=1 "), "'stride=1'"),
        (lambda g: edit(g, "fc0 ", "fc0 in_features=12 "), "in_features"),
        (lambda g: edit(g, "fc0 ", "fc0 signs "), "signs"),
        (lambda g: edit(g, "fc0 ", "fc0 scale=70 "), "repeated"),
        (lambda g: edit(g, "signs=70,12 ", ""), "node 'fc0' .*missing.*'signs'"),
        (lambda g: edit(g, "70,12", "70,13"), r"node 'fc0' \(dense\): got a value of shape \(12,\)"),
        (lambda g: edit(g, "70,12", "70,17"), r"signs of shape \(70, 17\) is not in the file, which has 140 more"),
        (lambda g: edit(g, "70,12", "69,12"), r"scale has shape \(70,\), expected \(69,\)"),
        (lambda g: edit(g, "70,12", "70"), "signs has the shape 70, expected 2 positive integers"),
        (lambda g: edit(g, "70,12", "0,12"), "signs has the shape 0,12, expected 2 positive integers"),
        (lambda g: edit(g, "70,12", "70,-12"), "expected 2 positive integers"),
        (lambda g: edit(g, "70,12", "70,012"), "signs is '70,012', expected integers"),
        (lambda g: edit(g, "70,12", "70,1e1"), "expected integers"),
        (lambda g: edit(g, "70,12", "70,٣"), "expected integers"),
        (lambda g: edit(g, "70,12", ""), "signs has the shape"),
        (lambda g: edit(g, "70,12", f"{10**18},{10**18}"), "is not in the file"),
        (lambda g: edit(g, "centre=70", "shift=70"), "shift"),
        (lambda g: edit(g, "centre=70", ""), "unknown"),
        (lambda g: edit(g, " centre=70", ""), "tensor 'centre' has 70 values, but the nodes use 0"),
        (lambda g: edit(g, "centre=70", "centre=71"), "centre of shape .* which has 70 more"),
        (lambda g: edit(g, "fc0 ", "fc0 inputs=flat,flat "), "got 2 inputs, expected 1"),
        (lambda g: edit(g, "fc0 ", "fc0 inputs= "), "0 inputs"),
        (lambda g: edit(g, "fc0 ", "fc0 inputs=sign0 "), "'sign0'"),
        (lambda g: edit(g, "fc0 ", "fc0 inputs=fc0 "), "'fc0'"),
        (lambda g: edit(g, "fc0 ", "fc1 "), "name"),
        (lambda g: g["nodes"].pop(), "'shift'"),
    ],
)
def test_changed_graphs_are_refused(data: bytes, change: Callable[[Header], Any], message: str) -> None:
    header, graph, tensors = split(data)
    change(graph)
    refused(join(header, graph, tensors), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "BF16"}, "'BF16'"),
        ({"dtype": "I32"}, "'I32'"),
        ({"dtype": ["F32"]}, "tensor"),
        ({"shape": [35, 2]}, "tensor"),
        ({"shape": [1] * 70}, "tensor"),
        ({"shape": []}, "tensor"),
        ({"shape": [0]}, "tensor"),
        ({"shape": [-70]}, "tensor"),
        ({"shape": 70}, "tensor"),
        ({"shape": [True]}, "tensor"),
        ({"shape": [2**62]}, "tensor"),
        ({"shape": [69]}, "tensor"),
        ({"data_offsets": [0, 276]}, "tensor"),
        ({"data_offsets": [-280, 0]}, "tensor"),
        ({"data_offsets": [280, 0]}, "tensor"),
        ({"data_offsets": [10**12, 10**12 + 280]}, "tensor"),
        ({"data_offsets": [0]}, "tensor"),
        ({"data_offsets": None}, "tensor"),
        ({"data_offsets": [1, 281]}, "not a valid safetensors file"),
        ({"more": 1}, "'more'"),
    ],
)
def test_changed_tensors_are_refused(data: bytes, change: Header, message: str) -> None:
    header, graph, tensors = split(data)
    header["scale"].update(change)
    refused(join(header, graph, tensors), message)


@pytest.mark.parametrize("by", [0, 1, 4, 276])
def test_overlapping_tensors_are_refused(data: bytes, by: int) -> None:
    header, graph, tensors = split(data)
    header["scale"]["data_offsets"] = [place + by for place in header["centre"]["data_offsets"]]
    refused(join(header, graph, tensors), "not a valid safetensors file")


@pytest.mark.parametrize("name", ["../x", "fc0.signs", "", "input.", "input.more", "in_features", "\x1b[2J"])
def test_tensors_that_no_net_has_are_refused(packed_mlp: Maker, name: str) -> None:
    header, graph, tensors = split(dumps(packed_mlp((12, 70, 10))))
    header[name] = {"dtype": "U8", "shape": [4], "data_offsets": [len(tensors), len(tensors) + 4]}
    refused(join(header, graph, tensors + bytes(4)), "is not part of a packed net")


def test_a_tensor_that_no_node_has_is_refused(packed_mlp: Maker) -> None:
    header, graph, tensors = split(dumps(packed_mlp((12, 70, 10))))
    header["direction"] = {"dtype": "I8", "shape": [4], "data_offsets": [len(tensors), len(tensors) + 4]}
    refused(join(header, graph, tensors + bytes(4)), "tensor 'direction' has 4 values, but the nodes use 0")


@pytest.mark.parametrize(
    ("tensor", "value", "message"),
    [
        ("scale", np.float32(np.nan), "node 'fc0' .dense.: 1 of 70 values of scale are not finite"),
        ("weight", np.float32(np.inf), "node 'fc1' .real_dense.: 1 of 700 values of weight are not finite"),
        ("input.std", np.float32(-1), "std"),
        ("input.mean", np.float32(np.nan), "input mean"),
        ("signs", b"\0\x10", r"node 'fc0' \(dense\): 1 rows have bits set after their 12 signs"),
    ],
)
def test_invalid_contents_are_refused(data: bytes, tensor: str, value: Any, message: str) -> None:
    header, graph, tensors = split(data)
    value = value if isinstance(value, bytes) else value.tobytes()
    first = header[tensor]["data_offsets"][0]
    refused(join(header, graph, tensors[:first] + value + tensors[first + len(value) :]), message)


CHANGED = {
    "features": [
        ("input", {"dtype": "uint8", "coding": "integer"}, None),
        ("input", {"dtype": "float16"}, "input coding"),
        ("input", {"dtype": None}, "input dtype"),
        ("input", {"coding": "standardise"}, "'standardise'"),
        ("input", {"coding": "integer"}, "expected"),
        ("input", {"meaning": "x" * 201}, "input meaning"),
        ("input", {"meaning": ["x"]}, "input meaning is"),
        ("input", {"meaning": "a\x1b[2J"}, "input meaning"),
        ("input", {"more": 1}, "input has the unknown field 'more'"),
        ("input", {"shape": [20, 1]}, r"node 'n0' \(dense\): got a value of shape \(20, 1\)"),
        ("input", {"shape": [1] * 7}, "integers"),
        ("input", {"shape": [2**27 + 1]}, "input shape"),
        ("input", {"shape": [2**62, 2**62]}, "input shape"),
        ("input", {"shape": [20.0]}, "input shape"),
        ("input", {"shape": [True]}, "input shape"),
        ("output", {"gated": "n5"}, "'n7'"),
        ("output", {}, "expected"),
        ("output", {"gated": 5}, "output"),
        ("output", {"gated": ["n7"]}, "output"),
        ("output", {"": "n7", "b": "n5"}, None),
        ("output", {"x" * 201: "n7"}, "output"),
        ("output", {"gated": "input"}, "made"),
        ("output", ["n7", "n7", "n5"], None),
        ("output", [["n7"]], "output"),
        ("output", True, "output"),
        ("output", {str(k): "n7" for k in range(101)}, "the"),
        ("classes", ["a"] * 33, "class"),
        ("n2", "clamp n2 low=2 high=1", r"node 'n2' \(clamp\): low has shape \(2,\), expected \(1,\)"),
        ("n2", "clamp n2", "high"),
        ("n2", "clamp n2 low=0", "low has the shape 0, expected 1 positive integers"),
        ("n2", "clamp n2 low=1,1", "low has the shape 1,1, expected 1 positive integers"),
        ("n2", "clamp n2 low=9999999", r"low of shape \(9999999,\) is not in the file"),
        ("n5", "multiply n5 inputs=n3", "got 1 inputs, expected 2"),
        ("n5", "multiply n5 inputs=n3,n4,n4", "got 3 inputs, expected 2"),
        ("n5", "multiply n5 inputs=n3,input", "shapes"),
        ("n7", "reshape n7 shape=2", r"got a value of shape \(1,\), expected 2 elements for \(2,\)"),
        ("n7", "reshape n7 shape=0", "integers"),
        ("n7", "reshape n7 shape=-1", "integers"),
        ("n7", "reshape n7 shape=1,1,1,1,1,1,1", "shape is '1,1,1,1,1,1,1', expected integers"),
        ("n7", "reshape n7 shape=,", "shape is ',', expected integers"),
        ("n7", "reshape n7 shape=1.0", "expected integers"),
        ("n7", f"reshape n7 shape={10**18}", "integers"),
        ("n7", "reshape n7 shape=1048576,1048576,1048576,1048576", "expected 1208925819614629174706176 elements"),
        ("n7", "reshape n7 shape=1,1,1,1,1,1", None),
    ],
    "tokens": [
        ("n1", "permute n1 axes=1,1", r"axes are \(1, 1\), expected a permutation of the 2 axes of \(6, 40\)"),
        ("n1", "permute n1 axes=0", "expected a permutation of the 2 axes"),
        ("n1", "permute n1 axes=", "expected a permutation of the 2 axes"),
        ("n1", "permute n1 axes=2,0", "expected a permutation of the 2 axes"),
        ("n1", "permute n1 axes=0,-1", "integers"),
        ("n1", "permute n1 axes=0,1,2,3,4,5,6", "axes is '0,1,2,3,4,5,6', expected integers"),
        ("n8", "repeat n8 times=1,1,3", r"times are \(1, 1, 3\), expected one for each axis of \(6, 2, 2, 16\)"),
        ("n8", "repeat n8 times=1,1,0,1", "integers"),
        ("n8", "repeat n8 times=1048576,1048576,1048576,1048576", "its value has shape .* more than 134217728 values"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("form", "where", "change", "message"),
    [(form, *rest) for form, changes in CHANGED.items() for rest in changes],
    ids=lambda value: str(value)[:40] if isinstance(value, (str, dict, list)) else None,
)
def test_changed_graphs_of_any_input_are_refused(form: str, where: str, change: Any, message: str | None) -> None:
    """`where` is a field of the graph or the node whose line is replaced; message None: the file is still valid."""
    header, graph, tensors = split(dumps(OTHER_NETS[form]()))
    if where == "input":
        graph["input"] |= change
    elif where in graph:
        graph[where] = change
    else:
        graph["nodes"] = [change if line.split(" ")[1] == where else line for line in graph["nodes"]]
    if message is None:
        loads(join(header, graph, tensors))
    else:
        refused(join(header, graph, tensors), message)


@pytest.mark.parametrize("field", ["low", "high"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bounds_that_are_not_finite_are_refused(field: str, value: float) -> None:
    header, graph, tensors = split(dumps(OTHER_NETS["features"]()))
    first = header[field]["data_offsets"][0]
    changed = tensors[:first] + np.float32(value).tobytes() + tensors[first + 4 :]
    refused(join(header, graph, changed), f"1 of 1 values of {field} are not finite")


def test_bounds_in_the_wrong_order_are_refused() -> None:
    header, graph, tensors = split(dumps(OTHER_NETS["features"]()))
    first = header["high"]["data_offsets"][0]
    changed = tensors[:first] + np.float32(-9).tobytes() + tensors[first + 4 :]
    refused(join(header, graph, changed), r"node 'n2' \(clamp\): low is 0.0, expected at most high, -9.0")


def graph_with(*lines: str, shape: tuple[int, int, int] = (1, 1, 1)) -> Header:
    """A graph with these nodes."""
    return {"digest": "0" * 64, "format": 2, "name": "",
            "input": {"shape": list(shape), "coding": "integer"}, "nodes": list(lines),
            "output": lines[-1].split(" ")[1], "classes": None, "certificate": None}  # fmt: skip


def test_a_huge_claim_costs_nothing() -> None:
    tracemalloc.start()
    started = time.perf_counter()
    size = 10**12 // 8
    graph = graph_with(f"dense fc signs=1,{10**12}")
    header = {"signs": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    refused(join(header, graph, b""), "truncated")
    header = {"signs": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    refused(join(header, graph, b"\0"), r"signs of shape \(1, 1000000000000\) is not in the file")
    for lines, message in [
        (["conv c signs=1,1 kernel=1 padding=1048576"], "the padded image has shape"),
        (["conv_transpose c signs=1,1 kernel=1 extra=1048576"], "node 'c'.*the result has"),
        (["conv c signs=1,1 kernel=1 padding=0,200000000,0,0"], "integers"),
        (["max_pool c kernel=1000000 padding=999999"], "the padded image has shape"),
        (["pad c padding=1048576"], "its value has shape"),
        (["repeat c times=1048576,1048576,1048576"], "its value has shape"),
        (["repeat c times=512,1,1", "repeat d times=512,1,1", "repeat e times=513,1,1"], "node 'e' .* its value has"),
        (["reshape c shape=1048576"], "expected 1048576 elements"),
        (["concat c inputs=input,input", *(f"concat c{i} inputs={'c' + str(i - 1) if i else 'c'},"
          f"{'c' + str(i - 1) if i else 'c'}" for i in range(40))], "node 'c26' .* its value has shape"),
    ]:  # fmt: skip
        refused(join(header if "signs" in lines[0] else {}, graph_with(*lines), b"\0"), message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(("layers", "message"), [(10**6, "is not a .1bit file"), (300_000, "nodes")])
def test_a_million_layers_are_refused_at_once(layers: int, message: str) -> None:
    """No layer is made: the header is too long, or has too many lines."""
    started = time.perf_counter()
    refused(join({}, graph_with(*["relu x"] * layers), b""), message)
    assert time.perf_counter() - started < 5


def test_cycles_of_layers_are_refused() -> None:
    lines = ["relu a inputs=c", "relu b inputs=a", "relu c inputs=b"]
    refused(join({}, graph_with(*lines), b""), "before")


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


def test_pickles_are_named_and_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:  # as torch.save does
        archive.writestr("model/data.pkl", pickle.dumps({"weight": 1}))
    message = "checkpoint"
    with pytest.raises(FormatError, match=message):
        load(path)
    for protocol in (2, 4):  # as it did before
        path.write_bytes(pickle.dumps({"weight": list(range(100))}, protocol=protocol))
        with pytest.raises(FormatError, match=message):
            load(path)


def test_a_truncated_file_whose_length_looks_like_a_pickle_is_not_called_one(packed_mlp: Maker, tmp_path: Path) -> None:
    path, good = tmp_path / "cut.1bit", dumps(packed_mlp((12, 70, 10)))
    for start in (b"\x80\x02", b"PK\x03\x04"):
        path.write_bytes(start + bytes(8 - len(start)) + good[8:400])
        with pytest.raises(FormatError, match=r"cut\.1bit: is not a \.1bit file, or is truncated"):
            load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.1bit"
    for content, message in [
        (b"", "is not a .1bit file, or is truncated"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not a .1bit file"),
        (b"onebit" * 100, "is not a .1bit file"),
        (save_tensors({"weight": np.ones(3, np.float32)}), "is not a packed net"),
        (save_tensors({"weight": np.ones(3, np.float32)}, metadata={"format": "pt"}), "is not a packed net"),
        (
            save_tensors({"linear1.weight": np.ones((3, 2), np.float32)}, metadata={"onebit": "{}"}),
            "tensor 'linear1.weight' is not part of a packed net",
        ),
    ]:
        path.write_bytes(content)
        with pytest.raises(FormatError, match=rf"x\.1bit: {message}"):
            load(path)


@pytest.mark.parametrize("form", ["weight-only", "sign", "mixed"])
def test_random_damage_is_refused_or_still_a_valid_net(packed_mlp: Maker, form: str) -> None:
    rng = random.Random(form)
    net = packed_mlp((12, 70, 10), form=form)
    good = dumps(net)
    outcomes = {"refused": 0, "sound": 0}
    for index in range(300):
        back = sound(damaged(good, rng, header_only=index % 3 > 0))
        outcomes["refused" if back is None else "sound"] += 1
        if back is not None:
            assert infer(back)[back.output].shape == infer(net)[net.output].shape
            assert [type(node) for node in back.nodes] == [type(node) for node in net.nodes]
    assert min(outcomes.values()) > 10, outcomes


@pytest.mark.parametrize("form", [*IMAGE_NETS, *OTHER_NETS])
@pytest.mark.parametrize("change", [mutated, renumbered])
@pytest.mark.parametrize("count", [150, pytest.param(500, marks=pytest.mark.nightly)])
def test_damaged_nets_are_refused_or_run(form: str, change: Callable[..., bytes], count: int) -> None:
    """Changed bytes or digits: files that are valid by chance run in bounded memory."""
    rng = random.Random(form)
    good = dumps({**IMAGE_NETS, **OTHER_NETS}[form]())
    outcomes = {"refused": 0, "sound": 0}
    for _ in range(count):
        back = sound(change(good, rng))
        outcomes["refused" if back is None else "sound"] += 1
        if back is not None:
            answers = [outcome(back, inputs_of(back, 2), executor) for executor in ("native", "reference")]
            if isinstance(answers[1], str):
                assert answers[0] == answers[1]
                continue
            found, expected = (back.by_name(answer) for answer in answers)
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array)
    assert min(outcomes.values()) > 10, outcomes


def outcome(net: PackedNet, images: np.ndarray, executor: str) -> Any:
    """The outputs, or the error: parameters of a valid file may overflow."""
    if executor == "native" and not instruction_sets():
        executor = "reference"
    try:
        return run(net, images, executor=executor)
    except (FormatError, NotBinaryError) as error:
        return type(error).__name__
