"""What has a plan and what numpy runs, and how a plan and its executor are chosen."""

from __future__ import annotations

import cProfile
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from onebit.errors import UnknownNameError, UsageError
from onebit.modules.packed_module import PackedModule
from onebit.native import NotPlanned, instruction_sets, make_plan, plan, thread_count
from onebit.native.arena import assign_offsets
from onebit.native.kernel_calls import Buffer
from onebit.packed import Affine, AveragePool, Conv, Flatten, PackedNet, RealDense, Requantize, load
from onebit.runtime import run
from onebit.runtime.running import native_plan
from support.packed_nets import IMAGE_NETS, Builder, inputs_of

ISAS = list(instruction_sets())
pytestmark = pytest.mark.skipif(not ISAS, reason="the native library is not installed")


def test_a_plan_prints_without_its_weights() -> None:
    net = load("mnist-mlp-signs")
    made = make_plan(net, instruction_sets()[ISAS[0]])
    made.run(inputs_of(net, 1))
    assert len(repr(made)) < 1500
    assert "array" not in repr(made)


def test_the_portable_kernels_are_always_there() -> None:
    assert ISAS[0] == "portable"


def test_the_reference_computes_what_the_library_cannot() -> None:
    b = Builder((1, 8, 8))
    for _ in range(3):
        channels = b.values[b.last].shape[0]
        b.add(Conv, **b.signs(400, channels), kernel=(1, 1))
    b.add(AveragePool, kernel=(8, 8))
    b.add(Flatten)
    net = b.net()
    with pytest.raises(NotPlanned, match="int32"):
        make_plan(net, instruction_sets()[ISAS[0]])
    images = inputs_of(net, 1)
    np.testing.assert_array_equal(run(net, images), run(net, images, executor="reference"))
    with pytest.raises(UsageError, match="net"):
        run(net, images, executor="native")


def test_an_operation_without_a_native_kernel_runs_in_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    net = IMAGE_NETS["sign"](0)
    images = inputs_of(net, 3)
    expected = run(net, images)
    monkeypatch.setitem(plan._MAKERS, type(net.nodes[0]), None)
    other = IMAGE_NETS["sign"](0)  # the plans of a net are kept
    with pytest.raises(NotPlanned, match="'n0'"):
        make_plan(other, instruction_sets()[ISAS[0]])
    np.testing.assert_array_equal(run(other, images), expected)
    np.testing.assert_array_equal(PackedModule(other)(torch.from_numpy(images)).numpy(), expected)
    with pytest.raises(UsageError, match="'n0'"):
        run(other, images, executor="native")


def test_more_real_products_than_an_int64_holds() -> None:
    """All of them as large as the grid: 2⁴⁸ · 70,000 is beyond 2⁶³, and the reference is still right."""
    b = Builder((1, 1, 70_000))
    b.add(Flatten)
    b.add(Affine, shift=np.full(70_000, 2.0**24 - 256, np.float32))
    b.add(RealDense, weight=np.full((2, 70_000), 2.0**24 - 1, np.float32))
    net = b.net()
    with pytest.raises(NotPlanned, match="products"):
        make_plan(net, instruction_sets()[ISAS[0]])
    answer = run(net, np.full((1, 1, 1, 70_000), 255, np.uint8))
    assert answer.tolist() == [[np.float32((2.0**24 - 1) ** 2 * 70_000)] * 2]


def test_multipliers_beyond_exact_float64_run_in_numpy() -> None:
    """255 · 2³¹ and an offset give 2⁵² − 1 or 2⁵², which a file may not reach, but a net in memory may."""
    for beyond in (0, 1):
        b = Builder((1, 1, 2), coding="values")
        offset = np.array([2**52 - 1 + beyond - 255 * 2**31])
        multiplier = np.array([[-(2**31)]], np.int32)
        b.add(Requantize, multiplier=multiplier, offset=offset, right_shift=45, least=0, most=255)
        net, images = b.net(), np.array([[[[0, 255]]]], np.uint8)
        if beyond:
            with pytest.raises(NotPlanned, match="multipliers"):
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
    with pytest.raises(NotPlanned, match="taps"):
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
    images = inputs_of(net, 2)
    monkeypatch.setenv("ONEBIT_ISA", "avx51")
    with pytest.raises(UnknownNameError, match="'avx51'"):
        run(net, images)
    monkeypatch.delenv("ONEBIT_ISA")
    monkeypatch.setenv("ONEBIT_THREADS", "many")
    with pytest.raises(ValueError, match="many"):
        thread_count()
    monkeypatch.setenv("ONEBIT_NATIVE", "0")
    with pytest.raises(UsageError, match="ONEBIT_NATIVE"):
        run(net, images, executor="native")
    with pytest.raises(UsageError, match="'fast'"):
        run(net, images, executor="fast")


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=12))
def test_buffers_in_use_at_the_same_time_do_not_overlap(drawn: list[tuple[int, int, int]]) -> None:
    buffers = [Buffer(units, first, first + length) for units, first, length in drawn]
    end = assign_offsets(buffers, 3)
    for n, a in enumerate(buffers):
        assert a.offset >= 0
        assert a.offset + 3 * a.units <= end
        for b in buffers[:n]:
            if a.first <= b.last and b.first <= a.last:
                assert a.offset + 3 * a.units <= b.offset or b.offset + 3 * b.units <= a.offset


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
