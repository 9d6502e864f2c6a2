"""Plans of packed nets: the library gives the bits of the reference on every instruction set."""

from __future__ import annotations

import cProfile
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from onebit.errors import NotBinaryError, UnknownNameError, UsageError
from onebit.native import NotPlanned, instruction_sets, make_plan, plan
from onebit.native.arena import place
from onebit.native.kernel_calls import Buffer
from onebit.packed import (
    Add,
    Affine,
    AveragePool,
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    Hardtanh,
    PackedNet,
    Prelu,
    RealConv,
    RealDense,
    Relu,
    Requantize,
    Sign,
    load,
)
from onebit.packed.bits import pack_signs
from onebit.runtime import run
from onebit.runtime.running import native_plan, thread_count
from onebit.runtime.torch_module import PackedModule
from support.agreeing import assert_agrees, reference
from support.kernel_nets import images_of
from support.packed_nets import IMAGE_NETS, Builder

ISAS = list(instruction_sets())
pytestmark = pytest.mark.skipif(not ISAS, reason="the native library is not installed")


def test_a_plan_prints_without_its_weights() -> None:
    net = load("mnist-mlp-signs")
    made = make_plan(net, instruction_sets()[ISAS[0]])
    made.run(images_of(net, 1))
    assert len(repr(made)) < 1500
    assert "array" not in repr(made)


def assert_same(net: PackedNet, count: int = 5) -> None:
    """On all instruction sets of this machine, in batches of several sizes."""
    images = images_of(net, count)
    images >>= np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1) % 7  # each image has its own grid
    expected = run(net, images, executor="reference")
    for name in ISAS:
        plan = make_plan(net, instruction_sets()[name])
        for batch in (plan.plan.batch, 1, 3):
            plan.plan.batch = min(batch, plan.plan.batch)
            found, nan = plan.run(images)
            assert not nan
            np.testing.assert_array_equal(found, expected, err_msg=f"{name}, batches of {batch}")


def test_the_portable_kernels_are_always_there() -> None:
    assert ISAS[0] == "portable"


@pytest.mark.parametrize("inputs", [991, 992, 993, 3967, 3968, 3969, 8000])
def test_more_signs_than_a_byte_counts(inputs: int) -> None:
    """Counts in bytes are added up before they overflow: rows in which all bits differ, or none."""
    b = Builder((1, 1, inputs))
    b.add(Flatten)
    b.add(Sign)
    signs = np.repeat(np.array([[1], [-1]], np.int8), inputs, axis=1)
    b.add(Dense, signs=pack_signs(np.tile(signs, (9, 1))), in_features=inputs)
    net = b.net()
    assert_same(net)
    images = np.stack([np.full((1, 1, inputs), value, np.uint8) for value in (0, 255)])
    for isa in instruction_sets().values():
        np.testing.assert_array_equal(make_plan(net, isa).run(images)[0], run(net, images, executor="reference"))


@pytest.mark.parametrize("channels", [1, 16, 48, 128, 130])
def test_epilogues_of_every_width_use_the_parameters_of_each_channel(channels: int) -> None:
    """Sums of two values with an epilogue; pixels of some widths are finished together."""
    b = Builder((channels, 5, 3))
    b.affine(channels)
    first = b.add(Relu)
    second = b.add(Affine, "input", scale=b.real(channels), shift=b.real(channels))
    b.add(Add, first, second)
    b.affine(channels)
    b.add(Prelu, slope=b.real(channels))
    assert_same(b.net())


@settings(max_examples=40, deadline=None)
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
    b.add(Flatten)
    if form == "real":
        b.affine(inputs)
    if form == "sign":
        b.threshold(inputs, most=200)
    b.add(Dense, **b.signs(outputs, inputs, scale=scaled, centre=centred))
    assert_same(b.net(), count)


@pytest.mark.parametrize("outputs", [16, 32, 48, 1100])
def test_single_pixels_are_finished_at_once_or_each_in_a_lane(outputs: int) -> None:
    for size, groups, count in ((1, 1), 1, 11), ((1, 1), 2, 43), ((2, 85), 1, 2):
        b = Builder((46, *size))
        b.add(Affine, scale=np.full(46, 0.37, np.float32), shift=np.full(46, 94.35, np.float32))  # 0 at a pixel of 0
        b.add(Conv, **b.signs(groups * outputs, 46 // groups), kernel=(1, 1), stride=(1, 2), groups=groups)
        b.affine(groups * outputs)
        assert_same(b.net(), count)


@settings(max_examples=40, deadline=None)
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
    form: str,
    channels: int,
    outputs: int,
    size: tuple[int, int],
    stride: tuple[int, int],
    value: int,
    seed: int,
) -> None:
    """Wider than those computed by hand: several words, panels and tiles, and everything that may follow."""
    b = Builder((channels, *size), seed=seed)
    if form in ("real", "weights"):
        b.affine(channels)
    if form == "sign":
        b.threshold(channels, most=200)
    fields: dict[str, Any] = {"kernel": (3, 3), "padding": (1, 1, 1, 1), "stride": stride, "padding_value": value}
    if form == "weights":
        b.add(RealConv, weight=b.real(outputs, 9 * channels), **fields)
    else:
        b.add(Conv, **b.signs(outputs, 9 * channels), **fields)
    last = b.affine(outputs)
    b.add(Relu)
    b.add(Add, b.last, last)
    b.add(Prelu, slope=b.real(outputs))
    b.add(Hardtanh)
    b.add(Sign, shift=b.real(outputs) / 4)
    b.add(Flatten)
    b.add(Dense, **b.signs(3, b.values[b.last].shape[0]))
    assert_same(b.net(), 3)


LEVELS = [-3e30, -7.1, -1.0, -1e-3, -0.0, 0.0, 1e-40, 0.3, 1.0, 5.2, 3e5]


@settings(max_examples=40, deadline=None)
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
        b.add(Flatten)
    b.levels(low, high)
    if kind == "dense":
        b.dense(outputs)
    else:
        fields: dict[str, Any] = {"kernel": (3, 3), "groups": groups}
        signs = b.signs(groups * outputs, 9 * channels // groups, scale=bool(seed % 2))
        if kind == "transposed":
            b.add(ConvTranspose, **signs, stride=(2, 1), padding=(1, 0, 0, 1), **fields)
        else:
            b.add(Conv, **signs, stride=(1, 2), padding=(1, 2, 0, 1), dilation=(1, 2), **fields)
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
        levels = b.add(Affine, scale=np.full(6, 3e38, np.float32), shift=np.full(6, 3e38, np.float32))
    else:
        levels = b.levels(-0.7, 2.9)
    groups = 2 if reason == "groups" else 1
    signs = b.signs(6, 54 // groups, centre=reason == "center")
    padding_value = int(reason == "padding")
    made = b.add(Conv, **signs, kernel=(3, 3), padding=(1, 1, 1, 1), padding_value=padding_value, groups=groups)
    if reason == "sum":
        b.add(Add, made, levels)
    net = b.net((made, levels) if reason == "output" else None)
    images = images_of(net, 3)
    expected = reference(net, images)
    for isa in instruction_sets().values():
        assert "levels" not in make_plan(net, isa).kernels
        assert assert_agrees(net, images, expected, isa)


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("outputs", [8, 17, 32, 40, 70])
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
        b.add(RealConv, weight=b.real(outputs * groups, 12), **fields)
    else:
        b.add(Conv, **b.signs(outputs * groups, 12), **fields)
    if form in ("real", "weights"):
        b.add(Sign)
    else:
        b.threshold(outputs * groups)
    b.add(Flatten)
    b.add(Dense, **b.signs(3, b.values[b.last].shape[0]))
    assert_same(b.net(), 3)


@pytest.mark.parametrize("outputs", [1, 4, 16, 32, 48, 64, 80])
@pytest.mark.parametrize("form", ["sign", "integer", "real"])
def test_signs_of_several_pixels_are_words_of_their_own(form: str, outputs: int) -> None:
    """Of images of one pixel, and of images; at the end of products, and of a sum."""
    for size in ((1, 1), (4, 6)):
        b = Builder((5, *size), seed=outputs)
        if form == "sign":
            b.threshold(5, most=200)
        if form == "real":
            b.affine(5)
        b.add(Conv, **b.signs(outputs, 5), kernel=(1, 1))
        if form == "real":
            b.add(Sign, shift=b.real(outputs))
        else:
            b.threshold(outputs)
        first = b.add(Conv, **b.signs(outputs, outputs), kernel=(1, 1))
        b.add(Sign)
        b.add(Conv, **b.signs(outputs, outputs), kernel=(1, 1))
        b.add(Add, b.last, first)
        b.add(Sign)
        b.add(Flatten)
        b.dense(7)
        assert_same(b.net(), 11)


def test_sums_that_need_more_than_an_int32() -> None:
    """All inputs at the end of the grid and all weights alike: 1,000 of them add up to 2³⁴."""
    b = Builder((1, 1, 1000))
    b.add(Flatten)
    b.add(Affine, shift=np.full(1000, 16777215 - 255, np.float32))
    fields = {"signs": np.full((40, 16), 2**64 - 1, np.uint64), "in_features": 1000}
    fields["signs"][:, -1] >>= np.uint64(24)
    b.add(Dense, **fields)
    net = b.net()
    images = np.full((16, 1, 1, 1000), 255, np.uint8)
    expected = np.full((16, 40), np.float32(16777215 * 1000))
    np.testing.assert_array_equal(run(net, images, executor="reference"), expected)
    for isa in instruction_sets().values():
        np.testing.assert_array_equal(make_plan(net, isa).run(images)[0], expected)


@pytest.mark.parametrize("form", IMAGE_NETS)
def test_threads_and_batches_do_not_change_a_bit(form: str) -> None:
    net = IMAGE_NETS[form](3)
    images = images_of(net, 23)
    expected = run(net, images, executor="reference")
    for threads in (1, 2, 5):
        for batch in (None, 4, 100):
            found = run(net, images, executor="native", threads=threads, batch_size=batch)
            np.testing.assert_array_equal(found, expected)


def test_the_sign_of_nan_is_refused_as_the_reference_does() -> None:
    b = Builder((1, 1, 8))
    b.add(Flatten)
    b.add(Affine, scale=np.full(8, 3e38, np.float32), shift=None)
    b.add(Dense, **b.signs(4, 8))  # of values that are not finite
    b.add(Sign)
    b.add(Dense, **b.signs(2, 4))
    net = b.net()
    for executor in ("reference", "native"):
        with pytest.raises(NotBinaryError, match="NaN, which has no sign"):
            run(net, images_of(net, 2), executor=executor)


def test_the_reference_computes_what_the_library_cannot() -> None:
    b = Builder((1, 8, 8))
    for _ in range(3):
        channels = b.values[b.last].shape[0]
        b.add(Conv, **b.signs(400, channels), kernel=(1, 1))
    b.add(AveragePool, kernel=(8, 8))
    b.add(Flatten)
    net = b.net()
    with pytest.raises(NotPlanned, match="beyond int32"):
        make_plan(net, instruction_sets()[ISAS[0]])
    images = images_of(net, 1)
    np.testing.assert_array_equal(run(net, images), run(net, images, executor="reference"))
    with pytest.raises(UsageError, match="does not run this net"):
        run(net, images, executor="native")


def test_an_operation_without_a_native_kernel_runs_in_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    net = IMAGE_NETS["sign"](0)
    images = images_of(net, 3)
    expected = run(net, images)
    monkeypatch.setitem(plan._MAKERS, type(net.nodes[0]), None)
    other = IMAGE_NETS["sign"](0)  # the plans of a net are kept
    with pytest.raises(NotPlanned, match=r"^the operation of 'n0', \w+, has no native kernel$"):
        make_plan(other, instruction_sets()[ISAS[0]])
    np.testing.assert_array_equal(run(other, images), expected)
    np.testing.assert_array_equal(PackedModule(other)(torch.from_numpy(images)).numpy(), expected)
    with pytest.raises(UsageError, match=r"does not run this net: the operation of 'n0', .*; use executor 'reference'"):
        run(other, images, executor="native")


def test_more_real_products_than_an_int64_holds() -> None:
    """All of them as large as the grid: 2⁴⁸ · 70,000 is beyond 2⁶³, and the reference is still right."""
    b = Builder((1, 1, 70_000))
    b.add(Flatten)
    b.add(Affine, shift=np.full(70_000, 2.0**24 - 256, np.float32))
    b.add(RealDense, weight=np.full((2, 70_000), 2.0**24 - 1, np.float32))
    net = b.net()
    with pytest.raises(NotPlanned, match="more real products"):
        make_plan(net, instruction_sets()[ISAS[0]])
    answer = run(net, np.full((1, 1, 1, 70_000), 255, np.uint8))
    assert answer.tolist() == [[np.float32((2.0**24 - 1) ** 2 * 70_000)] * 2]


def test_multipliers_beyond_exact_float64_run_in_numpy() -> None:
    """255 · 2³¹ and an offset give 2⁵² − 1 or 2⁵², which a file may not reach, but a net in memory may."""
    for beyond in (0, 1):
        b = Builder((1, 1, 2), coding="values")
        offset = np.array([2**52 - 1 + beyond - 255 * 2**31])
        fields = {
            "multiplier": np.array([[-(2**31)]], np.int32),
            "offset": offset,
            "right_shift": 45,
            "least": 0,
            "most": 255,
        }
        b.add(Requantize, **fields)
        net, images = b.net(), np.array([[[[0, 255]]]], np.uint8)
        if beyond:
            with pytest.raises(NotPlanned, match=r"may reach 2\^52"):
                make_plan(net, instruction_sets()[ISAS[0]])
        else:
            make_plan(net, instruction_sets()[ISAS[0]])
        np.testing.assert_array_equal(run(net, images), run(net, images, executor="reference"))


def test_a_kernel_of_a_million_taps_takes_no_memory() -> None:
    """A 130 kB file whose table of taps would take 4 terabytes."""
    b = Builder((1, 1, 1))
    side = 2**20
    b.add(Conv, **b.signs(1, side), kernel=(side, 1), padding=(side - 1, side - 1, 0, 0))
    b.add(AveragePool, kernel=(1, 1))
    b.add(Flatten)
    with pytest.raises(NotPlanned, match="too many taps"):
        make_plan(b.net(), instruction_sets()[ISAS[0]])


def test_a_net_that_has_no_plan_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(net: PackedNet, isa: Any) -> None:
        raise NotPlanned("too many taps")

    monkeypatch.setattr("onebit.runtime.running.make_plan", refuse)
    net = IMAGE_NETS["sign"](0)
    assert native_plan(net) is None
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_environment_variables_choose_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    net = IMAGE_NETS["sign"](0)
    images = images_of(net, 2)
    monkeypatch.setenv("ONEBIT_ISA", "avx51")
    with pytest.raises(UnknownNameError, match="unknown instruction set of this machine 'avx51'"):
        run(net, images)
    monkeypatch.delenv("ONEBIT_ISA")
    monkeypatch.setenv("ONEBIT_THREADS", "many")
    with pytest.raises(ValueError, match="many"):
        thread_count()
    monkeypatch.setenv("ONEBIT_NATIVE", "0")
    with pytest.raises(UsageError, match="not installed, or ONEBIT_NATIVE=0 is set"):
        run(net, images, executor="native")
    with pytest.raises(UsageError, match="unknown executor 'fast'; known: native, reference"):
        run(net, images, executor="fast")


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=12))
def test_buffers_in_use_at_the_same_time_do_not_overlap(drawn: list[tuple[int, int, int]]) -> None:
    buffers = [Buffer(units, first, first + length) for units, first, length in drawn]
    end = place(buffers, 3)
    for n, a in enumerate(buffers):
        assert a.place >= 0
        assert a.place + 3 * a.units <= end
        for b in buffers[:n]:
            if a.first <= b.last and b.first <= a.last:
                assert a.place + 3 * a.units <= b.place or b.place + 3 * b.units <= a.place


def test_the_plan_of_a_deep_net_takes_time_in_proportion_to_its_nodes() -> None:
    def calls(depth: int) -> int:
        """Functions called for the plan of so many layers."""
        b = Builder((8,), coding="values")
        for _ in range(depth):
            b.dense(8)
            b.requantize()
        net, profile = b.net(), cProfile.Profile()
        profile.runcall(make_plan, net, list(instruction_sets().values())[-1])
        return sum(entry.callcount for entry in profile.getstats())

    calls(1)  # what is imported or cached once
    assert calls(200) < 2.2 * calls(100)
