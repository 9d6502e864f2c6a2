"""Products and what follows them: the library gives the bits of the reference on every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from onebit.native import instruction_sets, make_plan
from onebit.packed import PackedNet, nodes as op
from onebit.packed.bits import pack_signs
from onebit.runtime import run
from support.executors import assert_agrees, reference
from support.packed_nets import Builder, inputs_of

ISAS = list(instruction_sets())
pytestmark = pytest.mark.skipif(not ISAS, reason="the native library is not installed")


def assert_same(net: PackedNet, count: int = 5) -> None:
    """On all instruction sets of this machine, in batches of several sizes."""
    images = inputs_of(net, count)
    images >>= np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1) % 7  # each image has its own grid
    expected = run(net, images, executor="reference")
    for name in ISAS:
        plan = make_plan(net, instruction_sets()[name])
        for batch in (plan.plan.batch, 1, 3):
            plan.plan.batch = min(batch, plan.plan.batch)
            found, nan = plan.run(images)
            assert not nan
            np.testing.assert_array_equal(found, expected, err_msg=f"{name}, batches of {batch}")


@pytest.mark.parametrize("inputs", [992, 993, 3968, 3969, 8000])
def test_more_signs_than_a_byte_counts(inputs: int) -> None:
    """Counts in bytes are added up before they overflow: rows in which all bits differ, or none."""
    b = Builder((1, 1, inputs))
    b.add(op.Flatten)
    b.add(op.Sign)
    signs = np.repeat(np.array([[1], [-1]], np.int8), inputs, axis=1)
    b.add(op.Dense, signs=pack_signs(np.tile(signs, (9, 1))), in_features=inputs)
    net = b.net()
    assert_same(net)
    images = np.stack([np.full((1, 1, inputs), value, np.uint8) for value in (0, 255)])
    for isa in instruction_sets().values():
        np.testing.assert_array_equal(make_plan(net, isa).run(images)[0], run(net, images, executor="reference"))


@pytest.mark.parametrize("channels", [1, 16, 48, 130])
def test_epilogues_of_every_width_use_the_parameters_of_each_channel(channels: int) -> None:
    """Sums of two values with an epilogue; pixels of some widths are finished together."""
    b = Builder((channels, 5, 3))
    b.affine(channels)
    first = b.add(op.Relu)
    second = b.add(op.Affine, "input", scale=b.real(channels), shift=b.real(channels))
    b.add(op.Add, first, second)
    b.affine(channels)
    b.add(op.Prelu, slope=b.real(channels))
    assert_same(b.net())


@settings(max_examples=25, deadline=None)
@given(
    form=st.sampled_from(["sign", "integer", "real"]),
    inputs=st.integers(1, 700),
    outputs=st.integers(1, 150),
    count=st.integers(1, 11),
    seed=st.integers(0, 99),
    scaled=st.booleans(),
    centred=st.booleans(),
)
def test_dense_layers_of_every_size(
    form: str, inputs: int, outputs: int, count: int, seed: int, scaled: bool, centred: bool
) -> None:
    b = Builder((1, 1, inputs), seed=seed)
    b.add(op.Flatten)
    if form == "real":
        b.affine(inputs)
    if form == "sign":
        b.threshold(inputs, most=200)
    b.add(op.Dense, **b.signs(outputs, inputs, scale=scaled, centre=centred))
    assert_same(b.net(), count)


@pytest.mark.parametrize("outputs", [16, 32, 48, 1100])
def test_single_pixels_are_finished_at_once_or_each_in_a_lane(outputs: int) -> None:
    for size, groups, count in ((1, 1), 1, 11), ((1, 1), 2, 43), ((2, 85), 1, 2):
        b = Builder((46, *size))
        b.add(op.Affine, scale=np.full(46, 0.37, np.float32), shift=np.full(46, 94.35, np.float32))  # 0 at a pixel of 0
        b.add(op.Conv, **b.signs(groups * outputs, 46 // groups), kernel=(1, 1), stride=(1, 2), groups=groups)
        b.affine(groups * outputs)
        assert_same(b.net(), count)


@settings(max_examples=25, deadline=None)
@given(
    form=st.sampled_from(["sign", "integer", "real", "weights"]),
    channels=st.integers(1, 70),
    outputs=st.sampled_from([1, 5, 16, 32, 48, 70]),
    size=st.tuples(st.integers(3, 9), st.integers(3, 11)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    value=st.integers(-1, 1),
    seed=st.integers(0, 99),
)
def test_convolutions_of_every_size(
    form: str, channels: int, outputs: int, size: tuple[int, int], stride: tuple[int, int], value: int, seed: int
) -> None:
    """Wider than those computed by hand: several words, panels and tiles, and everything that may follow."""
    b = Builder((channels, *size), seed=seed)
    if form in ("real", "weights"):
        b.affine(channels)
    if form == "sign":
        b.threshold(channels, most=200)
    fields: dict[str, Any] = {"kernel": (3, 3), "padding": (1, 1, 1, 1), "stride": stride, "padding_value": value}
    if form == "weights":
        b.add(op.RealConv, weight=b.real(outputs, 9 * channels), **fields)
    else:
        b.add(op.Conv, **b.signs(outputs, 9 * channels), **fields)
    last = b.affine(outputs)
    b.add(op.Relu)
    b.add(op.Add, b.last, last)
    b.add(op.Prelu, slope=b.real(outputs))
    b.add(op.Hardtanh)
    b.add(op.Sign, shift=b.real(outputs) / 4)
    b.add(op.Flatten)
    b.add(op.Dense, **b.signs(3, b.values[b.last].shape[0]))
    assert_same(b.net(), 3)


LEVELS = [-3e30, -7.1, -1.0, -1e-3, -0.0, 0.0, 1e-40, 0.3, 1.0, 5.2, 3e5]


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["dense", "conv", "groups", "transposed"]),
    low=st.sampled_from(LEVELS),
    high=st.sampled_from(LEVELS),
    channels=st.integers(1, 70),
    outputs=st.sampled_from([1, 5, 16, 32, 48, 70]),
    most=st.sampled_from([1, 200, 1000]),
    seed=st.integers(0, 99),
)
def test_two_levels_are_multiplied_as_signs(
    kind: str, low: float, high: float, channels: int, outputs: int, most: int, seed: int
) -> None:
    """Also where an image has only one of them, whose grid is finer than that of both."""
    groups = 1 + (kind == "groups")
    channels = 32 * groups if groups > 1 else channels
    b = Builder((channels, 4, 5), seed=seed)
    b.threshold(channels, most=most)
    if kind == "dense":
        b.add(op.Flatten)
    b.levels(low, high)
    if kind == "dense":
        b.dense(outputs)
    else:
        fields: dict[str, Any] = {"kernel": (3, 3), "groups": groups}
        signs = b.signs(groups * outputs, 9 * channels // groups, scale=bool(seed % 2))
        if kind == "transposed":
            b.add(op.ConvTranspose, **signs, stride=(2, 1), padding=(1, 0, 0, 1), **fields)
        else:
            b.add(op.Conv, **signs, stride=(1, 2), padding=(1, 2, 0, 1), dilation=(1, 2), **fields)
    b.levels(-0.5, 2.0)
    net = b.net()
    assert_same(net, 4)
    constant = np.full((2, channels, 4, 5), 255, np.uint8) * np.uint8([[[[0]]], [[[1]]]])
    expected = run(net, constant, executor="reference")
    for isa in instruction_sets().values():
        plan = make_plan(net, isa)
        assert {"levels", "xnor"} <= set(plan.kernels)
        assert not {"grid", "lut"} & set(plan.kernels)
        np.testing.assert_array_equal(plan.run(constant)[0], expected)
        np.testing.assert_array_equal(plan.run(constant, parts=2)[0], expected)


@pytest.mark.parametrize("reason", ["padding", "sum", "output", "each channel", "groups", "infinite", "center"])
def test_levels_that_are_not_multiplied_as_signs(reason: str) -> None:
    b = Builder((6, 4, 5))
    b.threshold(6, most=200)
    if reason == "each channel":
        levels = b.affine(6)
    elif reason == "infinite":
        levels = b.add(op.Affine, scale=np.full(6, 3e38, np.float32), shift=np.full(6, 3e38, np.float32))
    else:
        levels = b.levels(-0.7, 2.9)
    groups = 2 if reason == "groups" else 1
    signs = b.signs(6, 54 // groups, centre=reason == "center")
    padding_value = int(reason == "padding")
    made = b.add(op.Conv, **signs, kernel=(3, 3), padding=(1, 1, 1, 1), padding_value=padding_value, groups=groups)
    if reason == "sum":
        b.add(op.Add, made, levels)
    net = b.net((made, levels) if reason == "output" else None)
    images = inputs_of(net, 3)
    expected = reference(net, images)
    for isa in instruction_sets().values():
        assert "levels" not in make_plan(net, isa).kernels
        assert assert_agrees(net, images, expected, isa)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("outputs", [8, 17, 32, 70])
@pytest.mark.parametrize("form", ["sign", "integer", "real", "weights"])
def test_signs_directly_after_a_convolution(form: str, outputs: int, groups: int) -> None:
    """Signs are written as words, and no two tiles, panels or groups may write the same word."""
    b = Builder((groups * 3, 5, 6), seed=outputs)
    if form in ("real", "weights"):
        b.affine(groups * 3)
    if form == "sign":
        b.threshold(groups * 3, most=200)
    fields: dict[str, Any] = {"kernel": (2, 2), "groups": groups}
    if form == "weights":
        b.add(op.RealConv, weight=b.real(outputs * groups, 12), **fields)
    else:
        b.add(op.Conv, **b.signs(outputs * groups, 12), **fields)
    if form in ("real", "weights"):
        b.add(op.Sign)
    else:
        b.threshold(outputs * groups)
    b.add(op.Flatten)
    b.add(op.Dense, **b.signs(3, b.values[b.last].shape[0]))
    assert_same(b.net(), 3)


@pytest.mark.parametrize("outputs", [1, 16, 32, 48, 80])
@pytest.mark.parametrize("form", ["sign", "integer", "real"])
def test_signs_of_several_pixels_are_words_of_their_own(form: str, outputs: int) -> None:
    """Of images of one pixel, and of images; at the end of products, and of a sum."""
    for size in ((1, 1), (4, 6)):
        b = Builder((5, *size), seed=outputs)
        if form == "sign":
            b.threshold(5, most=200)
        if form == "real":
            b.affine(5)
        b.add(op.Conv, **b.signs(outputs, 5), kernel=(1, 1))
        if form == "real":
            b.add(op.Sign, shift=b.real(outputs))
        else:
            b.threshold(outputs)
        first = b.add(op.Conv, **b.signs(outputs, outputs), kernel=(1, 1))
        b.add(op.Sign)
        b.add(op.Conv, **b.signs(outputs, outputs), kernel=(1, 1))
        b.add(op.Add, b.last, first)
        b.add(op.Sign)
        b.add(op.Flatten)
        b.dense(7)
        assert_same(b.net(), 11)


def test_sums_that_need_more_than_an_int32() -> None:
    """All inputs at the end of the grid and all weights alike: 1,000 of them add up to 2³⁴."""
    b = Builder((1, 1, 1000))
    b.add(op.Flatten)
    b.add(op.Affine, shift=np.full(1000, 16777215 - 255, np.float32))
    fields = {"signs": np.full((40, 16), 2**64 - 1, np.uint64), "in_features": 1000}
    fields["signs"][:, -1] >>= np.uint64(24)
    b.add(op.Dense, **fields)
    net = b.net()
    images = np.full((16, 1, 1, 1000), 255, np.uint8)
    expected = np.full((16, 40), np.float32(16777215 * 1000))
    np.testing.assert_array_equal(run(net, images, executor="reference"), expected)
    for isa in instruction_sets().values():
        np.testing.assert_array_equal(make_plan(net, isa).run(images)[0], expected)


def test_integer_sums_of_two_calls_are_added_and_rounded_once() -> None:
    b = Builder((3, 5, 6), coding="values")
    sums = [b.add(op.Conv, "input", **b.signs(20, 27), kernel=(3, 3)) for _ in range(2)]
    b.requantize(*sums)
    b.add(op.Flatten)
    b.dense(4)
    assert_same(b.net())
