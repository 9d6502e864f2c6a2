"""`python -m benchmarks kernels` times products whose sums are right, against products in float32 and 8 bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import kernels
from benchmarks.kernels import KINDS, LAYERS, Layer, Product, float_products, product_alone, time_layer
from benchmarks.nets import HAS_ONNXRUNTIME
from benchmarks.shared import Clock
from onebit.errors import OnebitError
from onebit.native import NativePlan, instruction_sets, make_plan

DENSE, CONV = (20, 24), (5, 6, 4, 3)
RUN: Any = NativePlan.run
pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")


def quick(kind: str, sizes: tuple[int, ...], *, batch: int = 3, isa: str | None = None) -> list[dict[str, Any]]:
    isas = {name: one for name, one in instruction_sets().items() if isa in (None, name)}
    rows = list(time_layer(kind, sizes, batch, isas, Clock(rounds=2, seconds=1e-6)))
    assert json.dumps(rows)
    return rows


def test_products_of_all_kinds_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LAYERS.keys() == KINDS.keys()
    monkeypatch.setattr(kernels, "LAYERS", {"relu": {DENSE: (1, 2)}})
    rows = kernels.measure(kinds=["relu"], isa=["portable"], clock=Clock(rounds=1, seconds=0.0))
    assert [(row["batch"], row["variant"]) for row in rows] == [(1, "portable"), (2, "portable")]


@pytest.mark.parametrize(
    ("kind", "sizes"), [("xnor", DENSE), ("weights", CONV), ("relu", DENSE), ("first", CONV), ("integer", CONV)]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_instruction_set_is_a_row(kind: str, sizes: tuple[int, ...], batch: int) -> None:
    rows = quick(kind, sizes, batch=batch)
    assert [row["variant"] for row in rows] == list(instruction_sets())
    for row in rows:
        assert (row["product"].partition(",")[0], row["torch"]) == (KINDS[kind].partition(",")[0], "torch")
        assert 0 < row["fastest_us"] <= row["us"]
        assert min(row["torch_speedup"], row["best_speedup"]) > 0
        assert row["best_us"] <= row["torch_us"]
        if HAS_ONNXRUNTIME and kind in ("xnor", "weights"):
            assert row["int8"] in {"xnor": {"MatMulInteger"}, "weights": {"ConvInteger", "QLinearConv"}}[kind]
            assert row["int8_speedup"] > 0


def wrong_logits(plan: NativePlan, images: np.ndarray, **parts: int) -> tuple[np.ndarray, bool]:
    logits, nan = RUN(plan, images, **parts)
    logits[-1, 3] += 2
    return logits, nan


def wrong_sums(*of: Any) -> Callable[[], np.ndarray]:
    call = product_alone(*of)
    return lambda: call() + 1


def wrong_rival(*of: Any) -> dict[str, Product]:
    products = float_products(*of)
    call, *others = products["torch"]
    return products | {"torch": (lambda: call() + 2, *others)}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("where", "name", "wrong", "noun"),
    [
        (NativePlan, "run", wrong_logits, "reference"),
        (kernels, "product_alone", wrong_sums, "portable"),
        (kernels, "float_products", wrong_rival, "torch"),
    ],
)
def test_wrong_numbers_are_refused(
    where: Any, name: str, wrong: Any, noun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(OnebitError, match=noun):
        quick("first", CONV, isa="portable")


def test_steps_alone_compute_what_they_compute_among_the_others() -> None:
    layer = Layer("weights", 3, 7, 5, 4, batch=9)
    for isa in instruction_sets().values():
        plan = make_plan(layer.packed, isa)
        plan.plan.batch = 4
        call = product_alone(plan, layer.images)
        logits, _ = plan.run(layer.images)
        for _ in range(3):
            found = call().view(np.float32).reshape(4, 5, 4, 7).transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(found, logits[:4, :7])


@pytest.mark.parametrize("sizes", [(60, 6), (4, 6, 3, 5)])
def test_values_after_a_relu_are_not_negative(sizes: tuple[int, ...]) -> None:
    signed, positive = (Layer(kind, *sizes, batch=2) for kind in ("weights", "relu"))
    assert bool((signed.x < 0).any())
    assert torch.equal(positive.x, signed.x.clamp(min=0))
    assert (positive.int8.min(), positive.int8.max(), positive.zero) == (0, 255, 0)
