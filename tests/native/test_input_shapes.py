"""Nets of any input and with several outputs: the bits of the reference on every instruction set."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings, strategies as st

from onebit.errors import FormatError, NotBinaryError
from onebit.native import NotPlanned, instruction_sets, make_plan
from onebit.packed import Node, PackedNet, dumps, loads, nodes as op
from onebit.packed.bits import pack_signs
from onebit.runtime import run
from support.drawn_nets import batches_of, nets
from support.executors import assert_agrees, reference
from support.packed_nets import NETS_OF_OTHER_INPUTS, Builder, inputs_of

ISAS = instruction_sets()
pytestmark = pytest.mark.skipif(not ISAS, reason="the native library is not installed")


@settings(max_examples=50, deadline=None)
@given(data=st.data(), net=nets())
def test_drawn_nets_have_the_bits_of_the_reference(data: st.DataObject, net: PackedNet) -> None:
    assert_bits_of_the_reference(data, net)


@pytest.mark.nightly
@settings(max_examples=1000, deadline=None)
@given(data=st.data(), net=nets())
def test_a_thousand_drawn_nets_have_the_bits_of_the_reference(data: st.DataObject, net: PackedNet) -> None:
    assert_bits_of_the_reference(data, net)


def assert_bits_of_the_reference(data: st.DataObject, net: PackedNet) -> None:
    batch = data.draw(batches_of(net))
    expected = reference(net, batch)
    for isa in ISAS.values():
        for parts in (1, 2):
            event("planned" if assert_agrees(net, batch, expected, isa, parts=parts) else "not planned")
        if isa.byte_tiles:  # byte by byte in batches of any size
            assert_agrees(net, batch, expected, isa._replace(byte_tiles=1))


@settings(max_examples=35, deadline=None)
@given(data=st.data(), net=nets())
def test_drawn_nets_are_the_same_after_a_file_and_in_any_batches(data: st.DataObject, net: PackedNet) -> None:
    batch = data.draw(batches_of(net))
    again = loads(dumps(net))
    assert dumps(again) == dumps(net)
    assert repr(again) == repr(net)
    try:
        expected = net.by_name(run(net, batch, executor="reference"))
    except (FormatError, NotBinaryError) as error:
        with pytest.raises(type(error)):
            run(again, batch)
        return
    for options in ({}, {"batch_size": 1}, {"batch_size": 2, "threads": 2}, {"executor": "reference", "batch_size": 2}):
        found = run(again, batch, **options)
        assert type(found) is {str: np.ndarray, tuple: tuple, dict: dict}[type(net.output)]
        for name, array in again.by_name(found).items():
            np.testing.assert_array_equal(array.view(np.int32), expected[name].view(np.int32))


@pytest.mark.parametrize("name", NETS_OF_OTHER_INPUTS)
def test_nets_of_other_inputs_are_planned(name: str) -> None:
    net = NETS_OF_OTHER_INPUTS[name]()
    batch = inputs_of(net, 7)
    expected = reference(net, batch)
    for isa in ISAS.values():
        for parts in (1, 2, 3):
            assert assert_agrees(net, batch, expected, isa, parts=parts)


def kernels_of(*steps: tuple[type[Node], dict[str, Any]], shape: tuple[int, ...], coding: str = "float32") -> list[str]:
    """The kernels of a net on the last instruction set, which agrees with the reference."""
    b = Builder(shape, coding=coding)
    for kind, fields in steps:
        b.add(kind, **fields)
    net, isa = b.net(), list(ISAS.values())[-1]
    batch = inputs_of(net, 3)
    assert assert_agrees(net, batch, reference(net, batch), isa)
    return list(make_plan(net, isa).kernels)


RELU: tuple[type[Node], dict[str, Any]] = (op.Relu, {})


def dense(shape: tuple[int, ...]) -> list[Any]:
    """A layer that reads a value of any shape as it is, and whose output needs no copy."""
    return [(op.Flatten, {}), (op.Dense, Builder((1,)).signs(3, prod(shape)))]


@pytest.mark.parametrize(
    ("shape", "moves"),
    [
        ((7, 9), [(op.Reshape, {"shape": (7, 1, 9)})]),
        ((7, 1, 9), [(op.Reshape, {"shape": (7, 9)})]),
        ((4, 3, 5), [(op.Reshape, {"shape": (4, 15)})]),
        ((4, 3, 5), [(op.Reshape, {"shape": (4, 5, 3)})]),
        ((20,), [(op.Reshape, {"shape": (1, 4, 5)})]),
        ((1, 4, 5), [(op.Flatten, {})]),
        ((9, 1), [(op.Permute, {"axes": (1, 0)})]),
        ((20,), [(op.Reshape, {"shape": (1, 20)}), (op.Permute, {"axes": (1, 0)})]),
        ((3, 4), [(op.Repeat, {"times": (1, 1)})]),
    ],
)
def test_equal_layouts_are_not_copied(shape: tuple[int, ...], moves: list[Any]) -> None:
    assert "copy" not in kernels_of(RELU, *moves, (op.Hardtanh, {}), *dense(shape), shape=shape)


def test_operations_on_channels_follow_a_value_that_is_seen_in_another_shape() -> None:
    """A 1-D convolution is one of an image, and its threshold is still part of its call."""
    b = Builder((33, 9))
    steps = [
        (op.Reshape, {"shape": (33, 1, 9)}),
        (op.Conv, {**b.signs(8, 99), "kernel": (1, 3)}),
        (op.Reshape, {"shape": (8, 7)}),
        (op.Sign, {}),
    ]
    assert kernels_of(*steps, shape=(33, 9)) == ["grid", "lut", "expand", "pointwise", "copy"]


@pytest.mark.parametrize(
    ("shape", "made", "copies"),
    [((6, 4), (4, 6), 0), ((6, 4), (12, 2), 0), ((12, 2), (2, 2, 6), 0), ((4, 6), (24,), 0)],
)
def test_reshapes_take_the_copies_they_need(shape: tuple[int, ...], made: tuple[int, ...], copies: int) -> None:
    assert kernels_of(RELU, (op.Reshape, {"shape": made}), *dense(shape), shape=shape).count("copy") == copies


def test_signs_that_moved_are_bits_again() -> None:
    """Else a dense layer would look up ±1 like any integers."""
    b = Builder((5, 64))
    for move in ((op.Permute, {"axes": (1, 0)}), (op.Reshape, {"shape": (64, 5)})):
        dense = (op.Conv, {**b.signs(8, 64), "kernel": (1, 1)})
        kernels = kernels_of((op.Sign, {}), move, (op.Reshape, {"shape": (64, 1, 5)}), dense, shape=(5, 64))
        assert "xnor" in kernels
        assert "lut" not in kernels
    net = Builder((70,), coding="float32")
    half = net.add(op.Sign)
    net.add(op.Concat, half, half)
    net.dense(9)
    assert "xnor" in make_plan(net.net(), list(ISAS.values())[-1]).kernels


def test_bits_are_repeated_as_words() -> None:
    kernels = kernels_of((op.Sign, {}), (op.Repeat, {"times": (1, 2, 3)}), shape=(40, 3, 4))
    assert kernels == ["pointwise", "copy", "expand", "pointwise", "copy"]  # a copy of words; then the output


def test_a_copy_along_too_many_axes_is_left_to_numpy() -> None:
    b = Builder((2, 3, 2, 3, 2, 3), coding="float32")
    b.add(op.Permute, axes=(5, 3, 1, 4, 2, 0))
    b.add(op.Repeat, times=(2,) * 6)
    with pytest.raises(NotPlanned, match="axes"):
        make_plan(b.net(), list(ISAS.values())[-1])
    batch = inputs_of(b.net(), 2)
    expected = batch.transpose(0, 6, 4, 2, 5, 3, 1)
    for axis in range(1, 7):
        expected = expected.repeat(2, axis)
    np.testing.assert_array_equal(run(b.net(), batch), expected)


@pytest.mark.parametrize("coding", ["values", "integer"])
@pytest.mark.parametrize("pixel", [0, 1, 128, 255])
def test_bytes_as_they_are_and_coded_have_exact_sums(coding: str, pixel: int) -> None:
    b = Builder((3, 5, 4), coding=coding)
    dense = b.add(op.Flatten)
    signs = {"signs": pack_signs(np.ones((40, 60), np.int8)), "in_features": 60}
    dense = b.add(op.Dense, **signs)
    conv = {"signs": pack_signs(np.ones((20, 27), np.int8)), "in_features": 27, "kernel": (3, 3)}
    b.add(op.Conv, "input", **conv)
    net = b.net((dense, b.last))
    batch = np.full((13, 3, 5, 4), pixel, np.uint8)
    value = pixel if coding == "values" else 2 * pixel - 255
    for isa in ISAS.values():
        plan = make_plan(net, isa)
        sums, windows = plan.separate(plan.run(batch)[0], 13)
        assert (sums == 60 * value).all()
        assert (windows == 27 * value).all()


def test_bytes_of_an_image_seen_in_another_shape() -> None:
    """784 features as an image: the bytes of a feature are not those of a pixel."""
    b = Builder((30,), coding="values")
    b.add(op.Reshape, shape=(1, 5, 6))
    b.add(op.Conv, **b.signs(20, 9), kernel=(3, 3))
    b.add(op.Reshape, "input", shape=(2, 3, 5))
    b.add(op.Conv, **b.signs(20, 8), kernel=(2, 2))
    net = b.net((b.nodes[1].output, b.last))
    batch = inputs_of(net, 3)
    for isa in ISAS.values():
        assert assert_agrees(net, batch, reference(net, batch), isa)


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("taps", [(1, 32), (1, 33), (1, 127), (1, 128)])
def test_depthwise_sums_of_many_taps_are_exact(real: bool, taps: tuple[int, int]) -> None:
    """All inputs and weights at the end of their grids: sums of more taps need another kernel."""
    b = Builder((40, *taps), coding="float32")
    count = taps[0] * taps[1]
    if real:
        b.add(op.RealConv, weight=np.full((40, count), 2.0**24 - 1, np.float32), kernel=taps, groups=40)
    else:
        b.add(op.Conv, signs=pack_signs(np.ones((40, count), np.int8)), in_features=count, kernel=taps, groups=40)
    net = b.net()
    batch = np.full((2, 40, *taps), 2.0**24 - 1, np.float32)
    batch[1] *= -1
    for isa in ISAS.values():
        plan = make_plan(net, isa)
        assert ("depthwise" in " ".join(plan.kernels)) == (count <= (32 if real else 127))
        expected = np.float32((2**24 - 1) ** (2 if real else 1) * count)
        found, _ = plan.run(batch)
        assert (found[0] == expected).all()
        assert (found[1] == -expected).all()


@settings(max_examples=35, deadline=None)
@given(
    form=st.sampled_from(["sign", "values", "integer", "signed", "real", "weights"]),
    channels=st.integers(2, 70),
    multiple=st.integers(1, 3),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    value=st.integers(-1, 1),
    rows=st.sampled_from([1, 5]),
    signs=st.booleans(),
    parts=st.integers(1, 3),
)
def test_depthwise_convolutions_of_every_size(
    form: str, channels: int, multiple: int, stride: tuple[int, int], value: int, rows: int, signs: bool, parts: int
) -> None:
    """Of bytes, which are read as they are, of ±1, and of integers on a grid."""
    coding = "float32" if form in ("real", "weights") else "integer" if form == "integer" else "values"
    b = Builder((channels, rows, 6), coding=coding)
    if form == "sign":
        b.threshold(channels, most=200)
    elif form == "signed":
        b.requantize(least=-128, most=127)
    fields: dict[str, Any] = {"kernel": (1 if rows == 1 else 3, 3), "padding": (0, 0, 1, 1), "stride": stride}
    fields |= {"groups": channels, "padding_value": value}
    terms = 3 * fields["kernel"][0]
    if form == "weights":
        b.add(op.RealConv, weight=b.real(channels * multiple, terms), **fields)
    else:
        b.add(op.Conv, **b.signs(channels * multiple, terms), **fields)
    if signs:
        b.affine(channels * multiple)
        b.add(op.Sign)
        b.add(op.Conv, **b.signs(5, channels * multiple), kernel=(1, 1))
    net = b.net()
    batch = inputs_of(net, 3)
    for isa in ISAS.values():
        assert assert_agrees(net, batch, reference(net, batch), isa, parts=parts)
        kernels = make_plan(net, isa).kernels
        assert any(kernel.startswith("depthwise") for kernel in kernels)
        if form in ("values", "integer", "signed"):
            before = kernels[: kernels.index("depthwise")]
            assert before.count("pointwise") == (form == "signed")  # which makes the signed bytes


def test_a_value_that_is_an_output_and_read_again_keeps_its_numbers() -> None:
    """A view shares memory with it: nothing may be computed in place."""
    b = Builder((8, 3), coding="float32")
    first = b.affine(8)
    view = b.add(op.Reshape, shape=(8, 1, 3))
    b.add(op.Relu)
    b.affine(8)
    again = b.add(op.Reshape, first, shape=(8, 3, 1))
    b.add(op.Clamp, high=np.float32([0.25]))
    total = b.add(op.Multiply, b.last, again)
    for output in ((first, view, total), {"a": total}, (view, b.nodes[3].output, total)):
        nodes = list(b.nodes)
        if b.nodes[3].output not in output:
            nodes.append(op.Add(inputs=(b.nodes[3].output, view), output="sum"))
            output = (*output.values(), "sum") if isinstance(output, dict) else (*output, "sum")
        net = PackedNet(inputs={"input": b.input}, nodes=tuple(nodes), output=output)
        batch = inputs_of(net, 5)
        for isa in ISAS.values():
            assert assert_agrees(net, batch, reference(net, batch), isa)


def test_an_average_of_a_value_of_one_row_is_one_of_an_image() -> None:
    b = Builder((5, 9), coding="values")
    b.add(op.Reshape, shape=(5, 1, 9))
    b.add(op.AveragePool, kernel=(1, 3), stride=(1, 3))
    batch = inputs_of(b.net(), 2)
    sums = batch.reshape(2, 5, 3, 3).sum(axis=-1).astype(np.float32)
    np.testing.assert_array_equal(run(b.net(), batch)[:, :, 0], sums / np.float32(3))
