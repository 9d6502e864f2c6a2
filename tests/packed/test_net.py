from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from onebit.errors import FormatError
from onebit.packed import OPS, InputSpec, Node, OneBitWeights, PackedNet, Value, costs, infer, nodes as op
from onebit.packed.bits import pack_signs
from support.packed_nets import make_packed_mlp

IMAGE = InputSpec(shape=(1, 2, 3))


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_the_numbers_of_a_net_cannot_be_changed() -> None:
    """Plans and certificates are of the numbers that it was made with."""
    own, mean = np.ones(3, np.float32), np.ones(1, np.float32)
    net = PackedNet(
        inputs={"input": replace(IMAGE, coding="standardise", mean=mean, std=mean)},
        nodes=(
            flat(),
            op.RealDense(inputs=("flat",), output="a", weight=zeros(3, 6)),
            op.Affine(inputs=("a",), output="b", shift=own),
        ),
        output="b",
    )
    for array in (net.nodes[1].weight, net.nodes[2].shift, net.input.mean, net.input.std):  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 2
    own[:] = 3  # the array that was given stays the caller's
    affine = net.nodes[2]
    np.testing.assert_array_equal(affine.shift, 1)  # type: ignore[attr-defined]
    other = replace(affine, output="c")
    assert np.shares_memory(other.shift, affine.shift)  # type: ignore[attr-defined]  # what cannot change is not copied


def flat() -> op.Flatten:
    return op.Flatten(inputs=("input",), output="flat")


def dense(source: str = "flat", output: str = "fc", *, inputs: int = 6, outputs: int = 4, **fields: object) -> op.Dense:
    signs = pack_signs(np.ones((outputs, inputs)))
    return op.Dense(inputs=(source,), output=output, signs=signs, in_features=inputs, **fields)  # type: ignore[arg-type]


def threshold(source: str, channels: int = 4) -> op.Threshold:
    direction = np.ones(channels, np.int8)
    return op.Threshold(inputs=(source,), output="t", threshold=np.zeros(channels, np.int32), direction=direction)


def net(*nodes: Node, output: str | None = None, spec: InputSpec = IMAGE) -> PackedNet:
    return PackedNet(inputs={"input": spec}, nodes=nodes, output=output or nodes[-1].output)


def test_the_repr_of_a_net_is_one_line_without_arrays() -> None:
    assert repr(make_packed_mlp((12, 70, 65, 10), form="sign", shape=(3, 2, 2))) == (
        "PackedNet('random sign', 3×2×2 integer -> 10: 1 flatten, 3 dense, 2 threshold, 1 affine; "
        "6,040 binary weights, 1,570 bytes)"
    )
    assert len(repr(replace(make_packed_mlp(), name="x" * 200))) < 250


def test_kinds_shapes_and_bounds_follow_the_values() -> None:
    assert infer(make_packed_mlp((12, 70, 10), form="weight-only")) == {
        "input": Value((1, 1, 12), "integer", 255),
        "flat": Value((12,), "integer", 255),
        "fc0": Value((70,), "integer", 12 * 255),
        "affine0": Value((70,), "real"),
        "relu0": Value((70,), "real"),
        "fc1": Value((10,), "real"),
        "affine1": Value((10,), "real"),
    }
    sign = infer(make_packed_mlp((12, 70, 10), form="sign"))
    assert sign["threshold0"] == Value((70,), "sign", 1)
    assert sign["fc1"] == Value((10,), "integer", 70)
    mixed = infer(make_packed_mlp((12, 70, 10), form="mixed"))
    assert mixed["input"] == Value((1, 1, 12), "real")
    assert mixed["sign0"] == Value((70,), "sign", 1)
    assert mixed["fc1"].kind == "real"


def test_elementwise_operations_keep_integers_where_they_can() -> None:
    values = infer(net(op.Relu(inputs=("input",), output="r"), op.Hardtanh(inputs=("r",), output="h")))
    assert values["r"] == Value((1, 2, 3), "integer", 255)
    assert values["h"] == Value((1, 2, 3), "integer", 1)  # 0 is possible: not a sign
    scaled = infer(net(flat(), dense(scale=np.ones(4, np.float32)), op.Sign(inputs=("fc",), output="s")))
    assert scaled["fc"].kind == "real"
    assert scaled["s"].kind == "sign"


@pytest.mark.parametrize(
    ("nodes", "output", "noun"),
    [
        ([], "x", "'x'"),
        ([flat(), dense("flatt")], "fc", "'flatt'"),
        ([flat(), dense(), dense(output="fc")], "fc", "name"),
        ([op.Flatten(inputs=("input",), output="input")], "input", "name"),
        ([flat(), dense()], "gone", "'gone'"),
        ([flat()], "input", "'input'"),
        ([flat(), dense(), dense("flat", "spare")], "fc", "'spare'"),
        ([op.Flatten(inputs=("input",), output="../x")], "../x", "name"),
        ([op.Flatten(inputs=("input",), output="")], "", "name"),
        ([op.Flatten(inputs=("input",), output="a" * 101)], "a" * 101, "name"),
        ([flat(), dense(inputs=7)], "fc", "shape"),
        ([dense("input")], "fc", "shape"),
        ([flat(), op.RealDense(inputs=("flat",), output="fc", weight=zeros(2, 5))], "fc", "shape"),
        ([flat(), op.Affine(inputs=("flat",), output="a", shift=zeros(5))], "a", "5 channels"),
        ([op.Affine(inputs=("input",), output="a", scale=zeros(6))], "a", "6 channels"),
        ([flat(), dense(), threshold("fc", 3)], "t", "3 channels"),
        ([flat(), dense(centre=zeros(4)), threshold("fc")], "t", "integers"),
    ],
)
def test_invalid_graphs_are_refused(nodes: list[Node], output: str, noun: str) -> None:
    with pytest.raises(FormatError, match=noun):
        net(*nodes, output=output)


@pytest.mark.parametrize(
    ("build", "noun"),
    [
        (lambda: dense(scale=np.ones(4)), "float64"),
        (lambda: dense(scale=zeros(3)), "scale"),
        (lambda: dense(centre=zeros(4, 1)), "centre"),
        (lambda: replace(dense(), in_features=65), "signs"),
        (lambda: replace(dense(), in_features=0), "signs"),
        (lambda: replace(dense(), signs=np.ones((4, 1), np.int64)), "int64"),
        (lambda: replace(dense(), signs=np.ones((0, 1), np.uint64)), "empty"),
        (lambda: replace(dense(), inputs=()), "0 inputs"),
        (lambda: op.Sign(inputs=("a", "b"), output="c"), "2 inputs"),
        (lambda: replace(threshold("a"), threshold=np.ones(4, np.int64)), "threshold"),
    ],
)
def test_arrays_that_do_not_fit_their_node_are_refused(build: Callable[[], Node], noun: str) -> None:
    with pytest.raises(FormatError, match=noun):
        build()


@pytest.mark.parametrize(
    ("node", "noun"),
    [
        (dense(scale=np.array([1, np.nan, np.inf, 1], np.float32)), "'fc' .dense.: 2 of 4 values of scale"),
        (dense(centre=np.array([1, 1, 1, -np.inf], np.float32)), "1 of 4 values of centre"),
        (replace(dense(), signs=np.full((4, 1), 64, np.uint64)), "4 rows"),
        (op.RealDense(inputs=("flat",), output="fc", weight=np.full((2, 6), np.nan, np.float32)), "12 of 12"),
        (replace(threshold("flat", 6), direction=np.array([1, -1, 0, 2, -128, 127], np.int8)), "4 of 6"),
    ],
)
def test_invalid_contents_are_refused(node: Node, noun: str) -> None:
    with pytest.raises(FormatError, match=noun):
        net(flat(), node).check_values()


@pytest.mark.parametrize(
    ("fields", "noun"),
    [
        ({"shape": (1, 0, 28)}, "shape"),
        ({"coding": "zca"}, "'zca'"),
        ({"coding": "standardise", "mean": zeros(1)}, "std"),
        ({"coding": "standardise", "mean": zeros(2), "std": zeros(2)}, "mean"),
    ],
)
def test_invalid_inputs_are_refused(fields: dict[str, object], noun: str) -> None:
    with pytest.raises(FormatError, match=noun):
        InputSpec(**{"shape": (1, 28, 28), **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(("mean", "std"), [(np.nan, 1), (0, 0), (0, np.inf)])
def test_an_invalid_standardization_is_refused(mean: float, std: float) -> None:
    arrays = {"mean": np.array([mean], np.float32), "std": np.array([std], np.float32)}
    spec = InputSpec(shape=(1, 2, 3), coding="standardise", **arrays)
    with pytest.raises(FormatError, match=r"input (mean|std)"):
        net(flat(), spec=spec).check_values()


def test_displayed_names_are_printable() -> None:
    good = make_packed_mlp((3, 2))
    assert replace(good, name="déjà vu", classes=("a b", "猫")).classes == ("a b", "猫")
    for wrong in (
        {"name": "\x1b[2J"},
        {"name": "a" * 201},
        {"classes": ("a", "b\n")},
        {"name": 3},
        {"classes": ("a", "b", "c")},
        {"classes": ("a", "a")},  # shares by name would lose one
    ):
        with pytest.raises(FormatError, match=r"name|class"):
            replace(good, **wrong)


def test_costs_count_what_a_file_holds() -> None:
    by_name = {cost.name: cost for cost in costs(make_packed_mlp((12, 70, 10), form="sign"))}
    assert by_name["fc0"] == ("fc0", "dense", (70,), 840, 0, 70 * 2, 840)
    assert by_name["threshold0"] == ("threshold0", "threshold", (70,), 0, 70, 70 * 5, 0)
    assert by_name["fc1"] == ("fc1", "dense", (10,), 700, 0, 10 * 9, 700)
    assert by_name["affine1"] == ("affine1", "affine", (10,), 0, 20, 80, 0)
    mixed = {cost.name: cost for cost in costs(make_packed_mlp((12, 70, 10), form="mixed"))}
    assert mixed["fc0"] == ("fc0", "dense", (70,), 840, 140, 70 * 2 + 140 * 4, 840)
    assert mixed["fc1"] == ("fc1", "real_dense", (10,), 0, 700, 2800, 700)
    assert mixed["bias1"].real_parameters == 10


def test_every_operation_has_one_name() -> None:
    assert len(set(OPS.values())) == len(OPS)
    for kind in OPS.values():
        assert issubclass(kind, Node)
        assert "signs" not in kind.arrays or issubclass(kind, OneBitWeights)
