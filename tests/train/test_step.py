"""One optimizer step: the gradient of a batch however it is computed, and its limits."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from onebit.data import VOID
from onebit.evaluation.losses import cross_entropy, ignored_label, squared_hinge, with_options
from onebit.layers import BinaryLinear
from onebit.train.settings import Fit
from onebit.train.step import Objective, optimizer_step


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), BinaryLinear(6, 8, bias=True), nn.ReLU(), nn.Linear(8, 3))


def batch(count: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, 2, 3, generator=generator), torch.randint(3, (count,), generator=generator)


def objective(**settings: int) -> Objective:
    return Objective(cross_entropy, Fit(**settings, precision="fp32"))


class Keeper(torch.optim.SGD):
    """Keeps the gradients that a step is made with."""

    def step(self, closure=None):  # type: ignore[no-untyped-def]
        self.seen = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        return super().step(closure)


def gradients(settings: Fit, *, count: int = 10, loss=cross_entropy) -> tuple[list[Tensor], Tensor, Tensor]:  # type: ignore[no-untyped-def]
    model = net()
    optimizer = Keeper(model.parameters(), lr=0.1)
    x, y = batch(count)
    found, correct, _ = optimizer_step(model, optimizer, x, y, Objective(loss, replace(settings, precision="fp32")))
    assert all(p.grad is None for p in model.parameters())
    return optimizer.seen, found, correct


def of_torch(count: int = 10, loss=cross_entropy) -> tuple[list[Tensor], Tensor, Tensor]:  # type: ignore[no-untyped-def]
    model = net()
    x, y = batch(count)
    logits = model(x)
    found = loss(logits, y)
    found.backward()
    return [p.grad for p in model.parameters()], found.detach(), (logits.argmax(1) == y).sum()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("parts", "count", "loss"),
    [
        (1, 10, cross_entropy),
        (2, 10, squared_hinge),
        (3, 7, cross_entropy),
        (5, 10, cross_entropy),
        (99, 7, squared_hinge),
        (4, 10, with_options(cross_entropy, class_weights=(0.2, 5.0, 1.0))),
        (3, 10, with_options(squared_hinge, class_weights=(0.2, 5.0, 1.0), ignore_index=1)),
        (2, 10, with_options(cross_entropy, ignore_index=0)),
    ],
)
def test_parts_add_up_to_the_gradient_of_the_whole_batch(parts: int, count: int, loss) -> None:  # type: ignore[no-untyped-def]
    found = gradients(Fit(accumulate=parts), count=count, loss=loss)
    expected = of_torch(count, loss)
    for ours, theirs in zip(found[0], expected[0], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert float(found[1]) == pytest.approx(float(expected[1]), rel=1e-5)
    if (ignored := ignored_label(loss)) is None:
        assert int(found[2]) == int(expected[2])
    else:
        x, y = batch(count)
        assert int(found[2]) == int(((net()(x).argmax(1) == y) & (y != ignored)).sum())


@pytest.mark.parametrize("side", [4, 2])
def test_parts_of_masks_count_by_their_pixels_with_a_class(side: int) -> None:
    """Also if the net has outputs for the center only."""
    torch.manual_seed(0)
    x, masks = torch.randn(6, 1, 4, 4), torch.randint(2, (6, 4, 4)).to(torch.uint8)
    masks[:3] = VOID
    masks[0, 1, 1] = 1
    model = nn.Conv2d(1, 2, 5 - side, padding=0 if side == 2 else "same")
    seen = []
    for parts in (1, 2, 3):
        trained = copy.deepcopy(model)
        optimizer = Keeper(trained.parameters(), lr=0.1)
        loss, *_ = optimizer_step(trained, optimizer, x, masks, objective(accumulate=parts))
        seen.append(torch.cat([loss[None], *(gradient.flatten() for gradient in optimizer.seen)]))
    for other in seen[1:]:
        torch.testing.assert_close(other, seen[0], atol=1e-6, rtol=1e-5)


def test_a_mask_counts_as_its_share_of_correct_pixels_with_a_class() -> None:
    torch.manual_seed(0)
    model, x, masks = nn.Conv2d(1, 2, 1), torch.randn(3, 1, 4, 4), torch.randint(2, (3, 4, 4)).to(torch.uint8)
    masks[0, 1:] = VOID
    right = (model(x).argmax(1) == masks)[masks != VOID]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    _, correct, share = optimizer_step(model, optimizer, x, masks, objective())
    assert share == pytest.approx(36 / 48)
    assert float(correct) == pytest.approx(3 * share * float(right.double().mean()))


def test_no_part_is_a_single_image() -> None:
    sizes: list[int] = []
    model = net()
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    x, y = batch(7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer_step(model, optimizer, x, y, objective(accumulate=7))
    assert sorted(sizes) == [2, 2, 3]


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_the_norm_of_all_gradients_is_limited(limit: float) -> None:
    whole = of_torch()[0]
    norm = math.sqrt(sum(float(g.square().sum()) for g in whole))
    found = gradients(Fit(clip_grad_norm=limit))[0]
    for ours, theirs in zip(found, whole, strict=True):
        assert torch.allclose(ours, theirs * min(1.0, limit / norm), atol=1e-6)


def test_the_value_of_each_gradient_is_limited() -> None:
    found = gradients(Fit(clip_grad_value=0.01, accumulate=2))[0]
    for ours, theirs in zip(found, of_torch()[0], strict=True):
        assert torch.allclose(ours, theirs.clamp(-0.01, 0.01), atol=1e-6)


def test_samples_of_the_weights_are_averaged() -> None:
    """Three draws of the same batch are three passes whose gradients, losses and answers are averaged."""
    seen: list[Tensor] = []

    class Draw(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x) * (1 + 0.5 * len(seen))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), Draw(6, 3))
    optimizer = Keeper(model.parameters(), lr=0.1)
    x, y = batch()
    twin = copy.deepcopy(model)
    found, correct, _ = optimizer_step(model, optimizer, x, y, objective(samples=3, accumulate=2))
    assert [len(images) for images in seen] == [5] * 6
    assert torch.equal(seen[0], seen[2])
    seen.clear()
    losses = [
        cross_entropy(twin(part), labels) for _ in range(3) for part, labels in zip(x.split(5), y.split(5), strict=True)
    ]
    mean = sum(losses) / 6
    mean.backward()
    assert float(found) == pytest.approx(float(mean.detach()), rel=1e-5)
    for ours, theirs in zip(optimizer.seen, twin.parameters(), strict=True):
        assert torch.allclose(ours, theirs.grad, atol=1e-6)
    assert float(correct) == pytest.approx(float((twin(x).argmax(1) == y).sum()))
