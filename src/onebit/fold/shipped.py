"""The binary weights that ship of a model: those of `decompose`, or one random draw."""

from __future__ import annotations

import torch
from torch import nn

from onebit.errors import UsageError
from onebit.fold.call import check_finite
from onebit.layers import binary_layers
from onebit.quantizers import BinaryWeight


def shipped_weights(model: nn.Module, weights: str, seed: int) -> dict[nn.Module, BinaryWeight]:
    """The binary weight of everything that `binary_layers` finds. Arguments and errors: see `onebit.pack`."""
    if weights not in ("binary", "sample"):
        raise UsageError(f"got weights {weights!r}, expected 'binary' or 'sample'")
    generator = torch.Generator().manual_seed(seed)
    shipped: dict[nn.Module, BinaryWeight] = {}
    for name, layer in binary_layers(model):
        check_finite(name, "latent weights", layer.weight)
        weight = layer.binary_weight() if weights == "binary" else layer.sample_weight(generator=generator)
        if weight is None:
            kind = type(layer.weight_quantizer).__name__
            raise UsageError(f"layer {name!r}: {kind} defines no random draw; use weights='binary'")
        shipped[layer] = weight
    return shipped
