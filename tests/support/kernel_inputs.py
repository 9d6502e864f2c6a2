"""Inputs of the kernels of a training step, the threads and instruction sets that run them, and fused BatchNorm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onebit.layers import fused_norm
from onebit.native import instruction_sets

DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, params=["default", "threads", *instruction_sets()])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread, three, and each instruction set."""
    threads, patch = torch.get_num_threads(), pytest.MonkeyPatch()
    torch.set_num_threads(3 if request.param == "threads" else 1)
    if request.param in instruction_sets():
        patch.setenv("ONEBIT_ISA", request.param)
    yield
    torch.set_num_threads(threads)
    patch.undo()


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Normal numbers in channels_last."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


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
