"""The prox of ProxQuant after each step of any optimizer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from onebit.errors import UsageError
from onebit.optim import clip_latents_, latent_groups, prox_, prox_latents_
from support.latent_training import net, train


def start(growth: float = 0.05, **options: float) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    model = net("prox")
    return model, prox_latents_(torch.optim.Adam(latent_groups(model, lr=0.02)), growth=growth, **options)


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.5, 3.0])
def test_the_prox_is_the_minimum_of_its_definition(strength: float) -> None:
    """argmin over v of ½(v − w)² + strength·min(|v − 1|, |v + 1|), on a grid."""
    w = torch.linspace(-2, 2, 81, dtype=torch.float64)[torch.arange(81) != 40]  # at 0 both signs are as good
    v = torch.linspace(-2.5, 2.5, 5001, dtype=torch.float64)
    penalty = strength * torch.minimum((v - 1).abs(), (v + 1).abs())
    best = v[(0.5 * (v - w[:, None]).square() + penalty).argmin(dim=1)]
    assert torch.allclose(prox_(w.clone(), strength), best, atol=1e-3)


def test_zero_goes_to_plus_one() -> None:
    assert prox_(torch.tensor([0.0, -0.0]), 0.25).tolist() == [0.25, 0.25]
    assert prox_(torch.tensor([0.0, -0.0, -0.3]), math.inf).tolist() == [1, 1, -1]


def test_twenty_steps_are_those_of_the_optimizer_then_the_prox_then_the_clip() -> None:
    model, twin = net("prox"), net("prox")
    optimizer = prox_latents_(torch.optim.SGD(latent_groups(model, lr=0.1), momentum=0.9), growth=0.05)
    plain = torch.optim.SGD(latent_groups(twin, lr=0.1, latent_clip=None), momentum=0.9)
    for step in range(1, 21):
        train(model, optimizer, steps=1, seed=step)
        train(twin, plain, steps=1, seed=step)
        with torch.no_grad():
            for w in (twin[0].weight, twin[4].weight):
                signs = torch.where(w >= 0, 1.0, -1.0)
                off, strength = w - signs, 0.1 * 0.05 * step
                w.copy_((signs + off.sign() * (off.abs() - strength).clamp_min(0)).clamp(-1, 1))
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-4)
    assert float((model[0].weight.detach().abs() == 1).float().mean()) > 0.1


def test_the_strength_follows_the_learning_rate() -> None:
    model, optimizer = start(growth=1.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = model[0].weight.detach().clone()
    train(model, optimizer, steps=2)
    assert torch.equal(model[0].weight, before)


def test_after_the_freeze_latents_are_their_signs() -> None:
    model, optimizer = start(growth=1e-6, freeze=3)
    train(model, optimizer, steps=3)
    assert float(model[0].weight.detach().abs().max()) < 1
    signs = [model[0].weight >= 0, model[4].weight >= 0]
    train(model, optimizer, steps=3, seed=5)
    for weight, sign in zip((model[0].weight, model[4].weight), signs, strict=True):
        assert set(weight.detach().abs().unique().tolist()) == {1.0}
        assert float(((weight >= 0) != sign).float().mean()) < 0.1  # the first of these steps may still cross 0


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_after_the_freeze_no_step_is_too_long_for_a_sign(kind: Any) -> None:
    model = net("prox")
    optimizer = prox_latents_(kind(latent_groups(model, lr=30.0)), growth=0.05, freeze=2)
    train(model, optimizer, steps=3)
    weights = model[0].weight, model[4].weight
    frozen = [weight.detach().clone() for weight in weights]
    others = model[7].bias.detach().clone()
    train(model, optimizer, steps=4, seed=5)
    assert all(map(torch.equal, weights, frozen))
    assert set(frozen[0].abs().unique().tolist()) == {1.0}
    assert not torch.equal(model[7].bias, others)
    assert optimizer.param_groups[0]["prox_step"] == 7


def test_it_is_idempotent() -> None:
    model, optimizer = start()
    train(model, optimizer, steps=2)
    prox_latents_(clip_latents_(prox_latents_(optimizer, growth=0.05)), growth=0.05)
    assert len(optimizer._optimizer_step_post_hooks) == 1
    assert optimizer.param_groups[0]["prox_step"] == 2


def test_a_real_net_is_refused() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(UsageError, match="groups"):
        prox_latents_(optimizer, growth=1.0)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_grad_scaler_skips_changes_nothing(fused: bool) -> None:
    model = net("prox")
    optimizer = prox_latents_(torch.optim.Adam(latent_groups(model, lr=0.1), fused=fused), growth=10.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    group = optimizer.param_groups[0]
    [latent, *_] = group["params"]
    for finite in (False, True):
        before = latent.detach().clone()
        scaler.scale(sum(p.sum() for p in model.parameters())).backward()
        if not finite:
            latent.grad[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert torch.equal(latent, before) is not finite
        assert group["prox_step"] == finite
