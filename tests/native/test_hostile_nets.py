"""Damaged nets, numbers at the limits of int32 and float32, and images of wrong shapes and types."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from onebit.errors import UsageError
from onebit.native import InstructionSet, NativePlan, instruction_sets, make_plan
from onebit.packed import Dense, Flatten, PackedNet, Threshold
from onebit.packed.bits import pack_signs
from onebit.runtime import run
from support.executors import assert_agrees, reference
from support.hostile_files import changed_nets
from support.kernel_nets import THRESHOLD_NETS
from support.packed_nets import IMAGE_NETS, Builder, inputs_of

ISAS = list(instruction_sets().values())
pytestmark = pytest.mark.skipif(not ISAS, reason="the native library is not installed")
each_isa = pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
INT32 = np.iinfo(np.int32)


def test_changed_nets_agree_or_are_refused_by_both_executors() -> None:
    """Changed bytes, paddings and strides; infinite, NaN and denormal parameters."""
    outcomes: Counter[str] = Counter()
    for net in changed_nets(6):
        images = inputs_of(net, 4)
        expected = reference(net, images)
        kind = "finite" if expected is not None and np.isfinite(expected).all() else "infinite or NaN"
        outcomes["sign of NaN" if expected is None else kind] += 1
        for isa in ISAS:
            outcomes["planned" if assert_agrees(net, images, expected, isa) else "not planned"] += 1
    assert min(outcomes[name] for name in ("finite", "infinite or NaN", "sign of NaN")) > 2, outcomes
    assert outcomes["planned"] > 50 * outcomes["not planned"], outcomes


@each_isa
@pytest.mark.parametrize("form", THRESHOLD_NETS)
def test_thresholds_at_the_limits_of_int32_and_near_sums(isa: InstructionSet, form: str) -> None:
    """Thresholds near int64 sums Σ w·x from numpy; the net is one layer and its signs."""
    net = THRESHOLD_NETS[form]()
    images, signs = inputs_of(net, 5), net.nodes[-1]
    assert isinstance(signs, Threshold)
    answer = reference(PackedNet(inputs={"input": net.input}, nodes=net.nodes[:-1], output=signs.inputs[0]), images)
    assert answer is not None
    assert np.abs(answer).max() < 2**24, "these sums are exact in float32"
    sums, shape = answer.astype(np.int64), (-1, *[1] * (answer.ndim - 2))
    limit, up = signs.threshold.astype(np.int64).reshape(shape), signs.direction.reshape(shape) > 0
    expected = np.where(np.where(up, sums >= limit, sums <= limit), 1, -1)
    assert set(np.unique(expected)) == {-1, 1}
    plan = make_plan(net, isa)
    assert {"xnor": "xnor", "dot": "dot" if isa.dot_fours else "lut", "lookups": "lut"}[form] in plan.kernels
    np.testing.assert_array_equal(plan.run(images)[0], expected)


@each_isa
def test_thresholds_near_sums_at_the_limits_of_int32(isa: InstructionSet) -> None:
    """2,900 · 2,903 · 255 is 0.03 % below 2³¹; black and white images give both signs of it."""
    inputs, hidden = 2903, 2900
    total = 255 * inputs * hidden
    ends = [INT32.min, -total - 1, -total, -total + 1, 0, total - 1, total, total + 1, INT32.max]
    at = np.array(ends * 2, np.int32)
    direction = np.repeat(np.array([1, -1], np.int8), len(ends))
    b = Builder((1, 1, inputs))
    b.add(Flatten)
    for outputs, terms in ((hidden, inputs), (len(at), hidden)):
        b.add(Dense, signs=pack_signs(np.ones((outputs, terms), np.int8)), in_features=terms)
    b.add(Threshold, threshold=at, direction=direction)
    images = np.stack([np.zeros((1, 1, inputs), np.uint8), np.full((1, 1, inputs), 255, np.uint8)])
    sums = np.array([[-total], [total]])
    expected = np.where(np.where(direction > 0, sums >= at, sums <= at), 1, -1)
    np.testing.assert_array_equal(make_plan(b.net(), isa).run(images)[0], expected)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 9, 8), np.int8),
        np.zeros((2, 3, 9, 8), np.float32),
        np.zeros((2, 9, 8, 3), np.uint8),
        np.zeros((2, 3, 9, 7), np.uint8),
        np.zeros((2, 216), np.uint8),
        np.zeros((3, 9, 8), np.uint8),
        np.zeros((), np.uint8),
        np.zeros((2, 3, 9, 8), object),
        [[[[0] * 8] * 9] * 3],
        None,
    ],
    ids=lambda images: f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__,
)
def test_other_images_never_reach_the_library(monkeypatch: pytest.MonkeyPatch, images: Any) -> None:
    net = IMAGE_NETS["sign"]()
    assert net.input.shape == (3, 9, 8)

    def reached(*_: Any, **__: Any) -> None:
        raise AssertionError("the library was called")

    monkeypatch.setattr(NativePlan, "run", reached)
    with pytest.raises(UsageError, match="uint8"):
        run(net, images, executor="native")
    with pytest.raises(AssertionError, match="the library was called"):
        run(net, inputs_of(net, 2), executor="native")
