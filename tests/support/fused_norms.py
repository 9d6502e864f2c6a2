"""BatchNorm as one operation: norms, results of a pass, and counted calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onebit.layers import fused_norm
from support.kernel_inputs import drawn

Tensors = dict[str, Tensor]
SHAPE = (4, 16, 6, 6)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one with each fused operation."""
    calls: list[int] = []
    run = fused_norm._fused
    monkeypatch.setattr(fused_norm, "_fused", lambda *args, **options: calls.append(1) or run(*args, **options))
    return calls


def norm_of(shape: tuple[int, ...], **options: Any) -> nn.Module:
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1], **options)
    if norm.affine:
        with torch.no_grad():
            norm.weight.copy_(drawn(shape[1], seed=7))
            norm.bias.copy_(drawn(shape[1], seed=8))
    return norm


def results(
    call: Callable[..., Any], norm: nn.Module, x: Tensor, shortcut: Tensor | None, *gradients: Tensor
) -> Tensors:
    """What a forward and a backward pass of `call(x, norm, shortcut)` give."""
    x = x.detach().clone().requires_grad_()
    shortcut = None if shortcut is None else shortcut.detach().clone().requires_grad_()
    outs = call(x, norm, shortcut)
    outs = outs if isinstance(outs, tuple) else (outs,)
    torch.autograd.backward(outs, [g.to(outs[0].dtype) for g in gradients])
    found = {"y": outs[0].detach(), "x": x.grad}
    if shortcut is not None:
        found["shortcut"] = shortcut.grad
    found |= {f"to {name}": p.grad for name, p in norm.named_parameters()}
    found |= {name: b.clone() for name, b in norm.named_buffers()}
    return {name: value for name, value in found.items() if value is not None}
