"""Training health: which binary weights flipped, how many latents sit at their bound."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from onebit.layers import binary_layers


def binary_signs(model: nn.Module) -> dict[str, Tensor]:
    """Name -> boolean tensor (True = +1) of what ships of each binary layer."""
    return {name: layer.binary_weight().signs > 0 for name, layer in binary_layers(model)}


def flip_ratio(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """Share of binary weights whose sign differs between two readings of `binary_signs`; 0 for a net without any.

    Counts are summed over layers, then divided.
    """
    flips = sum(int(torch.count_nonzero(before[name] != after[name])) for name in after)
    count = sum(signs.numel() for signs in after.values())
    return flips / count if count else 0.0


def saturation(model: nn.Module) -> float:
    """Share of latent weights at or beyond their bound, over the layers whose quantizer has one; 0 without any."""
    saturated = count = 0
    for _, layer in binary_layers(model):
        bound = layer.weight_quantizer.latent_bound if layer.weight_quantizer is not None else None
        if bound is not None:
            saturated += int(torch.count_nonzero(layer.weight.detach().abs() >= bound))
            count += layer.weight.numel()
    return saturated / count if count else 0.0
