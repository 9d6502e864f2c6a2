"""C programs give the bits of the reference executor with any compiler and any flags that net.c does not reject."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from onebit.export.c.plan import Planner
from onebit.packed import (
    OPS,
    Affine,
    AveragePool,
    Conv,
    Flatten,
    MaxPool,
    PackedNet,
    Quantize,
    RealDense,
    Relu,
    Reshape,
    Sign,
    Slice,
)
from support.agreeing import reference
from support.byte_nets import EXTREMES, extreme_inputs
from support.c_programs import GNU, SANITIZE, Case, assert_reference_bits, needs, outputs_of
from support.drawn_nets import batches_of, nets
from support.kernel_nets import kernel_nets
from support.packed_nets import IMAGE_NETS, OTHER_NETS, Builder, inputs_of


def drawn(count: int, *, integers: bool = False) -> list[Case]:
    """Nets and inputs that hypothesis draws, the same ones in every run."""
    cases: list[Case] = []

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def draw(data: Any) -> None:
        net = data.draw(nets(integers=integers))
        cases.append((net, extreme_inputs(net) if integers else data.draw(batches_of(net))))

    draw()
    return [case for case in cases if reference(*case) is not None]


def overflowing() -> PackedNet:
    """Real parameters that overflow float32, so that infinities and NaN reach every kind of kernel."""
    b = Builder((2, 5, 5), coding="standardise")
    huge = np.full(2, 3e38, np.float32)
    b.add(Affine, scale=huge, shift=-huge)
    b.add(Affine, scale=huge, shift=huge)
    b.add(Conv, **b.signs(3, 18, scale=True, centre=True), kernel=(3, 3), padding=(1, 1, 1, 1), padding_value=1)
    b.add(MaxPool, kernel=(2, 2))
    b.add(AveragePool, kernel=(2, 2), padding=(1, 0, 0, 0))
    b.add(Relu)
    b.add(Flatten)
    b.add(RealDense, weight=b.real(4, b.values[b.last].shape[0]))
    return b.net()


def pooled_signs(direction: int) -> PackedNet:
    """Signs and thresholds after pools of integers and reals."""
    b = Builder((3, 8, 8))
    b.add(Conv, **b.signs(9, 27), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(MaxPool, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    b.threshold(9, most=900)
    b.nodes[-1] = replace(b.nodes[-1], direction=np.full(9, direction, np.int8))
    b.add(Conv, **b.signs(8, 81, scale=True), kernel=(3, 3))
    b.affine(8)
    b.add(MaxPool, kernel=(2, 2))
    b.add(Sign, shift=b.real(8))
    b.add(Flatten)
    b.dense(6)
    return b.net()


def levels_of_a_part(part: str) -> Case:
    """All signs of the part are -1, and one outside is +1: the grid of both levels would be coarser."""
    b = Builder((8, 4, 5), coding="float32")
    b.add(Sign)
    b.add(Slice, stop=(8, 1, 1) if part == "pixel" else (8, 2, 5))
    if part == "in place":
        b.add(Sign)
    elif part == "reshaped":
        b.add(Reshape, shape=(8, 1, 10))
    b.levels(0.1, 1000.7)
    b.add(Conv, **b.signs(8, 8), kernel=(1, 1))
    net = b.net()
    assert Planner(net).levels
    inputs = np.full((1, 8, 4, 5), -1, np.float32)
    inputs[0, :, 3, 4] = 1
    return net, inputs


def rounded_sums(before: str) -> Case:
    """Sums of weights, or of inputs, and a rounded sum in one C function."""
    b = Builder((8, 4, 5))
    signs = b.threshold(8, most=200)
    if before == "levels":
        b.levels(-0.3, 1.7)
    b.add(Conv, **b.signs(8, 72, centre=before == "center"), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(Quantize, least=-100, most=100)
    b.requantize(b.last, signs, least=-20, most=20)
    net = b.net()
    assert len(Planner(net).list) == 2
    return net, inputs_of(net, 3)


SMALL = [*(make() for make in IMAGE_NETS.values()), *(make() for make in OTHER_NETS.values())]
ALL = [*kernel_nets(), pooled_signs(1), pooled_signs(-1)]
COVERING = [*ALL[1:28:3], *ALL[28:]]


def extremes() -> list[Case]:
    return [(net, extreme_inputs(net)) for net in (make() for make in EXTREMES.values())]


def with_inputs(nets: list[PackedNet], count: int) -> list[Case]:
    return [(net, inputs_of(net, count)) for net in nets]


def needs_fma() -> None:
    if platform.machine() != "x86_64" or "fma" not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip("the processor has no FMA")


def test_gcc_gives_the_bits_of_the_reference_and_contracts_nothing(tmp_path: Path) -> None:
    needs("gcc")
    needs_fma()
    cases = [*with_inputs(COVERING, 5), *extremes()]
    assert_reference_bits(cases, outputs_of(cases, tmp_path, ["gcc", "-O2", "-mfma"], strict=GNU))


def test_clang_gives_the_bits_of_the_reference_with_parts_of_fast_math(tmp_path: Path) -> None:
    """clang defines no macro for these flags, so net.c cannot reject them."""
    needs("clang")
    needs_fma()
    flags = ["-funsafe-math-optimizations", "-freciprocal-math"]
    cases = with_inputs([*SMALL, *COVERING[::3]], 20)
    assert_reference_bits(cases, outputs_of(cases, tmp_path, ["clang", "-O2", "-mfma", *flags], strict=GNU))


def test_a_pragma_does_not_turn_on_associative_math(tmp_path: Path) -> None:
    """gcc ignores -fassociative-math without other flags and defines no macro; a pragma would turn it on again."""
    needs("gcc")
    cases = with_inputs([IMAGE_NETS["real"](1), IMAGE_NETS["levels"](1), *SMALL[4:]], 20)
    assert_reference_bits(cases, outputs_of(cases, tmp_path, ["gcc", "-O2", "-fassociative-math"], strict=GNU[:1]))


def test_vectors_of_constants_are_not_exchanged(tmp_path: Path) -> None:
    """gcc 12 exchanges them at -O3 with AVX in two consecutive affine operations."""
    needs("gcc")
    if platform.machine() != "x86_64" or "avx" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("the processor has no AVX")
    b = Builder((5,), coding="float32", seed=1)
    b.affine(5)
    b.affine(5)
    cases = with_inputs([b.net()], 20)
    assert_reference_bits(cases, outputs_of(cases, tmp_path, ["gcc", "-O3", "-mavx"]))


def test_drawn_nets_are_exact_without_undefined_behavior(tmp_path: Path) -> None:
    needs("cc")
    cases = [
        *drawn(10),
        *extremes(),
        *drawn(6, integers=True),
        *map(levels_of_a_part, ("rows", "in place", "reshaped", "pixel")),
        *map(rounded_sums, ("levels", "center")),
        *with_inputs([overflowing(), *SMALL], 2),
    ]
    assert {type(node) for net, _ in cases for node in net.nodes} == set(OPS.values())
    assert_reference_bits(cases, outputs_of(cases, tmp_path, ["cc", *SANITIZE]))


def test_a_32_bit_arm_gives_the_bits_of_the_reference(tmp_path: Path) -> None:
    needs("arm-linux-gnueabihf-gcc", "qemu-arm")
    cases = [*with_inputs(SMALL, 3), *extremes()[:3]]
    command = ["arm-linux-gnueabihf-gcc", "-O2", "-static"]
    assert_reference_bits(cases, outputs_of(cases, tmp_path, command, ["qemu-arm"]))


def test_nan_has_sign_minus_one_and_is_rounded_to_the_least_integer(tmp_path: Path) -> None:
    """Also behind a pool. The reference executor raises an error for NaN, which a C program cannot do."""
    needs("cc")
    b = Builder((3,), coding="float32")
    b.add(Quantize, least=-7, most=9)
    numbers = np.float32([[np.nan, -0.5, np.inf], [2.5, -np.inf, -np.nan]])
    pooled = Builder((1, 2, 4), coding="float32")
    pooled.add(MaxPool, kernel=(2, 2), stride=(2, 2))
    pooled.add(Sign)
    pooled.add(Flatten)
    pooled.add(RealDense, weight=np.eye(2, dtype=np.float32))
    images = np.float32([[[[np.nan, 1, 2, 2], [2, 3, -1, -1]]], [[[-1, 5, -2, -2], [1, 1, -1, -1]]]])
    integers, signs = outputs_of([(b.net(), numbers), (pooled.net(), images)], tmp_path, ["cc", "-O1"])
    np.testing.assert_array_equal(integers, [[-7, 0, 9], [2, -7, -7]])
    np.testing.assert_array_equal(signs, [[-1, 1], [1, -1]])


@pytest.mark.nightly
@pytest.mark.parametrize("compiler", ["cc", "clang"])
def test_every_width_gives_the_bits_of_the_reference(compiler: str, tmp_path: Path) -> None:
    needs(compiler)
    cases = [*with_inputs(ALL, 3), *extremes()]
    assert_reference_bits(cases, outputs_of(cases, tmp_path, [compiler, "-O3"]))


@pytest.mark.nightly
def test_many_drawn_nets_are_exact(tmp_path: Path) -> None:
    needs("cc")
    cases = [*drawn(400), *drawn(400, integers=True)]
    assert_reference_bits(cases, outputs_of(cases, tmp_path, ["cc", "-O1"]))
