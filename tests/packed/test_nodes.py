"""Shapes, kinds and bounds of operations on images, and invalid ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from onebit import runtime
from onebit.errors import FormatError
from onebit.packed import InputSpec, Node, PackedNet, Value, costs, nodes as op
from onebit.packed.bits import pack_signs
from support.drawn_nets import batches_of, nets

SIGNS = Value((4, 6, 5), "sign", 1)
PIXELS = Value((4, 6, 5), "integer", 255)
REALS = Value((4, 6, 5), "real")


def make(kind: type[Node], *, outputs: int = 6, terms: int = 36, **fields: Any) -> Node:
    """A node that reads "x", with weights if it has any."""
    if kind in (op.Conv, op.ConvTranspose):
        fields = {"signs": pack_signs(np.ones((outputs, terms))), "in_features": terms, "kernel": (3, 3), **fields}
    elif kind in (op.RealConv, op.RealConvTranspose):
        fields = {"weight": np.ones((outputs, terms), np.float32), "kernel": (3, 3), **fields}
    inputs = ("x", "y") if kind in (op.Add, op.Concat) else ("x",)
    return kind(inputs=inputs, output="z", **fields)


@pytest.mark.parametrize(
    ("node", "x", "expected"),
    [
        (make(op.Conv), SIGNS, Value((6, 4, 3), "integer", 36)),
        (make(op.Conv, padding=(1, 0, 2, 0), stride=(2, 3)), PIXELS, Value((6, 3, 2), "integer", 36 * 255)),
        (make(op.Conv, dilation=(2, 1), groups=2, terms=18), SIGNS, Value((6, 2, 3), "integer", 18)),
        (make(op.Conv, padding=(1, 1, 1, 1), padding_value=1), SIGNS, Value((6, 6, 5), "integer", 36)),
        (make(op.Conv), REALS, Value((6, 4, 3), "real")),
        (make(op.Conv, scale=np.ones(6, np.float32)), SIGNS, Value((6, 4, 3), "real")),
        (make(op.RealConv), PIXELS, Value((6, 4, 3), "real")),
        (make(op.ConvTranspose, stride=(2, 2), padding=(1, 1, 0, 0), extra=(1, 0)), SIGNS,
         Value((6, 12, 11), "integer", 36)),
        (make(op.RealConvTranspose, dilation=(1, 3)), REALS, Value((6, 8, 11), "real")),
        (make(op.MaxPool, kernel=(2, 2), stride=(2, 2)), SIGNS, Value((4, 3, 2), "sign", 1)),
        (make(op.MaxPool, kernel=(3, 3), stride=(2, 2), padding=(1,) * 4), PIXELS, Value((4, 3, 3), "integer", 255)),
        (make(op.AveragePool, kernel=(6, 5)), PIXELS, Value((4, 1, 1), "real")),
        (make(op.AveragePool, kernel=(2, 3), sums=1), SIGNS, Value((4, 5, 3), "integer", 6)),
        (make(op.AveragePool, kernel=(2, 3), sums=1), REALS, Value((4, 5, 3), "real")),
        (make(op.AdaptiveAveragePool, size=(4, 2)), SIGNS, Value((4, 4, 2), "real")),
        (make(op.Slice, stop=(4, 6, 5), step=(1, 2, 2)), SIGNS, Value((4, 3, 3), "sign", 1)),
        (make(op.Slice, start=(1, 2, 3), stop=(3, 6, 4)), PIXELS, Value((2, 4, 1), "integer", 255)),
        (make(op.Take, axis=1, indices=np.int32([2, 0, 0])), SIGNS, Value((4, 3, 5), "sign", 1)),
        (make(op.AdaptiveAveragePool, size=(7, 1)), SIGNS, Value((4, 7, 1), "real")),
        (make(op.Pad, channels=(1, 2), padding=(0, 1, 2, 3)), SIGNS, Value((7, 7, 10), "integer", 1)),
        (make(op.Pad, channels=(1, 2), value=-1), SIGNS, Value((7, 6, 5), "sign", 1)),
        (make(op.Pad, value=1), REALS, REALS),
    ],
)  # fmt: skip
def test_shapes_kinds_and_bounds(node: Node, x: Value, expected: Value) -> None:
    assert node.infer(x) == expected


@pytest.mark.parametrize(
    ("x", "y", "added", "joined"),
    [
        (SIGNS, SIGNS, ("integer", 2), ("sign", 1)),
        (SIGNS, PIXELS, ("integer", 256), ("integer", 255)),
        (PIXELS, REALS, ("real", None), ("real", None)),
    ],
)
def test_the_kind_of_a_sum_and_of_a_concatenation(x: Value, y: Value, added: Any, joined: Any) -> None:
    for pair in ((x, y), (y, x)):
        assert make(op.Add).infer(*pair) == Value((4, 6, 5), *added)
        assert make(op.Concat).infer(*pair) == Value((8, 6, 5), *joined)


@pytest.mark.parametrize(
    ("node", "x", "noun"),
    [
        (make(op.Conv), Value((3, 6, 5), "sign", 1), "channels"),
        (make(op.Conv, groups=3, terms=9), SIGNS, "channels"),
        (make(op.Conv), Value((4,), "sign", 1), "image"),
        (make(op.Conv), Value((4, 2, 9), "sign", 1), "kernel"),
        (make(op.Conv, dilation=(1, 3)), SIGNS, "kernel"),
        (make(op.Conv, padding=(0, 2**20, 0, 2**20)), SIGNS, "padded image"),
        (make(op.Conv), Value((4, 6, 5), "integer", 2**27), "sums"),
        (make(op.ConvTranspose, stride=(2**20, 2**20)), SIGNS, "result"),
        (make(op.ConvTranspose, padding=(4, 4, 0, 0)), SIGNS, "padding"),
        (make(op.MaxPool, kernel=(2, 2), padding=(2, 0, 0, 0)), SIGNS, "windows"),
        (make(op.AveragePool, kernel=(2, 2), padding=(0, 0, 0, 2)), SIGNS, "windows"),
        (make(op.MaxPool, kernel=(2, 2), dilation=(7, 1), padding=(6, 0, 0, 0)), SIGNS, "windows"),
        (make(op.AveragePool, kernel=(6, 5), sums=1), Value((4, 6, 5), "integer", 2**27), "sums"),
        (make(op.AdaptiveAveragePool, size=(2**13, 2**13)), SIGNS, "shape"),
        (make(op.Take, axis=0, indices=np.zeros(2**23, np.int32)), SIGNS, "shape"),
        (make(op.Slice, stop=(4, 6, 6)), SIGNS, "shape"),
        (make(op.Slice, start=(2, 0, 0), stop=(2, 6, 5)), SIGNS, "shape"),
        (make(op.Pad), Value((4,), "sign", 1), "image"),
    ],
)
def test_values_that_do_not_fit_are_refused(node: Node, x: Value, noun: str) -> None:
    with pytest.raises(FormatError, match=noun):
        node.infer(x)


def test_two_values_that_do_not_fit_are_refused() -> None:
    for kind, x, y in [
        (op.Add, SIGNS, Value((1, 6, 5), "sign", 1)),
        (op.Concat, SIGNS, Value((4, 6, 4), "sign", 1)),
        (op.Add, Value((1,), "integer", 2**30), Value((1,), "integer", 2**30 - 1)),
    ]:
        with pytest.raises(FormatError, match=r"shapes|sums"):
            make(kind).infer(x, y)
    assert make(op.Add).infer(Value((1,), "integer", 2**30), Value((1,), "integer", 2**30 - 2)).bound == 2**31 - 2
    with pytest.raises(FormatError, match="1 inputs"):
        op.Concat(inputs=("x",), output="z")


@pytest.mark.parametrize(
    ("kind", "fields", "noun"),
    [
        (op.Conv, {"kernel": (3,)}, "kernel"),
        (op.Conv, {"kernel": 3}, "kernel"),
        (op.Conv, {"kernel": [3, 3]}, "kernel"),
        (op.Conv, {"kernel": (0, 3)}, "kernel"),
        (op.Conv, {"stride": (1, 2**20 + 1)}, "stride"),
        (op.Conv, {"stride": (1, True)}, "stride"),
        (op.Conv, {"padding": (1, 1, 1, -1)}, "padding"),
        (op.Conv, {"padding_value": 2}, "padding_value"),
        (op.Conv, {"groups": 4}, "groups"),
        (op.Conv, {"kernel": (5, 1)}, "weights"),
        (op.RealConv, {"weight": np.ones((6, 4, 3, 3), np.float32)}, "weight"),
        (op.AveragePool, {"kernel": (1, 1), "sums": 2}, "sums"),
        (op.Slice, {"stop": (1, 0, 1)}, "stop"),
        (op.Take, {"axis": 3, "indices": np.zeros(2, np.int32)}, "axis"),
    ],
)
def test_invalid_attributes_are_refused(kind: type[Node], fields: dict[str, Any], noun: str) -> None:
    with pytest.raises(FormatError, match=noun):
        make(kind, **fields)


@pytest.mark.parametrize("indices", [[0, 6], [-1]])
def test_indices_beyond_an_axis_are_refused(indices: list[int]) -> None:
    with pytest.raises(FormatError, match="indices"):
        make(op.Take, axis=1, indices=np.int32(indices)).check_values(SIGNS)


def test_costs_count_every_position_of_a_kernel() -> None:
    for node, macs in [
        (make(op.Conv), 36 * 6 * 4 * 3),
        (make(op.RealConv, stride=(2, 2)), 36 * 6 * 2 * 2),
        (make(op.ConvTranspose, stride=(2, 2)), 36 * 6 * 6 * 5),  # a kernel for each pixel of the input
        (make(op.MaxPool, kernel=(2, 2)), 0),
    ]:
        net = PackedNet(
            inputs={"input": InputSpec(shape=(4, 6, 5))},
            nodes=(op.Relu(inputs=("input",), output="x"), node),
            output="z",
        )
        cost = costs(net)[1]
        assert cost.macs == macs
        weights = 216 if macs else 0
        assert (cost.binary_weights, cost.real_parameters) == ((0, weights) if cost.op == "real_conv" else (weights, 0))
        assert cost.bytes == (0 if not macs else 864 if cost.op == "real_conv" else 6 * 5)


@settings(max_examples=60)
@given(data=st.data())
def test_values_are_among_the_integers_that_infer_states(data: st.DataObject) -> None:
    net = data.draw(nets(integers=data.draw(st.booleans())))
    images = np.nan_to_num(data.draw(batches_of(net)))
    exact = {name: value for name, value in net.values.items() if value.exact}
    for _, found in runtime.batches(net, images, exact):
        for name, value in exact.items():
            low, high = value.limits
            integers = np.unique(found[name])
            assert all(integer in value.integers for integer in integers.tolist()), name
            assert low <= integers[0] <= integers[-1] <= high, name


@pytest.mark.parametrize(
    "node",
    [
        make(op.Flatten),
        make(op.Reshape, shape=(8, 15)),
        make(op.Permute, axes=(2, 0, 1)),
        make(op.Repeat, times=(1, 2, 3)),
        make(op.Slice, start=(1, 0, 2), stop=(3, 4, 5), step=(1, 3, 2)),
    ],
)
def test_a_view_has_the_elements_that_are_computed(node: op.Move) -> None:
    v = np.arange(120).reshape(1, 4, 6, 5)
    in_memory = node.view(PIXELS).through([(4, 1), (6, 20), (5, 4)])  # channels last
    assert in_memory is not None
    places = np.array(in_memory.offset)
    for size, step in (part for axis in in_memory.axes for part in axis):
        places = np.add.outer(places, step * np.arange(size))
    found = v.transpose(0, 2, 3, 1).reshape(-1)[places]
    np.testing.assert_array_equal(found.reshape(-1), node.compute(np.int64, v).reshape(-1))


def test_a_view_across_parts_of_an_axis_needs_a_copy() -> None:
    """Channels that are in memory as 2 rows of 2: the second and third of them are in different rows."""
    rows = [(2, 100), (2, 1), (6, 10), (5, 2)]
    assert make(op.Slice, start=(1, 0, 0), stop=(3, 6, 5)).view(PIXELS).through(rows) is None
    assert make(op.Reshape, shape=(3, 40)).view(PIXELS).through(rows) is None
