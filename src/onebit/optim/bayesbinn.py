"""BayesBiNN: binary nets trained by the Bayesian learning rule (Meng, Bachmann, Khan 2020, arXiv:2002.10778)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from onebit.common.fields import Positive, Share, read
from onebit.native import MOMENTUM
from onebit.optim.companion import Companion, CompanionOptimizer
from onebit.optim.one_pass import update_latent
from onebit.quantizers.bayesbinn import variance
from onebit.quantizers.chunks import in_chunks


class BayesBiNN(CompanionOptimizer):
    """BayesBiNN: the latents are λ, natural parameters of independent Bernoulli weights, p(+1) = sigmoid(2λ).

    ḡ = N·g + (λ − λ0), m ← β·m + (1 − β)·ḡ, λ ← λ − lr·m/(1 − βᵗ) (algorithm 1, and the authors' code for β), where g
    is the gradient of the mean loss with respect to λ, from the quantizer `concrete_sign`. Several Monte Carlo samples
    are several backward passes, whose gradients are averaged (`samples` of `onebit.fit`).

    With `lagged_mean`, g is divided by 1 − tanh²λ₋ + 1e-10 instead of 1 − tanh²λ + 1e-10, where λ₋ is λ of the previous
    step (in the first step, λ). The authors' code does so, algorithm 1 does not. λ₋ is part of the state.

    Args:
        groups: of `latent_groups`.
        count: N, the number of training images; more with augmentation.
        lr: of λ; None for that of the groups of latents.
        momentum: β.
        init: λ starts at ±init, with random signs; None keeps the latents.
        lagged_mean: see above.
        companion: makes the optimizer of real parameters from their groups; None for Adam.
        generator: of the random signs; None for torch's default generator.

    Raises:
        UsageError: numbers out of range, no latents, or weight decay of latents.

    Example:
        >>> optimizer = BayesBiNN(latent_groups(model, lr=1e-4), count=60_000)  # doctest: +SKIP
    """

    kept = (*CompanionOptimizer.kept, "init", "generator")

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        count: float,
        lr: float | None = None,
        momentum: float = 0.0,
        init: float | None = 10.0,
        lagged_mean: bool = False,
        companion: Companion | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        for name, value in {"count": count, "lr": lr, "init": init}.items():
            read(value, Positive | None, name=name)
        read(momentum, Share, name="momentum")
        settings = {"count": count, "momentum": momentum, "lagged_mean": lagged_mean}
        self.init, self.generator = init, generator
        super().__init__(groups, settings if lr is None else settings | {"lr": lr}, companion)

    def start_(self, latent: Tensor) -> None:
        if self.init is not None:
            latent.copy_(torch.randint(2, latent.shape, device=latent.device, generator=self.generator))
            latent.mul_(2 * self.init).sub_(self.init)

    @torch.no_grad()
    def set_prior_(self) -> None:
        """Make the current posterior the prior: λ0 ← λ. It is part of the state, and 0 by default."""
        for latent in self.latents():
            self.state[latent]["prior"] = latent.detach().clone()

    def move_(self, latent: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, rate = self.state[latent], float(group["lr"])
        if group["lagged_mean"]:
            before, state["before"] = state.get("before", latent), latent.detach().clone()
            gradient = gradient * (variance(latent.detach()) / variance(before.detach()))
        count, momentum = float(group["count"]), float(group["momentum"])
        mean = None
        if momentum:
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(latent, memory_format=torch.preserve_format)
                state["step"] = 0
            state["step"] += 1
            mean = state["momentum"]
            rate /= 1 - momentum ** state["step"]
        prior = state.get("prior")
        if prior is None:  # gradient descent with momentum and weight decay
            numbers = {"kept": momentum, "share": (1 - momentum) * count, "decay": 1 / count}
            if update_latent(MOMENTUM, latent, gradient, mean, rate=rate if momentum else rate * count, **numbers):
                return
        for x, g, *kept in in_chunks(*(each for each in (latent, gradient, mean, prior) if each is not None)):
            # with alpha, no pass needs a temporary tensor
            pull = x if prior is None else x - kept[-1]
            if momentum:
                m = kept[0].mul_(momentum).add_(g, alpha=(1 - momentum) * count).add_(pull, alpha=1 - momentum)
                x.sub_(m, alpha=rate)
            else:
                x.sub_(pull, alpha=rate).sub_(g, alpha=rate * count)


def is_posterior(groups: Iterable[dict[str, Any]]) -> bool:
    """Whether latents are trained λ: their mean magnitude is above 1, unlike that of any initialization."""
    latents = [latent.detach() for group in groups if group.get("latent") for latent in group["params"]]
    if any(latent.is_meta for latent in latents):  # settings are checked on a model without numbers
        return False
    total = sum(float(latent.abs().sum()) for latent in latents)
    return total > sum(latent.numel() for latent in latents)
