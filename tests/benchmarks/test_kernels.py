"""`python -m benchmarks kernels` times products whose sums are right, against products in float32 and 8 bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import kernels
from benchmarks.layers import KINDS, Case, Layer
from benchmarks.rivals import Rival
from benchmarks.sessions import onnxruntime_version
from onebit.errors import OnebitError
from onebit.native import NativePlan, instruction_sets, make_plan

SMALL = {
    case.name: case
    for kind in KINDS
    for case in (
        Case(f"{kind}-dense", kind, (20, 1, 1), 24, (1, 3)),
        Case(f"{kind}-conv", kind, (5, 4, 3), 6, (1, 2), convolves=True),
    )
}
RUN: Any = NativePlan.run
ALONE, RIVALS = kernels.alone, Layer.rivals
pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")


def quick(case: str, *, isa: list[str] | None = None) -> list[dict[str, Any]]:
    result = kernels.measure(cases=[SMALL[case]], isa=isa, threads=1, rounds=2, seconds=1e-6)
    assert json.dumps(result)
    return list(result["rows"])


@pytest.mark.parametrize("name", ["xnor-dense", "weights-conv", "relu-dense", "first-conv", "integer-conv"])
def test_every_instruction_set_is_a_row(name: str) -> None:
    found = quick(name)
    for batch in SMALL[name].batches:
        rows = [row for row in found if row["batch"] == batch]
        assert [row["instructions"] for row in rows] == list(instruction_sets())
        for row in rows:
            assert (row["kind"], row["torch"]) == (SMALL[name].kind, "torch")
            assert 0 < row["fastest_us"] <= row["us"]
            assert min(row["torch_speedup"], row["best_speedup"]) > 0
            assert row["best_us"] <= row["torch_us"]


@pytest.mark.skipif(onnxruntime_version() is None, reason="onnxruntime is not installed")
@pytest.mark.parametrize(
    ("name", "fastest"), [("xnor-dense", {"MatMulInteger"}), ("weights-conv", {"ConvInteger", "QLinearConv"})]
)
def test_products_in_8_bits_are_compared_with(name: str, fastest: set[str]) -> None:
    assert all(row["int8"] in fastest and row["int8_speedup"] > 0 for row in quick(name))


def wrong_logits(plan: NativePlan, images: np.ndarray, **parts: int) -> tuple[np.ndarray, bool]:
    logits, nan = RUN(plan, images, **parts)
    logits[-1, 3] += 2
    return logits, nan


def wrong_sums(*of: Any) -> Callable[[], np.ndarray]:
    call = ALONE(*of)
    return lambda: call() + 1


def wrong_rival(layer: Layer) -> list[Rival]:
    *most, last = RIVALS(layer)
    return [*most, replace(last, call=lambda: last.call() + 2)]


@pytest.mark.parametrize(
    ("where", "name", "wrong", "case", "noun"),
    [
        (NativePlan, "run", wrong_logits, "xnor-dense", "reference"),
        (kernels, "alone", wrong_sums, "xnor-conv", "sums"),
        (Layer, "rivals", wrong_rival, "first-dense", "24 of 24 sums"),
    ],
)
def test_wrong_numbers_are_refused(
    where: Any, name: str, wrong: Any, case: str, noun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(OnebitError, match=noun):
        quick(case, isa=["portable"])


def test_steps_alone_compute_what_they_compute_among_the_others() -> None:
    layer = Layer(Case("x", "weights", (3, 5, 4), 7, (9,), convolves=True), 9)
    for isa in instruction_sets().values():
        plan = make_plan(layer.packed, isa)
        plan.plan.batch = 4
        call = kernels.product_alone(plan, layer.images)
        logits, _ = plan.run(layer.images)
        for _ in range(3):
            found = call().view(np.float32).reshape(4, 5, 4, 7).transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(found, logits[:4, :7])


@pytest.mark.parametrize("convolves", [False, True])
def test_values_after_a_relu_are_not_negative(convolves: bool) -> None:
    shape = (4, 3, 5) if convolves else (60, 1, 1)
    layers = [Layer(Case("x", kind, shape, 6, (2,), convolves=convolves), 2) for kind in ("weights", "relu")]
    signed, positive = (layer.product.x for layer in layers)
    assert bool((signed < 0).any())
    assert torch.equal(positive, signed.clamp(min=0))
    assert (layers[1].int8.x.min(), layers[1].int8.x.max(), layers[1].zero) == (0, 255, 0)
