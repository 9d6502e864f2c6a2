"""Which number format the matrix products of training use."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from onebit.errors import UsageError

PRECISIONS = ("auto", "bf16", "fp32")


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively; a CPU without that is slower than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    return False


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "bf16" or "fp32" for a stated precision; "auto" is bf16 where the device multiplies it natively.

    ±1 weights and uint8 pixels are exact in bfloat16, so a binary net loses only the rounding of activations and
    gradients.

    Raises:
        UsageError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    return precision


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context in which a forward pass of the resolved precision runs."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
