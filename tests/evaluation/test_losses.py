"""Losses against their formulas, written as loops, and against scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from onebit.data import VOID
from onebit.errors import UsageError
from onebit.evaluation.losses import LOSSES, cross_entropy, per_sample

OF_CLASSES = [name for name in LOSSES if LOSSES.entry(name).task == "classification"]
MEANS = [name for name in OF_CLASSES if name != "iou"]
"""Losses that are a mean of what each sample costs."""


def example(count: int = 12, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, dtype=torch.float64, generator=generator)
    return logits, torch.randint(0, classes, (count,), generator=generator)


def by_loops(name: str, logits: Tensor, labels: Tensor) -> float:
    total, terms = 0.0, 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if name == "cross_entropy":
            total -= math.log(math.exp(row[label]) / sum(map(math.exp, row)))
            terms += 1
            continue
        for c, y in enumerate(row):
            margin = max(0.0, 1 - (1 if c == label else -1) * y)
            total += margin**2 if name == "squared_hinge" else margin
            terms += 1
    return total / terms


@pytest.mark.parametrize("name", MEANS)
def test_each_loss_is_its_formula(name: str) -> None:
    logits, labels = example()
    assert float(LOSSES[name](logits, labels)) == pytest.approx(by_loops(name, logits, labels), rel=1e-12)


@pytest.mark.parametrize("name", OF_CLASSES)
def test_gradients_are_those_of_the_formula(name: str) -> None:
    logits, labels = example()  # no logit is within 1e-3 of a kink
    assert float((logits.abs() - 1).abs().min()) > 1e-3
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, labels), logits.requires_grad_())


def test_label_smoothing_mixes_in_the_uniform_target() -> None:
    logits, labels = example()
    uniform = -logits.log_softmax(1).mean()
    expected = 0.9 * cross_entropy(logits, labels) + 0.1 * uniform
    assert float(cross_entropy(logits, labels, label_smoothing=0.1)) == pytest.approx(float(expected))


def test_iou_is_one_minus_the_mean_soft_jaccard_index() -> None:
    logits, labels = torch.randn(7, 3), torch.tensor([0, 1, 1, 0, 2, 1, 0])
    p, t = logits.softmax(1), torch.eye(3)[labels]
    expected = 1 - sum(float((p * t)[:, k].sum() / (p + t - p * t)[:, k].sum()) for k in range(3)) / 3
    assert float(LOSSES["iou"](logits, labels)) == pytest.approx(expected, rel=1e-5)
    perfect = 100 * t - 50
    assert float(LOSSES["iou"](perfect, labels)) == pytest.approx(0, abs=1e-6)
    assert torch.autograd.gradcheck(LOSSES["iou"], (logits.double().requires_grad_(), labels))


@pytest.mark.parametrize("name", OF_CLASSES)
def test_the_loss_of_masks_is_that_of_their_pixels(name: str) -> None:
    logits, masks = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 8, 6), dtype=torch.uint8)
    masks[0, 3, 2] = VOID
    center = masks[:, 2:6, 1:5]
    known = center != VOID
    rows = logits.permute(0, 2, 3, 1)[known]
    assert torch.equal(LOSSES[name](logits, masks), LOSSES[name](rows, center[known].long()))
    found, labels = per_sample(logits, masks)
    assert torch.equal(found, rows)
    assert labels.dtype == torch.int64


@pytest.mark.parametrize("name", OF_CLASSES)
def test_masks_of_void_pixels_alone_cost_nothing_and_teach_nothing(name: str) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = LOSSES[name](logits, torch.full((2, 4, 4), VOID, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_masks_have_no_class_with_the_number_of_void() -> None:
    masks = torch.tensor([[[3, VOID]]])
    assert per_sample(torch.zeros(1, VOID, 1, 2), masks)[1].tolist() == [3]
    with pytest.raises(UsageError, match="masks of 256 classes: expected at most 255"):
        per_sample(torch.zeros(1, VOID + 1, 1, 2), masks)
