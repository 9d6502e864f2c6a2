"""One optimizer with two rules: its own for latent weights, an ordinary torch optimizer for everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from onebit.errors import UsageError

Companion = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class CompanionOptimizer(torch.optim.Optimizer, ABC):
    """Base of optimizers that move latents by a rule of their own and leave other parameters to a companion.

    The groups and the state of both are in this one optimizer, so that schedules, clipping, checkpoints and hooks see
    nothing new.

    Args:
        groups: parameter groups as `latent_groups` makes them; those with `latent` follow the own rule.
        own: settings of groups of latents that do not have them.
        companion: makes the optimizer of the other groups, with their own `lr`; None for Adam.

    Raises:
        UsageError: no group of latents, or weight decay of latents.
    """

    companion: torch.optim.Optimizer | None
    lr_of_latents = True
    """Whether `lr` of groups of latents is a learning rate."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], own: Mapping[str, Any], companion: Companion | None = None
    ) -> None:
        groups = [dict(group) for group in groups]
        others = [group for group in groups if not group.get("latent")]
        name = type(self).__name__
        if len(others) == len(groups):
            raise UsageError(f"{name} moves binary weights, and there are none; take another optimizer for a real net")
        for group in groups:
            if group.get("latent"):
                if group.get("weight_decay"):
                    raise UsageError(f"{name} does not support weight decay of latents, got {group['weight_decay']!r}")
                group.update({key: value for key, value in own.items() if key == "lr" or key not in group})
        self.companion = None
        if others:
            self.companion = torch.optim.Adam(others, fused=True) if companion is None else companion(others)
        super().__init__(groups, {})
        self._share()

    def _share(self) -> None:
        """Let the companion share the groups and the state of this optimizer."""
        if self.companion is not None:
            self.companion.param_groups = [group for group in self.param_groups if not group.get("latent")]
            self.companion.state = self.state

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "companion": self.companion}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # of copies, and of groups and state that are loaded
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.companion is not None:
            self.companion.step()
        for group in self.param_groups:
            if group.get("latent"):
                for latent in group["params"]:
                    if latent.grad is not None:
                        self.move_(latent, latent.grad, group)
        return loss

    @abstractmethod
    def move_(self, latent: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """The own rule: move one latent in place; its state is `self.state[latent]`."""

    def latents(self) -> list[Tensor]:
        """The parameters that follow the own rule."""
        return [latent for group in self.param_groups if group.get("latent") for latent in group["params"]]
