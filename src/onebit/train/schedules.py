"""Learning-rate schedules: one factor per step, which torch's LambdaLR applies to each parameter group.

A factor keeps the scale of each group (`latent_groups(lr_scale=...)`); schedulers that write absolute rates
(OneCycleLR, CyclicLR, cosine with eta_min) lose it.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from onebit.common.tables import did_you_mean
from onebit.errors import UsageError
from onebit.optim.settings import StepPlan
from onebit.train.settings import SCHEDULES, Schedule

Factor = Callable[[int], float]
"""Step -> factor."""
ONE_CYCLE_START = 1 / 25
"""Factor at which one_cycle begins."""


def schedule_factor(
    name: str,
    *,
    total_steps: int,
    warmup_steps: int = 0,
    final: float = 0.0,
    gamma: float = 0.1,
    milestones: Sequence[int] = (),
) -> Factor:
    """The factor of the learning rate by step.

    After a linear warm-up over `warmup_steps`, with progress p in [0, 1] through the remaining steps:
    constant 1; linear 1 − (1 − final)·p; cosine final + (1 − final)(1 + cos πp)/2; exponential final^p;
    milestones and step gammaⁿ after n of the `milestones`. one_cycle (Smith, Topin 2017, arXiv:1708.07120) rises by
    half a cosine from 1/25 to 1 over the warm-up, 30 % of all steps when none is given, and falls as cosine.

    Args:
        total_steps, warmup_steps, milestones: in optimizer steps.
        final: factor at the end.
    """
    if name not in SCHEDULES or name == "plateau":  # which depends on figures, not on steps
        raise UsageError(f"no factor of schedule {name!r}{did_you_mean(name, SCHEDULES)}")
    if (warmup_steps and warmup_steps >= total_steps) or (name == "exponential" and not final > 0):
        raise UsageError(
            f"got a warm-up of {warmup_steps} steps and the final factor {final:g}, expected fewer than {total_steps} "
            "steps and, of an exponential schedule, a factor above 0"
        )
    marks = sorted(milestones)
    if name == "one_cycle" and not warmup_steps:
        warmup_steps = round(0.3 * total_steps)

    def factor(step: int) -> float:
        if step < warmup_steps and name == "one_cycle":
            return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - math.cos(math.pi * step / warmup_steps)) / 2
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        p = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        if name == "linear":
            return 1 - (1 - final) * p
        if name in ("cosine", "one_cycle"):
            return final + (1 - final) * (1 + math.cos(math.pi * p)) / 2
        if name == "exponential":
            return final**p
        if name in ("step", "milestones"):
            return gamma ** bisect.bisect_right(marks, step)
        return 1.0

    return factor


class _SettingsSchedule(torch.optim.lr_scheduler.LambdaLR):
    """LambdaLR that also multiplies other settings of the groups that have them."""

    def __init__(self, optimizer: torch.optim.Optimizer, factors: list[Factor], others: Mapping[str, Factor]) -> None:
        self._others = others
        for group in optimizer.param_groups:
            for name in others:
                if name in group:
                    group.setdefault(f"initial_{name}", group[name])
        super().__init__(optimizer, factors)

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        for group in self.optimizer.param_groups:
            for name, factor in self._others.items():
                if name in group:
                    group[name] = group[f"initial_{name}"] * factor(self.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict().items() if name != "_others"}


def make_schedule(
    optimizer: torch.optim.Optimizer,
    factor: Factor,
    factors: Mapping[str, Factor] = MappingProxyType({}),
) -> torch.optim.lr_scheduler.LRScheduler:
    """A torch scheduler, stepped once per optimizer step, that multiplies the rate of each group by `factor(step)`.

    Args:
        factors: setting of a group -> its factor; "lr" is the rate of latents.
    """
    others = {name: value for name, value in factors.items() if name != "lr"}
    latents = factors.get("lr", factor)
    rates = [latents if group.get("latent") else factor for group in optimizer.param_groups]
    if others:
        return _SettingsSchedule(optimizer, rates, others)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, rates)


def build_schedule(
    settings: Schedule,
    optimizer: torch.optim.Optimizer,
    plan: StepPlan,
    *,
    rate: float,
    factors: Mapping[str, Factor] = MappingProxyType({}),
) -> torch.optim.lr_scheduler.LRScheduler:
    """The torch scheduler of an optimizer; epochs become optimizer steps.

    Args:
        rate: the learning rate of which `final_lr` is a part.
        factors: see `Optimizer.factors`.
    """
    final = settings.final_lr / rate
    if settings.name == "plateau":
        if factors:
            raise UsageError("optimizer.decay_epochs does not belong to schedule plateau")
        least = [final * group["lr"] for group in optimizer.param_groups]
        kept: dict[str, Any] = {"patience": settings.patience, "min_lr": least, "eps": 0.0, "threshold": 0.0}
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=settings.gamma, **kept)
    marks, total_steps = settings.milestones, max(1, plan.steps)
    if settings.name == "step" and settings.step_size:
        marks = tuple(settings.step_size * i for i in range(1, int(plan.epochs / settings.step_size) + 1))
    factor = schedule_factor(
        settings.name,
        total_steps=total_steps,
        warmup_steps=min(round(settings.warmup * plan.steps_per_epoch), total_steps - 1),  # both are rounded
        final=final,
        gamma=settings.gamma,
        milestones=[round(epoch * plan.steps_per_epoch) for epoch in marks],
    )
    return make_schedule(optimizer, factor, factors)
