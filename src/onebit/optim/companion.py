"""Optimizers with two rules: one for latent weights, and a torch optimizer for all other parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from onebit.errors import UsageError

Companion = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class CompanionOptimizer(torch.optim.Optimizer, ABC):
    """Base of optimizers with an update rule for latents; a companion updates the other parameters.

    This optimizer holds the groups and the state of both, so that schedules, clipping, checkpoints and hooks work as
    with any optimizer.

    Args:
        groups: parameter groups of `latent_groups`; those with `latent` follow the rule.
        own: default settings of groups of latents.
        companion: makes the optimizer of the other groups; None for Adam.

    Raises:
        UsageError: no group of latents, or weight decay of latents.
    """

    companion: torch.optim.Optimizer | None
    lr_of_latents = True
    """Whether `lr` of groups of latents is a learning rate."""
    kept: tuple[str, ...] = ("companion", "own", "make_companion")
    """Attributes in copies and pickles, besides those of torch."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], own: Mapping[str, Any], companion: Companion | None = None
    ) -> None:
        groups = [dict(group) for group in groups]
        if not any(group.get("latent") for group in groups):
            raise UsageError(f"{type(self).__name__} trains binary weights: got no group of latents")
        self.own, self.make_companion, self.companion = dict(own), companion, None
        super().__init__(groups, {})

    @torch.no_grad()
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of latents, which gets the default settings, or of other parameters, for the companion.

        Latents without a rate `lr` get that of the first group of latents.

        Raises:
            UsageError: weight decay of latents.
        """
        if param_group.get("latent"):
            if param_group.get("weight_decay"):
                raise UsageError(f"{type(self).__name__} does not support weight decay of latents")
            param_group.update({key: value for key, value in self.own.items() if key == "lr" or key not in param_group})
            first = next((group for group in self.param_groups if group.get("latent")), param_group)
            param_group.setdefault("lr", first["lr"])
        super().add_param_group(param_group)
        if param_group.get("latent"):
            for latent in param_group["params"]:
                if latent.requires_grad:  # frozen latents keep their values
                    self.start_(latent)
        elif self.companion is None:
            make, self.make_companion = self.make_companion, None
            self.companion = torch.optim.Adam([param_group], fused=True) if make is None else make([param_group])
        else:
            self.companion.add_param_group(param_group)
        self._share()

    def start_(self, latent: Tensor) -> None:
        """Initialize a latent in place; by default it keeps its values."""

    def _share(self) -> None:
        """Share groups and state with the companion."""
        if self.companion is not None:
            self.companion.param_groups = [group for group in self.param_groups if not group.get("latent")]
            self.companion.state = self.state

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{key: getattr(self, key) for key in self.kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # also when a state_dict is loaded
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
        """The rule: update a latent in place; its state is `self.state[latent]`."""

    def latents(self) -> list[Tensor]:
        """The parameters that follow the rule."""
        return [latent for group in self.param_groups if group.get("latent") for latent in group["params"]]
