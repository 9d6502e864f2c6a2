"""Bop against its definition, flip by flip."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from onebit.layers import BinaryLinear
from onebit.optim import Bop, latent_groups
from onebit.quantizers import Sign
from onebit.train.schedules import make_schedule
from support.latent_training import batches, bop, net, train


def one_latent(weights: list[float], **options: float) -> tuple[nn.Parameter, Bop]:
    layer = BinaryLinear(len(weights), 1, weight_quantizer="sign")
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
    return layer.weight, Bop(latent_groups(layer, lr=1.0), **options)


def move(latent: nn.Parameter, optimizer: Bop, gradient: list[float]) -> list[float]:
    latent.grad = torch.tensor([gradient])
    optimizer.step()
    return latent.detach().flatten().tolist()


def test_twenty_steps_flip_the_weights_that_the_definition_flips() -> None:
    model = net()
    optimizer = bop(model, gamma=0.05, threshold=1e-4)
    latents = [model[0].weight, model[4].weight]
    means = [[0.0] * p.numel() for p in latents]
    flips = 0
    for _, (x, y) in zip(range(20), batches(), strict=False):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        before = [p.detach().flatten().tolist() for p in latents]
        optimizer.step()
        for p, weights, mean in zip(latents, before, means, strict=True):
            found = p.detach().flatten().tolist()
            for i, (w, g) in enumerate(zip(weights, p.grad.flatten().tolist(), strict=True)):
                mean[i] = (1 - 0.05) * mean[i] + 0.05 * g
                expected = -w if mean[i] * w > 1e-4 else w
                assert found[i] == expected
                flips += expected != w
    assert flips > 100


def test_latents_start_as_signs_and_zero_is_plus_one() -> None:
    latent, _ = one_latent([0.3, -2.0, 0.0, -0.0, -1e-30])
    assert latent.detach().tolist() == [[1, -1, 1, 1, -1]]


@pytest.mark.parametrize("threshold", [0.0, 0.25, 1e-8])
def test_a_weight_flips_above_the_threshold_and_not_at_it(threshold: float) -> None:
    t = float(torch.tensor(threshold))  # as float32 holds it
    above = float(torch.nextafter(torch.tensor(t), torch.tensor(1.0))) if t else 1e-30
    latent, optimizer = one_latent([1, 1, -1, -1, 1, -1], gamma=1.0, threshold=t)
    assert move(latent, optimizer, [t, above, -t, -above, -above, above]) == [1, -1, -1, 1, 1, -1]


@pytest.mark.parametrize("size", [1e-37, 1.0, 1e38])
def test_weights_stay_exactly_one_whatever_the_mean(size: float) -> None:
    latent, optimizer = one_latent([1, 1, -1, -1], gamma=1.0, threshold=0.0)
    assert move(latent, optimizer, [size, -size, size, -size]) == [-1, 1, -1, 1]


def test_the_mean_decays_by_gamma() -> None:
    latent, optimizer = one_latent([1], gamma=0.5, threshold=0.3)
    assert move(latent, optimizer, [0.5]) == [1]  # mean 0.25
    assert move(latent, optimizer, [0.5]) == [-1]  # 0.375
    assert move(latent, optimizer, [0.5]) == [-1]  # with the weight
    assert float(optimizer.state[latent]["mean"]) == pytest.approx(0.4375)


def test_weights_scaled_through_data_after_a_step_count_by_their_signs() -> None:
    layer = BinaryLinear(2, 1, weight_quantizer="sign")
    optimizer = Bop(latent_groups(layer, lr=1.0), gamma=1.0, threshold=0.0)
    layer.weight.grad = layer.weight.detach() * torch.tensor([[1.0, -1.0]])
    before = layer.weight.detach().clone()
    optimizer.step()
    layer.weight.data.mul_(0.5)
    assert torch.equal(layer(torch.eye(2)).flatten(), (before * torch.tensor([-1.0, 1.0])).flatten())


def test_gamma_and_the_threshold_follow_their_schedules() -> None:
    optimizer = bop(net(), gamma=0.1, threshold=1e-3)
    assert all("latent_clip" not in group for group in optimizer.param_groups)
    own = {"lr": lambda step: 0.1 ** (step // 2), "threshold": lambda step: 10.0 ** (step // 3)}
    schedule = make_schedule(optimizer, lambda step: 0.5**step, own)
    found = []
    for _ in range(7):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["threshold"]))
        optimizer.step()
        schedule.step()
    assert [gamma for gamma, _ in found] == pytest.approx([0.1, 0.1, 1e-2, 1e-2, 1e-3, 1e-3, 1e-4])
    assert [threshold for _, threshold in found] == pytest.approx([1e-3] * 3 + [1e-2] * 3 + [0.1])
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.01 * 0.5**7)


def test_a_schedule_of_the_threshold_is_saved_and_resumed() -> None:
    def start() -> tuple[Bop, torch.optim.lr_scheduler.LRScheduler]:
        optimizer = bop(net(), threshold=1e-3)
        return optimizer, make_schedule(optimizer, lambda step: 1.0, {"threshold": lambda step: 10.0 ** (step // 3)})

    optimizer, schedule = start()
    for _ in range(4):
        optimizer.step()
        schedule.step()
    other, following = start()
    other.load_state_dict(optimizer.state_dict())
    following.load_state_dict(schedule.state_dict())
    assert other.param_groups[0]["threshold"] == pytest.approx(1e-2)
    for _ in range(2):
        other.step()
        following.step()
    assert other.param_groups[0]["threshold"] == pytest.approx(0.1)
    assert all(not callable(value) for value in schedule.state_dict().values())


def test_a_changed_threshold_acts_on_the_flips() -> None:
    model = net()
    optimizer = bop(model, threshold=0.0)
    optimizer.param_groups[0]["threshold"] = 1e9
    before = model[0].weight.detach().clone()
    train(model, optimizer, steps=3)
    assert torch.equal(model[0].weight, before)
    optimizer.param_groups[0]["threshold"] = 0.0
    train(model, optimizer, steps=1)
    assert not torch.equal(model[0].weight, before)


def test_only_the_signs_of_loaded_weights_count() -> None:
    latent, optimizer = one_latent([1, 1, -1, -1], gamma=1.0, threshold=0.5)
    quantizer = Sign()
    latent.detach().copy_(torch.tensor([[0.3, -0.2, 0.0, -7.0]]))
    assert quantizer(latent).tolist() == [[1, -1, 1, -1]]
    assert move(latent, optimizer, [0.1, 1.0, 1.0, 0.1]) == [1, -1, -1, -1]
    assert quantizer(latent).tolist() == [[1, -1, -1, -1]]
