"""Precision of matrix products in training, and memory format of images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices faster in bfloat16 than in float32.

    Intel's AVX-512 instruction for bfloat16 is at most as fast as those for float32: without tiles (AMX), ResNet-20
    trains 1.4 times as fast in float32 (docs/performance.md).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        vectors = capabilities.get("avx512_bf16") and "Intel" not in capabilities.get("cpu_name", "")
        return bool(vectors or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    return False


def resolve_precision(precision: Literal["auto", "bf16", "fp32"], device: torch.device) -> Literal["bf16", "fp32"]:
    """Resolve a precision to "bf16" or "fp32"; "auto" is bf16 where the device is faster with it.

    ±1 weights and uint8 pixels are exact in bfloat16, so a binary net loses only the rounding of activations and
    gradients.
    """
    if precision == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    return precision


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """A context in which cuDNN uses deterministic algorithms, so that resumed runs give the same bits."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def resolve_memory_format(memory_format: str, model: nn.Module) -> torch.memory_format:
    """Resolve a memory format to torch's; "auto" is channels_last for a net with convolutions.

    Convolutions are 1.2 to 2 times faster with channels last.
    """
    if memory_format == "auto":
        convolutional = any(parameter.dim() == 4 for parameter in model.parameters())
        memory_format = "channels_last" if convolutional else "contiguous"
    return torch.channels_last if memory_format == "channels_last" else torch.contiguous_format


def lay_out_state_(optimizer: torch.optim.Optimizer) -> None:
    """Give the state tensors of an optimizer the memory format of their parameters.

    torch's fused optimizers read memory linearly and assume equal formats. After `model.to(memory_format=…)`, or with a
    state saved in another format, they silently mix up the elements.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
