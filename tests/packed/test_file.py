from __future__ import annotations

import json
import os
import resource
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from onebit.errors import FormatError, OnebitError
from onebit.nets import net_names, net_path
from onebit.packed import OPS, Certificate, InputSpec, PackedNet, costs, dumps, load, loads, nodes as op, save
from onebit.packed.bits import pack_signs, unpack_signs
from onebit.packed.node_text import to_lines
from support.packed_nets import NETS, Builder, make_packed_mlp

ROOT = Path(__file__).parents[2]


def graph_of(data: bytes) -> dict[str, Any]:
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8:start])["__metadata__"]["onebit"])


def assert_same(net: PackedNet, back: PackedNet) -> None:
    assert (back.input.shape, back.input.coding, back.output, back.classes, back.name, back.certificate) == (
        net.input.shape, net.input.coding, net.output, net.classes, net.name, None,
    )  # fmt: skip
    assert len(back.nodes) == len(net.nodes)
    for mine, its in zip(net.nodes, back.nodes, strict=True):
        assert type(mine) is type(its)
        assert (mine.inputs, mine.output) == (its.inputs, its.output)
        for name in mine.attributes:
            assert getattr(mine, name) == getattr(its, name)
        for name in mine.arrays:
            a, b = getattr(mine, name), getattr(its, name)
            assert (a is None) == (b is None)
            if a is not None:
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
    for name in ("mean", "std"):
        np.testing.assert_array_equal(getattr(net.input, name), getattr(back.input, name))


def test_every_operation_survives() -> None:
    nets = [make_packed_mlp((12, 70, 10), form=form) for form in ("weight-only", "sign", "mixed")]
    nets += [make() for make in NETS.values()]
    a, b = op.Flatten(inputs=("input",), output="a"), op.Hardtanh(inputs=("a",), output="b")
    chain = (a, b, op.Sign(inputs=("b",), output="c"))
    nets.append(
        PackedNet(inputs={"input": InputSpec(shape=(3, 2, 2))}, nodes=chain, output="c")
    )  # a file without tensors
    b = Builder((3, 2, 4))
    b.add(op.Reshape, shape=(3, 8))
    b.add(op.Permute, axes=(1, 0))
    x = b.add(op.Repeat, times=(1, 2))
    y = b.add(op.Clamp, low=np.float32([-1]), high=np.float32([2.5]))
    b.add(op.Multiply, x, y)
    b.add(op.Normalize, eps=np.float32([1e-5]), groups=2, whole=1)
    b.add(op.Reshape, shape=(8, 2, 3))
    b.add(op.Softmax)
    b.add(op.Sqrt)
    b.add(op.Reciprocal)
    b.add(op.Product, b.last, b.last)
    b.add(op.Reshape, shape=(18,))
    b.dense(1)
    b.add(op.Reshape, shape=())
    nets.append(b.net())
    assert {type(node) for net in nets for node in net.nodes} == set(OPS.values())
    for net in nets:
        back = loads(dumps(net))
        assert_same(net, back)
        assert dumps(back) == dumps(net)


def test_a_node_is_one_line_that_people_can_read() -> None:
    b = Builder((3, 8, 8))
    b.add(op.Conv, **b.signs(4, 27), kernel=(3, 3), padding=(1, 1, 1, 1))
    x = b.affine(4)
    b.add(op.Conv, **b.signs(4, 6, scale=True), kernel=(1, 3), stride=(1, 2), padding=(0, 0, 1, 0), groups=2)
    b.add(op.Pad, x, value=-1, padding=(0, 0, 0, 2))
    b.add(op.Slice, stop=(4, 8, 8), step=(1, 1, 2))
    b.add(op.Add, x, x)
    lines = to_lines(b.nodes)
    assert lines == [
        "conv n0 signs=4,27 kernel=3 padding=1",
        "affine n1 scale=4 shift=4",
        "conv n2 signs=4,6 scale=4 kernel=1,3 stride=1,2 padding=0,0,1,0 groups=2",
        "pad n3 inputs=n1 padding=0,0,0,2 value=-1",
        "slice n4 stop=4,8,8 step=1,1,2",
        "add n5 inputs=n1,n1",
    ]


def test_the_certificate_and_names_survive(certificate: Certificate) -> None:
    net = replace(make_packed_mlp((3, 2), certificate=certificate), classes=('quo"te', "猫"), name="näme \\ '")
    back = loads(dumps(net))
    assert (back.certificate, back.classes, back.name) == (certificate, net.classes, net.name)
    assert loads(dumps(replace(net, classes=None))).classes is None


def test_the_same_net_always_makes_the_same_bytes(tmp_path: Path, certificate: Certificate) -> None:
    contents = set()
    for index in range(5):
        save(make_packed_mlp(form="mixed", certificate=certificate), tmp_path / f"{index}.1bit")
        contents.add((tmp_path / f"{index}.1bit").read_bytes())
    assert len(contents) == 1


def test_transposed_and_strided_arrays_are_stored_by_their_values() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 4)).astype(np.float32)
    words = np.asfortranarray(pack_signs(rng.choice([-1, 1], (6, 130))))
    nodes = (
        op.Flatten(inputs=("input",), output="x"),
        op.Dense(inputs=("x",), output="fc", signs=words, in_features=130),
        op.Affine(inputs=("fc",), output="a", shift=np.arange(12, dtype=np.float32)[::2]),
        op.RealDense(inputs=("a",), output="y", weight=weight.T),
    )
    net = PackedNet(inputs={"input": InputSpec(shape=(1, 10, 13))}, nodes=nodes, output="y")
    _, dense, affine, last = loads(dumps(net)).nodes
    np.testing.assert_array_equal(dense.signs, words)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(affine.shift, [0, 2, 4, 6, 8, 10])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(last.weight, weight.T)  # type: ignore[attr-defined]


def test_invalid_values_are_not_written(tmp_path: Path) -> None:
    nodes = (op.Affine(inputs=("input",), output="a", shift=np.array([np.nan], np.float32)),)
    with pytest.raises(FormatError, match="shift"):
        save(PackedNet(inputs={"input": InputSpec(shape=(1, 2, 2))}, nodes=nodes, output="a"), tmp_path / "net.1bit")
    assert not list(tmp_path.iterdir())


def test_a_net_with_too_many_nodes_is_not_made() -> None:
    nodes = [op.Relu(inputs=("input",), output="0")]
    nodes += [op.Relu(inputs=(str(index),), output=str(index + 1)) for index in range(10_000)]
    with pytest.raises(FormatError, match="nodes"):
        PackedNet(inputs={"input": InputSpec(shape=(1, 1, 1))}, nodes=tuple(nodes), output="10000")


def assert_small(net: PackedNet) -> None:
    """What docs/format.md promises."""
    net = replace(net, card=None)
    coding = 8 * net.input.shape[0] if net.input.coding == "standardise" else 0
    assert len(dumps(net)) <= sum(cost.bytes for cost in costs(net)) + coding + 2000 + 100 * len(net.nodes)


@pytest.mark.parametrize("name", [*NETS, *net_names()])
def test_nets_are_as_small_as_promised(name: str) -> None:
    make = NETS.get(name)
    net = load(net_path(name)) if make is None else make()
    assert_small(net)
    for node in net.nodes:
        if isinstance(node, op.Requantize):
            assert node.stored_bytes == 4 * node.multiplier.size + 8 * node.offset.size


def test_any_safetensors_reader_opens_the_file(tmp_path: Path) -> None:
    net = make_packed_mlp((12, 70, 10), form="sign")
    save(net, tmp_path / "net.1bit")
    with safe_open(tmp_path / "net.1bit", framework="numpy") as file:
        assert set(file.metadata()) == {"onebit"}
        assert json.loads(file.metadata()["onebit"])["format"] == 2
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {name: array.shape for name, array in tensors.items()} == {
        "signs": (70 * 2 + 10 * 9,), "threshold": (70,), "direction": (70,), "scale": (10,), "shift": (10,),
    }  # fmt: skip
    expected = unpack_signs(net.nodes[3].signs, 70)  # type: ignore[attr-defined]
    bits = np.unpackbits(tensors["signs"][140:].reshape(10, 9), axis=1, count=70, bitorder="little")
    np.testing.assert_array_equal(bits.astype(int) * 2 - 1, expected)


def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "net.1bit"
    save(make_packed_mlp((3, 2)), path)
    old = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(OnebitError, match=r"net\.1bit"):
            save(make_packed_mlp((300, 300, 10)), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["net.1bit"]


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path / "gone.1bit", tmp_path, pipe):
        with pytest.raises(FormatError, match=path.name):
            load(path)


def test_the_reader_of_the_specification_reads_our_files(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    (tmp_path / "reader.py").write_text(text.split("```python\n")[1].split("```")[0], encoding="utf-8")
    nets = [make_packed_mlp((12, 70, 10), form=form) for form in ("mixed", "weight-only", "sign")]
    for net in [*(make() for make in NETS.values()), *nets]:
        save(net, tmp_path / "net.1bit")
        graph, tensors = runpy.run_path(str(tmp_path / "reader.py"))["read"](tmp_path / "net.1bit")
        assert graph == graph_of(dumps(net))
        for node in net.nodes:
            for name, array in node.stored.items():
                expected = unpack_signs(array, node.in_features) if name == "signs" else array  # type: ignore[attr-defined]
                np.testing.assert_array_equal(tensors.pop(f"{node.output}.{name}"), expected)
        assert set(tensors) == ({"input.mean", "input.std"} if net.input.coding == "standardise" else set())
    command = [sys.executable, str(tmp_path / "reader.py"), str(tmp_path / "net.1bit")]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert lines[1] == "affine1.shift float32 (10,)"
    assert "fc0.signs int8 (70, 12)" in lines


def test_the_specification_names_every_operation_and_field() -> None:
    text = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    for key, kind in OPS.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| `{key}` |"))
        for name in (*kind.arrays, *kind.attributes):
            assert f"`{name}`" in line, (key, name)
    net = PackedNet(
        inputs={"input": InputSpec(shape=(1, 1, 1))}, nodes=(op.Relu(inputs=("input",), output="y"),), output="y"
    )
    for name in graph_of(dumps(net)):
        assert f"| `{name}` |" in text
    tensors = text.partition("| tensor |")[2].partition("\n\n")[0]
    stored = {name for kind in OPS.values() for name in kind.arrays}
    assert [name for name in stored if f"`{name}`" not in tensors] == []
