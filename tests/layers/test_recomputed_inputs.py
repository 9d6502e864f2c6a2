"""`recompute_inputs_`: autograd keeps the real inputs of a layer, no signs, and gradients are the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from onebit.layers import BinaryConv1d, BinaryConv2d, BinaryConvTranspose2d, BinaryLinear, recompute_inputs_
from onebit.quantizers import INPUT_QUANTIZERS, Quantizer, sign
from support.tensors import normal

# a dense layer saves a sequence (N, T, I) as a matrix
LAYERS: list[tuple[Callable[..., Any], tuple[int, ...]]] = [
    (partial(BinaryLinear, 6, 4, bias=True), (5, 6)),
    (partial(BinaryLinear, 6, 4), (2, 3, 6)),
    (partial(BinaryConv1d, 4, 6, 3, padding=1, stride=2), (5, 4, 7)),
    (partial(BinaryConv2d, 4, 6, 3, padding=1, groups=2), (5, 4, 7, 7)),
    (partial(BinaryConv2d, 4, 6, 3, padding=1, padding_value=-1.0, stride=2), (5, 4, 7, 7)),
    (partial(BinaryConv2d, 4, 6, 3, padding=1, padding_mode="reflect"), (5, 4, 7, 7)),
    (partial(BinaryConvTranspose2d, 4, 6, 2, stride=2), (5, 4, 7, 7)),
]


class Coin(Quantizer):
    """Random ±1."""

    random = True

    def forward(self, x: Tensor) -> Tensor:
        return sign(torch.randn_like(x)) + 0 * x


def inputs(*shape: int) -> Tensor:
    return normal(*shape, seed=1).requires_grad_()


def gradients(layer: nn.Module, shape: tuple[int, ...], *, bf16: bool = False) -> list[Tensor]:
    x = inputs(*shape)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = layer(x)
    loss = (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()
    return list(torch.autograd.grad(loss, [x, *layer.parameters()]))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("quantizer", INPUT_QUANTIZERS)
def test_gradients_are_those_of_saved_signs(quantizer: str, bf16: bool) -> None:
    torch.manual_seed(0)
    for make, shape in LAYERS:
        layer = make(input_quantizer=quantizer)
        found = gradients(layer, shape, bf16=bf16)
        again = gradients(recompute_inputs_(layer), shape, bf16=bf16)
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("quantizer", ["ste_sign", "rsign"])
@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_the_signs_are_freed_after_the_product(make: Any, shape: tuple[int, ...], quantizer: str) -> None:
    layer = make(input_quantizer=quantizer)
    made: list[StorageWeakRef] = []
    quantized = layer.quantized_input

    def watched(x: Tensor) -> Tensor:
        made.append(StorageWeakRef((result := quantized(x)).untyped_storage()))
        return result

    layer.quantized_input = watched
    saved = layer(inputs(*shape))
    y = recompute_inputs_(layer)(inputs(*shape))
    assert [ref.expired() for ref in made] == [False, True]
    (saved.sum() + y.sum()).backward()


def test_inputs_without_gradient_and_random_quantizers_are_not_recomputed() -> None:
    layer = recompute_inputs_(BinaryLinear(6, 4, input_quantizer="ste_sign"))
    x = inputs(5, 6)
    for kept, given in ((True, x), (False, x.detach())):
        assert isinstance(layer.saved_as_real(given, given), nullcontext) != kept
    with torch.no_grad():
        assert isinstance(layer.saved_as_real(x, x), nullcontext)
    for quantizer in (Coin(), nn.Hardtanh(), None):
        other = recompute_inputs_(BinaryLinear(6, 4, input_quantizer=quantizer))
        assert isinstance(other.saved_as_real(x, x), nullcontext)


def test_inputs_changed_before_the_backward_pass_raise() -> None:
    layer = recompute_inputs_(BinaryLinear(6, 4, input_quantizer="ste_sign"))
    x = inputs(5, 6)
    real = x * 1
    y = layer(real)
    real.neg_()
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()
