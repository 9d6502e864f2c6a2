"""A small net trained by an optimizer with a rule of its own, in the way of `torch`."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from onebit.layers import BinaryConv2d, BinaryLinear
from onebit.optim import BayesBiNN, Bop, CompanionOptimizer, latent_groups


def net(quantizer: str = "sign", **options: Any) -> nn.Sequential:
    """Latents of a convolution and of a dense layer, and real parameters."""
    torch.manual_seed(0)
    return nn.Sequential(
        BinaryConv2d(2, 4, 3, weight_quantizer=quantizer),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        BinaryLinear(36, 8, True, weight_quantizer=quantizer),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def bop(model: nn.Module, **options: Any) -> Bop:
    return Bop(latent_groups(model, lr=0.01), **({"gamma": 0.1, "threshold": 1e-5} | options))


def bayesbinn(model: nn.Module, **options: Any) -> BayesBiNN:
    return BayesBiNN(latent_groups(model, lr=0.01), **({"count": 100, "lr": 1e-3, "momentum": 0.9} | options))


OPTIMIZERS: dict[str, tuple[str, Callable[..., CompanionOptimizer]]] = {
    "bop": ("sign", bop),
    "bayesbinn": ("concrete_sign", bayesbinn),
}


def batches(seed: int = 1) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for step in itertools.count():
        torch.manual_seed(step)  # draws of the weights
        yield torch.randn(16, 2, 5, 5, generator=generator), torch.randint(3, (16,), generator=generator)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int, seed: int = 1) -> None:
    for x, y in itertools.islice(batches(seed), steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def parameters(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)
