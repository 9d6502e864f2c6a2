"""uint8 images times one-bit weights: exact for every weight and pixel, in batches of every size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_nets import images_of
from packed_nets import Builder

from onebit.native import InstructionSet, instruction_sets, make_plan
from onebit.native.panels import byte_panels
from onebit.packed import Add, Conv, Dense, Flatten, PackedNet
from onebit.packed.bits import pack_signs
from onebit.runtime import run

ISAS = [isa for isa in instruction_sets().values() if isa.bytes]
pytestmark = pytest.mark.skipif(not ISAS, reason="no instruction set of this processor multiplies bytes")


def assert_same(net: PackedNet, images: np.ndarray, isa: InstructionSet) -> tuple[str, ...]:
    plan = make_plan(net, isa)
    np.testing.assert_array_equal(plan.run(images)[0], run(net, images, executor="reference"), err_msg=isa.name)
    return plan.kernels


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_panels_hold_the_coding_of_the_image(inputs: int, ones: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    bits = draw.random((1, 5, 2, inputs)) < ones
    panels, words = byte_panels(bits, 8)
    weights = panels.view(np.int8).reshape(2, words, 8, 4).transpose(0, 2, 1, 3).reshape(2, 8, -1)[:, :5]
    x = draw.integers(0, 256, (2, inputs))
    filled = np.full((2, 4 * words), 255)
    filled[:, :inputs] = x
    expected = np.einsum("oti,ti->to", bits[0] * 2 - 1, 2 * x - 255)
    np.testing.assert_array_equal(np.einsum("toi,ti->to", weights.astype(np.int64), filled), expected)
    pairs = np.abs(weights.astype(int)).reshape(2, 5, -1, 2).sum(axis=-1) * 255
    assert pairs.max() < 2**15, "some processors add two products in 16 bits"


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("sign", [1, -1])
def test_weights_of_one_sign_and_extreme_pixels(isa: InstructionSet, sign: int) -> None:
    """The largest possible sums, of a dense layer and of a convolution."""
    images = np.stack([np.full((3, 9, 9), value, np.uint8) for value in (0, 255, 128)] * 5)
    dense, conv = Builder((3, 9, 9)), Builder((3, 9, 9))
    dense.add(Flatten)
    dense.add(Dense, signs=pack_signs(np.full((20, 243), sign, np.int8)), in_features=243)
    conv.add(Conv, signs=pack_signs(np.full((20, 27), sign, np.int8)), in_features=27, kernel=(3, 3), padding=(1,) * 4)
    for net in (dense.net(), conv.net()):
        assert_same(net, images, isa)


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize("value", [0, 1, -1])
def test_convolutions_use_bytes(isa: InstructionSet, channels: int, value: int) -> None:
    b = Builder((channels, 7, 6))
    geometry = {"kernel": (3, 2), "padding": (1, 1, 0, 1), "stride": (2, 1), "dilation": (1, 2), "padding_value": value}
    b.add(Conv, **b.signs(37, 6 * channels, scale=True), **geometry)
    assert "bytes" in assert_same(b.net(), images_of(b.net(), 3), isa)


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("channels", [1, 3])
def test_dense_layers_use_the_faster_kernel_for_the_batch(isa: InstructionSet, channels: int) -> None:
    b = Builder((channels, 6, 5))
    b.add(Flatten)
    b.dense(40)
    b.dense(10)
    net, isa = b.net(), isa._replace(bytes=3)
    for count in (1, 2, 3, 4, 9):
        kernels = assert_same(net, images_of(net, count), isa)
        assert kernels.index("bytes") == kernels.index("lut") + 1


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_layers_that_need_other_bytes_use_lookups(isa: InstructionSet) -> None:
    """A pixel of 3 channels and its constant fit 4 bytes; the constant of 400 channels needs more than one byte."""
    b = Builder((400, 3, 3))
    same = {"kernel": (1, 1)}
    first = b.add(Conv, **b.signs(20, 400), **same)
    second = b.add(Conv, "input", signs=pack_signs(np.ones((20, 400), np.int8)), in_features=400, **same)
    b.add(Add, first, second)
    kernels = assert_same(b.net(), images_of(b.net(), 2), isa)
    assert {"bytes", "lut"} <= set(kernels)
