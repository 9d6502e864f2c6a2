"""BayesBiNN, training of binary nets by the Bayesian learning rule (Meng, Bachmann, Khan 2020, arXiv:2002.10778)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from onebit.common.fields import Positive, Share, read
from onebit.errors import UsageError
from onebit.optim.companion import Companion, CompanionOptimizer
from onebit.optim.optimizer_table import OptimizerSetup
from onebit.quantizers.bayesbinn import variance
from onebit.quantizers.chunks import in_chunks


class BayesBiNN(CompanionOptimizer):
    """BayesBiNN: the latents are λ, natural parameters of independent Bernoulli weights, p(+1) = sigmoid(2λ).

    ḡ = N·g + (λ − λ0), m ← β·m + (1 − β)·ḡ, λ ← λ − lr·m/(1 − βᵗ) (algorithm 1, and the authors' code for β), where g
    is the gradient of the mean loss with respect to λ, as the quantizer `concrete_sign` returns it. Several Monte Carlo
    samples are several backward passes whose gradients are averaged (`samples` of `onebit.fit`).

    With `lagged_mean`, g is divided by 1 − tanh²λ₋ + 1e-10 in place of 1 − tanh²λ + 1e-10, where λ₋ is λ of the step
    before; in the first step it is λ. The authors' code does this, algorithm 1 does not. λ₋ is part of the state.

    Args:
        groups: of `latent_groups`.
        count: N, the number of training images; more for augmented ones.
        lr: of λ, in place of that in the groups of latents; None leaves it.
        momentum: β.
        init: every λ begins as ±init at random, also that of a group added later; None leaves latents as they are.
        lagged_mean: take the slope of draws from λ of the step before.
        companion: makes the optimizer of real parameters from their groups; Adam when None.
        generator: source of those signs; torch's default generator when None.

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
        own = {"count": count, "momentum": momentum, "lagged_mean": lagged_mean} | ({} if lr is None else {"lr": lr})
        self.init, self.generator = init, generator
        super().__init__(groups, own, companion)

    def start_(self, latent: Tensor) -> None:
        if self.init is not None:
            latent.copy_(torch.randint(2, latent.shape, device=latent.device, generator=self.generator))
            latent.mul_(2 * self.init).sub_(self.init)

    @torch.no_grad()
    def set_prior_(self) -> None:
        """Make the posterior of now the prior of what follows: λ0 ← λ. It is 0 before, and part of the state."""
        for latent in self.latents():
            self.state[latent]["prior"] = latent.detach().clone()

    def move_(self, latent: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, rate = self.state[latent], float(group["lr"])
        if group["lagged_mean"]:
            before, state["before"] = state.get("before", latent), latent.detach().clone()
            gradient = gradient * (variance(latent.detach()) / variance(before.detach()))
        count, momentum = float(group["count"]), float(group["momentum"])
        tensors = [latent, gradient]
        if momentum:
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(latent, memory_format=torch.preserve_format)
                state["step"] = 0
            state["step"] += 1
            tensors.append(state["momentum"])
            rate /= 1 - momentum ** state["step"]
        prior = state.get("prior")
        tensors += [] if prior is None else [prior]
        for x, g, *kept in in_chunks(*tensors):
            # x itself for a prior of 0; alpha, as no pass then needs a tensor of its own
            pull = x if prior is None else x - kept[-1]
            if momentum:
                m = kept[0].mul_(momentum).add_(g, alpha=(1 - momentum) * count).add_(pull, alpha=1 - momentum)
                x.sub_(m, alpha=rate)
            else:
                x.sub_(pull, alpha=rate).sub_(g, alpha=rate * count)


def build_bayesbinn(setup: OptimizerSetup) -> BayesBiNN:
    """The BayesBiNN of a recipe; a posterior that is given goes on, other latents begin as ±`latent_init`."""
    settings = setup.settings
    if settings.prior and not setup.initialized:
        raise UsageError(
            "optimizer.prior takes the weights that bayesbinn starts from as its prior: name them with --init_from"
        )
    optimizer = BayesBiNN(
        setup.groups,
        count=setup.count * settings.data_scale,
        lr=settings.lr,
        momentum=settings.momentum,
        init=None if setup.initialized or _is_posterior(setup.groups) else settings.latent_init,
        lagged_mean=settings.lagged_mean,
    )
    if settings.prior:
        optimizer.set_prior_()
    return optimizer


def _is_posterior(groups: Iterable[dict[str, Any]]) -> bool:
    """Whether latents are λ that were trained: their mean size is above 1, which initializations keep below."""
    latents = [latent.detach() for group in groups if group.get("latent") for latent in group["params"]]
    if any(latent.is_meta for latent in latents):  # settings are checked on a model without numbers
        return False
    total = sum(float(latent.abs().sum()) for latent in latents)
    return total > sum(latent.numel() for latent in latents)
