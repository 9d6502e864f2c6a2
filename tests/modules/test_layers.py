"""Modules that hold bits, and their operators: the bits of a packed net's node, on every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from onebit.modules import operators
from onebit.modules.layers import PackedConv, PackedLinear
from onebit.modules.operators import PackedWindow, dense_signs
from onebit.native import NativePlan, instruction_sets
from onebit.native.arena import THREAD
from onebit.packed import Conv, ConvTranspose, Dense
from onebit.quantizers import BinaryWeight, SteSign
from support.one_bit_layers import assert_node, assert_same_bits, one_bit, small_conv, small_layer

CHOSEN = st.sets(st.sampled_from(("scale", "center", "bias"))).map(lambda names: tuple(sorted(names)))
SEEDS = st.integers(0, 2**32 - 1)


def inputs_of(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Values whose sums need 32 bits or more in some samples, and whose magnitudes differ from sample to sample."""
    x = rng.standard_normal(shape)
    x[rng.random(len(x)) < 0.3] = 1.75  # all of them the largest: sums grow fastest
    x *= 10.0 ** rng.uniform(-30, 30, (len(x), *[1] * (len(shape) - 1)))
    return torch.from_numpy(x.astype(np.float32))


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 80), st.sampled_from((1, 3, 31, 32, 33, 100, 400, 2100)))


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, shape=SIZES, names=CHOSEN, signs=st.booleans())
def test_a_dense_layer_has_the_bits_of_the_node(seed: int, shape: Any, names: Any, signs: bool) -> None:
    rng, (count, outputs, terms) = np.random.default_rng(seed), shape
    weight, bias = one_bit(rng, outputs, terms, names)
    layer = PackedLinear(weight, bias, SteSign() if signs else None)
    assert_node(Dense, layer, inputs_of(rng, (count, terms)))
    assert torch.equal(dense_signs(layer.signs, terms), weight.signs)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums_of_lookups_do_not_overflow(sign: int) -> None:
    terms = 4 * 1024
    x = torch.zeros(2, terms)
    x[0, 3::4] = 2**21 - 1  # all bits of the lowest three planes of 7 bits are set
    x[1] = 2**24 - 1
    x[0, 0] = 2**23  # a unit of 1
    layer = PackedLinear(BinaryWeight(torch.full((40, terms), float(sign))))
    assert_node(Dense, layer, x)
    expected = torch.tensor([2.0**23 + 1024 * (2**21 - 1), 4096.0 * (2**24 - 1)])
    assert_same_bits(layer(x), (sign * expected)[:, None].expand(2, 40).numpy())


WINDOWS = st.tuples(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from((1, 2, 6)),
    st.tuples(st.integers(1, 3), st.integers(1, 2)),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.just((0, 0)),
    st.sampled_from((0, 0, 1, -1)),
).map(lambda fields: PackedWindow(*fields))


IMAGES = st.tuples(st.integers(1, 3), st.sampled_from((1, 2, 17)), st.integers(5, 9), st.integers(5, 19))


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, window=WINDOWS, outputs=st.sampled_from((6, 12, 54, 72)), size=IMAGES, names=CHOSEN)
def test_a_convolution_has_the_bits_of_the_node(
    seed: int, window: PackedWindow, outputs: int, size: tuple[int, ...], names: tuple[str, ...]
) -> None:
    rng, (count, channels, height, width), signs = np.random.default_rng(seed), size, seed % 2 == 1
    terms = channels * window.kernel[0] * window.kernel[1]
    quantizer = SteSign() if signs else None
    layer = PackedConv(*one_bit(rng, outputs, terms, names, window.kernel), quantizer, window=window)
    x = inputs_of(rng, (count, channels * window.groups, height, width))
    same = {name: getattr(window, name) for name in ("kernel", "groups", "stride", "padding", "dilation")}
    assert_node(Conv, layer, x, padding_value=window.padding_value, **same)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, taps=st.tuples(*[st.integers(1, 3)] * 4), groups=st.sampled_from((1, 2)), names=CHOSEN)
def test_a_transposed_convolution_has_the_bits_of_the_node(seed: int, taps: Any, groups: int, names: Any) -> None:
    kernel, stride = (taps[0] + 1, max(2, taps[1])), (taps[2], min(2, taps[3]))
    rng, terms = np.random.default_rng(seed), 5 * kernel[0] * kernel[1]
    window = PackedWindow(kernel, groups, stride, (1, 0, 0, 1), (1, 2), (stride[0] - 1, 0), transposed=True)
    layer = PackedConv(*one_bit(rng, 12, terms, names, kernel), window=window)
    x = inputs_of(rng, (2, 5 * groups, 4, 5))
    fields = ("kernel", "groups", "stride", "padding", "dilation", "extra")
    assert_node(ConvTranspose, layer, x, **{name: getattr(window, name) for name in fields})


@pytest.mark.parametrize("count", [1, 5, 70])
@pytest.mark.parametrize("convolution", [False, True])
def test_threads_give_the_same_bits(count: int, convolution: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    layer: PackedConv | PackedLinear
    if convolution:
        window = PackedWindow((3, 3), 2, padding=(1, 1, 1, 1))
        layer = PackedConv(*one_bit(rng, 96, 288, ("scale", "center"), (3, 3)), window=window)
        x = inputs_of(rng, (count, 64, 11, 13))
    else:
        layer = PackedLinear(*one_bit(rng, 1000, 3000, ("scale", "center")))
        x = inputs_of(rng, (count, 3000))
    monkeypatch.setenv("ONEBIT_THREADS", "1")
    one = layer(x)
    for threads in ("3", "-3"):
        monkeypatch.setenv("ONEBIT_THREADS", threads)
        assert_same_bits(layer(x), one.numpy())


def test_the_leading_shape_and_layout_change_nothing() -> None:
    rng = np.random.default_rng(0)
    layer = PackedLinear(*one_bit(rng, 7, 50))
    x = inputs_of(rng, (30, 50))
    assert_same_bits(layer(x.view(2, 3, 5, 50)).view(30, 7), layer(x).numpy())
    assert_same_bits(layer(x[0]), layer(x)[0].numpy())
    assert layer(x[:0]).shape == (0, 7)
    assert_same_bits(layer(x.t().contiguous().t()), layer(x).numpy())


def test_a_sample_that_is_not_finite_gives_nan_and_leaves_the_others() -> None:
    rng = np.random.default_rng(0)
    layer = PackedLinear(*one_bit(rng, 7, 50))
    x = inputs_of(rng, (30, 50))
    expected = layer(x)
    x[3, 4], x[17, 0] = float("nan"), float("inf")
    found = layer(x)
    assert found[[3, 17]].isnan().all()
    others = [n for n in range(30) if n not in (3, 17)]
    assert_same_bits(found[others], expected[others].numpy())
    conv, images = small_conv(), torch.randn(3, 8, 7, 6)
    expected = conv(images)
    images[1, 2, 3, 4] = float("-inf")
    found = conv(images)
    assert found[1].isnan().all()
    assert_same_bits(found[[0, 2]], expected[[0, 2]].numpy())


def test_the_sign_of_nan_is_plus_one() -> None:
    layer, x = small_layer(input_quantizer=SteSign()), torch.randn(3, 20)
    x[1, 4] = float("nan")
    assert_node(Dense, layer, x)


@pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")
def test_many_sizes_of_images_share_weights_and_memory() -> None:
    THREAD.memory = None  # of an earlier test's larger net
    rng, terms = np.random.default_rng(0), 128 * 9
    layer = PackedConv(*one_bit(rng, 128, terms, (), (3, 3)), window=PackedWindow((3, 3), padding=(1, 1, 1, 1)))
    sizes = range(8, 88, 2)
    for size in sizes:
        layer(torch.randn(1, 128, size, size))
    plans, _ = operators._cached((layer.signs, None, None, None))
    assert len(plans) == len(sizes)
    kept = {
        array.ctypes.data: array.nbytes
        for plan in plans.values()
        if isinstance(plan, NativePlan)
        for array in plan.kept
        if isinstance(array, np.ndarray)
    }
    assert sum(kept.values()) + THREAD.memory[0].nbytes <= 30 * 2**20
    assert sum(kept.values()) <= 2**20
    address = layer.signs.data_ptr()
    del layer
    assert address not in operators._LAYERS
