"""Models with binary layers, and whether `packed_layers_` leaves what they compute."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import onebit
from onebit.quantizers import BinaryWeight, SteSign

TOLERANCE = 1e-5
"""Of the largest output: exact sums of rounded inputs against float32 sums in some order."""


class Centered(SteSign):
    """A quantizer whose weights are ±s + c, with a scale and a center per output."""

    def decompose(self, latent: Tensor) -> BinaryWeight:
        rows = latent.detach().flatten(1)
        return BinaryWeight(super().decompose(latent).signs, rows.abs().mean(1) + 0.1, rows.mean(1))

    def forward(self, latent: Tensor) -> Tensor:
        return self.decompose(latent).dense()


class Around(nn.Module):
    """A module with one layer, so that the layer itself can be replaced."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.layer(*inputs, **options)


def binary(model: nn.Module, quantizer: Any = None, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onebit.binarize_(model, weight_quantizer=quantizer or Centered(), **options)
    return model


def tensors_of(made: Any) -> list[Tensor]:
    if isinstance(made, Tensor):
        return [made]
    if isinstance(made, PackedSequence):
        return [made.data]
    return [tensor for part in made if part is not None for tensor in tensors_of(part)]


def assert_agrees_packed(model: nn.Module, *inputs: Any, **options: Any) -> nn.Module:
    """The packed model, which gives what `model` gives."""
    model.eval()
    packed = copy.deepcopy(model)
    report = onebit.packed_layers_(packed)
    assert report.model is packed
    assert not list(onebit.layers.binary_layers(packed))
    with torch.no_grad():
        expected, found = (tensors_of(net(*inputs, **options)) for net in (model, packed))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=TOLERANCE * max(1.0, float(one.abs().max())))
    return packed
