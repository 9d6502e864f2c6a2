"""A small net of binary layers, trained eagerly and with the compiled update.

Most tests compile with the backend "eager", which runs the same Python function operator by operator.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.layers import BinaryLinear, binary_layers
from onebit.optim import clip_latents_, compile_update_, latent_groups
from onebit.quantizers import Quantizer, sign

DETERMINISTIC = ("sign", "ste_sign")
STEPS = 30


def net(quantizer: Any = "sign", *, value: float = 1.0) -> nn.Sequential:
    """Three binary layers of several shapes, BatchNorm, and a real layer with a bias at the end."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((20, 33), (33, 48), (48, 16)):
        layer = BinaryLinear(inputs, outputs, weight_quantizer=quantizer, value=value)
        layers += [layer, nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16, 5))


def adam(model: nn.Module, *, lr: float = 1e-2, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(latent_groups(model, lr=lr, **options), fused=True)


def compiled(model: nn.Module, *, backend: Any = "eager", lr: float = 1e-2, **options: Any) -> torch.optim.Optimizer:
    return compile_update_(adam(model, lr=lr, **options), model, backend=backend)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, *, first: int = 0, steps: int = STEPS) -> None:
    """Steps whose data depend on their number only; the rate falls, as under a schedule."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(64, 20, generator=generator)
        F.cross_entropy(model(x), x[:, :5].argmax(dim=1)).backward()
        optimizer.step()
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] *= 0.98


def latents(model: nn.Module) -> list[Tensor]:
    return [layer.weight.detach() for _, layer in binary_layers(model)]


def quantizers(model: nn.Module) -> list[Quantizer]:
    return [layer.weight_quantizer for _, layer in binary_layers(model) if layer.weight_quantizer is not None]


def used_weights(model: nn.Module) -> list[Tensor]:
    """The weights that a forward pass multiplies with."""
    found: list[Tensor] = []
    hooks = [q.register_forward_hook(lambda _, __, weight: found.append(weight.detach())) for q in quantizers(model)]
    model(torch.randn(8, 20))
    for hook in hooks:
        hook.remove()
    return found


def assert_same_training(quantizer: str, *, backend: str, value: float = 1.0, **options: Any) -> None:
    eager, fast = net(quantizer, value=value), net(quantizer, value=value)
    train(eager, clip_latents_(adam(eager, **options)))
    train(fast, compiled(fast, backend=backend, **options))
    for (name, a), b in zip(eager.state_dict().items(), fast.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    for a, b in zip(latents(eager), latents(fast), strict=True):
        assert torch.equal(sign(a), sign(b))
    moved = [
        bool((sign(a) != sign(b)).any())
        for a, b in zip(latents(fast), latents(net(quantizer, value=value)), strict=True)
    ]
    assert all(moved)


def prepared(model: nn.Module) -> list[Any]:
    """What the last step prepared for each latent, None where it did not."""
    return [getattr(layer.weight, "prepared", None) for _, layer in binary_layers(model)]
