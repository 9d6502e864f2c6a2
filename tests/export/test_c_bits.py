"""C programs give the bits of the reference executor with any compiler and any flags that net.c does not reject."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onebit.packed import PackedNet, nodes as op
from support.c_programs import GNU, SMALL, assert_reference_bits, extremes, needs, outputs_of, with_inputs
from support.kernel_nets import kernel_nets
from support.packed_nets import IMAGE_NETS, Builder

pytestmark = pytest.mark.nightly  # compiles and emulates for minutes


def pooled_signs(direction: int) -> PackedNet:
    """Signs and thresholds after pools of integers and reals."""
    b = Builder((3, 8, 8))
    b.add(op.Conv, **b.signs(9, 27), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(op.MaxPool, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    b.threshold(9, most=900)
    b.nodes[-1] = replace(b.nodes[-1], direction=np.full(9, direction, np.int8))
    b.add(op.Conv, **b.signs(8, 81, scale=True), kernel=(3, 3))
    b.affine(8)
    b.add(op.MaxPool, kernel=(2, 2))
    b.add(op.Sign, shift=b.real(8))
    b.add(op.Flatten)
    b.dense(6)
    return b.net()


TAKEN = [net for net in kernel_nets() if not any(isinstance(node, op.Product) for node in net.nodes)]
ALL = [*TAKEN, pooled_signs(1), pooled_signs(-1)]
COVERING = [*ALL[1:28:3], *ALL[28:]]


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


def test_nan_has_sign_minus_one_and_is_rounded_to_the_least_integer(tmp_path: Path) -> None:
    """Also behind a pool. The reference executor raises an error for NaN, which a C program cannot do."""
    needs("cc")
    b = Builder((3,), coding="float32")
    b.add(op.Quantize, least=-7, most=9)
    numbers = np.float32([[np.nan, -0.5, np.inf], [2.5, -np.inf, -np.nan]])
    pooled = Builder((1, 2, 4), coding="float32")
    pooled.add(op.MaxPool, kernel=(2, 2), stride=(2, 2))
    pooled.add(op.Sign)
    pooled.add(op.Flatten)
    pooled.add(op.RealDense, weight=np.eye(2, dtype=np.float32))
    images = np.float32([[[[np.nan, 1, 2, 2], [2, 3, -1, -1]]], [[[-1, 5, -2, -2], [1, 1, -1, -1]]]])
    integers, signs = outputs_of([(b.net(), numbers), (pooled.net(), images)], tmp_path, ["cc", "-O1"])
    np.testing.assert_array_equal(integers, [[-7, 0, 9], [2, -7, -7]])
    np.testing.assert_array_equal(signs, [[-1, 1], [1, -1]])


@pytest.mark.parametrize("compiler", ["cc", "clang"])
def test_every_width_gives_the_bits_of_the_reference(compiler: str, tmp_path: Path) -> None:
    needs(compiler)
    cases = [*with_inputs(ALL, 3), *extremes()]
    assert_reference_bits(cases, outputs_of(cases, tmp_path, [compiler, "-O3"]))
