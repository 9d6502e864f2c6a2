"""Schedules against closed forms and against torch's own schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from onebit.errors import UsageError
from onebit.layers import BinaryLinear, glorot_bound
from onebit.optim import latent_groups
from onebit.train.schedules import make_schedule, schedule_factor

TOTAL = 40
FINAL = 0.02
MARKS = (10, 25, 25)

# name -> the factor after a share p of training, or after so many steps
CLOSED: dict[str, Callable[[int, float], float]] = {
    "constant": lambda step, p: 1.0,
    "linear": lambda step, p: 1 + (FINAL - 1) * p,
    "cosine": lambda step, p: FINAL + (1 - FINAL) * (1 + math.cos(math.pi * p)) / 2,
    "exponential": lambda step, p: math.exp(p * math.log(FINAL)),
    "milestones": lambda step, p: 0.3 ** sum(step >= mark for mark in MARKS),
    "step": lambda step, p: 0.3 ** sum(step >= mark for mark in MARKS),
    "one_cycle": lambda step, p: FINAL + (1 - FINAL) * (1 + math.cos(math.pi * p)) / 2,
}


def factor(name: str, **options: Any) -> Callable[[int], float]:
    return schedule_factor(
        name, **({"total_steps": TOTAL, "final": FINAL, "gamma": 0.3, "milestones": MARKS} | options)
    )


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("warmup", [0, 1, 8])
def test_each_schedule_is_its_closed_form_after_its_warm_up(name: str, warmup: int) -> None:
    found = factor(name, warmup_steps=warmup)
    if name == "one_cycle" and not warmup:
        warmup = 12  # 30 %
    for step in range(TOTAL + 3):
        p = min(1, (step - warmup) / (TOTAL - warmup))
        rise = (step + 1) / (warmup + 1)
        if name == "one_cycle":
            rise = 1 / 25 + 24 / 25 * (1 - math.cos(math.pi * step / max(1, warmup))) / 2
        expected = rise if step < warmup else CLOSED[name](step, p)
        assert found(step) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", CLOSED)
def test_every_schedule_keeps_the_glorot_factor(name: str) -> None:
    model = torch.nn.Sequential(BinaryLinear(6, 4), BinaryLinear(4, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(latent_groups(model, lr=0.1, lr_scale="glorot"))
    schedule = make_schedule(optimizer, factor(name, warmup_steps=4))
    for _ in range(TOTAL):
        first, second, other = (group["lr"] for group in optimizer.param_groups)
        assert first / other == pytest.approx(1 / glorot_bound(model[0].weight), rel=1e-12)
        assert second / other == pytest.approx(1 / glorot_bound(model[1].weight), rel=1e-12)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "cosine"),
        ("plateau", {}, "plateau"),
        ("cosine", {"warmup_steps": 40}, "warm-up"),
        ("exponential", {"final": 0.0}, "final"),
    ],
)
def test_wrong_schedules_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        factor(name, **options)
