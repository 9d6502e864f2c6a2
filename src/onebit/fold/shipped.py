"""The binary weights that are packed: those of `decompose`, or one random draw."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from onebit.common.fields import read
from onebit.errors import FoldError, NotBinaryError, UsageError
from onebit.layers import binary_layers
from onebit.layers.description import packed_sizes
from onebit.quantizers import BinaryWeight

PackedMode = Literal["binary", "sample"]
"""Test modes that can be packed."""


def no_binary_layers(model: nn.Module) -> str:
    """The message for a model without latent weights: it never had any, or `packed_layers_` has replaced them."""
    if any(any(packed_sizes(module)) for module in model.modules()):
        return "the layers of the model hold bits already; pack a copy made before onebit.packed_layers_"
    return "the model has no binary layer; make its layers binary with onebit.binarize_ and train it"


def shipped_weights(model: nn.Module, weights: str, seed: int) -> dict[nn.Module, BinaryWeight]:
    """The binary weights of `binary_layers`. Arguments and errors: see `onebit.pack`."""
    read(weights, PackedMode, name="weights")
    generator = torch.Generator().manual_seed(seed)
    shipped: dict[nn.Module, BinaryWeight] = {}
    for name, layer in binary_layers(model):
        weight = layer.binary_weight() if weights == "binary" else layer.sample_weight(generator=generator)
        if weight is None:
            kind = type(layer.weight_quantizer).__name__
            raise UsageError(f"layer {name!r}: {kind} defines no random draw; use weights='binary'")
        parts: list[Any] = [None if x is None else x.detach().float() for x in weight]
        # one number, or (O, 1), serves as well as (O,)
        parts[1:] = [x if x is None or weight.grouped else x.flatten().expand(len(weight.signs)) for x in parts[1:]]
        if not all(x is None or x.isfinite().all() for x in (layer.weight, *parts)):
            raise NotBinaryError(f"layer {name!r}: some latent weights or scales are not finite; pack an earlier epoch")
        if not (parts[0].abs() == 1).all():
            raise NotBinaryError(f"layer {name!r}: some of its signs are not ±1")
        weight = BinaryWeight(*parts)
        if weights == "binary" and not layer.computes(weight):
            kind = type(layer.weight_quantizer).__name__
            raise FoldError(f"layer {name!r}: {kind} does not compute in eval mode what its decompose() states")
        shipped[layer] = weight
    return shipped
