"""Bytes times one-bit weights: exact for every weight, byte and coding, in batches of every size."""

from __future__ import annotations

from math import prod
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from onebit.native import InstructionSet, instruction_sets, make_plan, weight_kernels
from onebit.native.kernel_calls import CENTERED, SIGNED, UNSIGNED, coding_of
from onebit.packed import Conv, ConvTranspose, Dense, Flatten, PackedNet
from onebit.packed.bits import pack_signs
from onebit.runtime import run
from support.kernel_nets import convolutions_of_bytes, dense_nets_of_bytes
from support.packed_nets import Builder, inputs_of

ISAS = [isa._replace(dot_lut=0) for isa in instruction_sets().values() if isa.dot_fours]
LOOKUPS = [isa._replace(dot_lut=32) for isa in ISAS if isa.name.startswith("avx512")]
"""Instruction sets that multiply by lookups wherever they can, whatever is faster on this processor."""
pytestmark = pytest.mark.skipif(not ISAS, reason="no instruction set of this processor multiplies bytes")
each_isa = pytest.mark.parametrize(
    "isa", ISAS + LOOKUPS, ids=lambda isa: f"{isa.name}-lookups" if isa.dot_lut else isa.name
)


def assert_same(net: PackedNet, images: np.ndarray, isa: InstructionSet) -> tuple[str, ...]:
    """The kernels of a plan whose outputs are those of the reference, "dot" for lookups too."""
    with patch.object(weight_kernels, "_lookups_are_faster", return_value=True):
        plan = make_plan(net, isa)
    np.testing.assert_array_equal(plan.run(images)[0], run(net, images, executor="reference"), err_msg=isa.name)
    assert isa.dot_lut or "dot_lut" not in plan.kernels
    return tuple(kernel.removesuffix("_lut") for kernel in plan.kernels)


@given(st.integers(-300, 300), st.integers(-300, 300))
def test_a_coding_has_a_byte_for_each_integer_of_its_range(least: int, most: int) -> None:
    coding = coding_of(least, most)
    assert (coding is not None) == (
        (min(least, most) >= 0 and max(least, most) <= 255) or (min(least, most) >= -128 and max(least, most) <= 127)
    )
    for one in (UNSIGNED, SIGNED, CENTERED):
        byte = one.byte(least)
        assert byte is None or one.factor * byte - one.zero == least
        assert byte is not None or least not in {one.factor * b - one.zero for b in range(256)}


@each_isa
@pytest.mark.parametrize("sign", [1, -1])
def test_weights_of_one_sign_and_extreme_pixels(isa: InstructionSet, sign: int) -> None:
    """The largest possible sums, also of a dense layer longer than 16 bits hold, of few and of many rows."""
    dense, conv = Builder((3, 83, 83), coding="values"), Builder((3, 9, 9))
    dense.add(Flatten)
    dense.add(Dense, signs=pack_signs(np.full((20, 3 * 83**2), sign, np.int8)), in_features=3 * 83**2)
    conv.add(Conv, signs=pack_signs(np.full((20, 27), sign, np.int8)), in_features=27, kernel=(3, 3), padding=(1,) * 4)
    for net in (dense.net(), conv.net()):
        images = np.stack([np.full(net.input.shape, value, np.uint8) for value in (0, 255, 128)])
        for times in (1, 7):
            assert assert_same(net, np.tile(images, (times, 1, 1, 1)), isa)[0] == "dot"
    wide = Builder((67, 5, 6), coding="values")  # sums of 603 bytes: more than 16 bits, in a tile of any size
    wide.add(Conv, signs=pack_signs(np.full((70, 603), sign)), in_features=603, kernel=(3, 3), padding=(1,) * 4)
    assert assert_same(wide.net(), np.full((2, 67, 5, 6), 255, np.uint8), isa)[0] == "dot"


@each_isa
@pytest.mark.parametrize("coding", ["integer", "values"])
def test_a_single_tap_on_the_border_or_at_another_pixel(isa: InstructionSet, coding: str) -> None:
    """A layer of one tap and one output pixel is dense only if the tap is at the first pixel."""
    window: dict[str, Any] = {"kernel": (1, 1)}
    for size, kind, fields in (
        (1, Conv, {"padding": (1, 1, 1, 1), "stride": (3, 3)}),
        (3, Conv, {"padding": (1, 1, 1, 1), "stride": (5, 5), "padding_value": -1}),
        (1, Conv, {"padding": (0, 0, 1, 0), "stride": (2, 2)}),
        (3, ConvTranspose, {"padding": (1, 1, 1, 1)}),
        (3, Conv, {"stride": (5, 5)}),
    ):
        b = Builder((8, size, size), coding=coding)
        b.add(kind, **b.signs(40, 8), **window, **fields)
        for count in (1, 5, 20):
            assert_same(b.net(), inputs_of(b.net(), count), isa)


@each_isa
@settings(max_examples=12, deadline=None)
@given(net=convolutions_of_bytes())
def test_convolutions_of_every_kind(isa: InstructionSet, net: PackedNet) -> None:
    kernels = assert_same(net, inputs_of(net, 3), isa)
    layer: Any = net.nodes[-1]
    assert ("dot" in kernels) == (layer.groups == 1 or layer.group_channels > 1)


@each_isa
@settings(max_examples=12, deadline=None)
@given(net=dense_nets_of_bytes(), count=st.integers(1, 40))
def test_dense_layers_of_every_size(isa: InstructionSet, net: PackedNet, count: int) -> None:
    assert assert_same(net, inputs_of(net, count), isa).count("dot") == 2


@each_isa
def test_weights_of_more_outputs_than_become_bytes_at_once(isa: InstructionSet) -> None:
    b = Builder((600, 3, 4), coding="values")
    b.add(Conv, **b.signs(300, 5400), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.requantize()
    b.add(Flatten)
    b.dense(700)
    assert assert_same(b.net(), inputs_of(b.net(), 3), isa) == ("dot", "dot", "pointwise")


@pytest.mark.parametrize("isa", LOOKUPS, ids=lambda isa: isa.name)
def test_lookups_multiply_where_outputs_share_the_tables(isa: InstructionSet) -> None:
    def kernel(channels: int, outputs: int, **window: Any) -> str:
        b = Builder((channels, 8, 8), coding="values")
        b.add(Conv, **b.signs(outputs, channels * prod(window["kernel"])), **window)
        return make_plan(b.net(), isa).kernels[0]

    window = {"kernel": (3, 3), "padding": (1,) * 4}
    assert [kernel(c, c, **window) for c in (3, 16, 32, 64)] == ["dot", "dot", "dot_lut", "dot_lut"]
    assert kernel(64, 10, kernel=(8, 8)) == "dot"
    assert kernel(64, 64, **window, stride=(2, 2)) == "dot_lut"
    for outputs, expected in ((10, "dot"), (512, "dot_lut")):
        dense = Builder((2048,), coding="values")
        dense.dense(outputs)
        assert make_plan(dense.net(), isa).kernels[0] == expected


@pytest.mark.parametrize("isa", LOOKUPS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("height", [1, 9])
def test_threads_share_lookups(isa: InstructionSet, height: int) -> None:
    """Rows of an image, and outputs where it has one row."""
    b = Builder((40, height, 6), coding="values")
    b.add(Conv, **b.signs(70, 360), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.requantize()
    b.add(Flatten)
    b.dense(300)
    images = inputs_of(b.net(), 11)
    plan = make_plan(b.net(), isa)
    assert plan.kernels[:2] == ("dot_lut", "dot_lut")
    expected = run(b.net(), images, executor="reference")
    for parts in (1, 2, 3, 7):
        np.testing.assert_array_equal(plan.run(images, parts=parts)[0], expected)
