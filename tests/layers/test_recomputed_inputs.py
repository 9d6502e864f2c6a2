"""`recompute_inputs_`: autograd keeps the real inputs of a layer, no signs, and gradients are the same."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from onebit.layers import BinaryConv1d, BinaryConv2d, BinaryConvTranspose2d, BinaryLinear, recompute_inputs_
from onebit.quantizers import INPUT_QUANTIZERS, Quantizer, sign
from support.tensors import normal

LAYERS: list[tuple[Any, tuple[int, ...], dict[str, Any]]] = [
    (BinaryLinear, (6, 4), {"bias": True}),
    (BinaryConv1d, (4, 6, 3), {"padding": 1, "stride": 2}),
    (BinaryConv2d, (4, 6, 3), {"padding": 1, "groups": 2}),
    (BinaryConv2d, (4, 6, 3), {"padding": 1, "padding_value": -1.0, "stride": 2}),
    (BinaryConv2d, (4, 6, 3), {"padding": 1, "padding_mode": "reflect"}),
    (BinaryConvTranspose2d, (4, 6, 2), {"stride": 2}),
]


class Coin(Quantizer):
    """Random ±1."""

    random = True

    def forward(self, x: Tensor) -> Tensor:
        return sign(torch.randn_like(x)) + 0 * x


def inputs(layer: Any) -> Tensor:
    shape = (5, 6) if isinstance(layer, BinaryLinear) else (5, 4, *[7] * layer.axes)
    return normal(*shape, seed=1).requires_grad_()


def gradients(layer: nn.Module, *, bf16: bool = False) -> list[Tensor]:
    x = inputs(layer)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = layer(x)
    loss = (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()
    return list(torch.autograd.grad(loss, [x, *layer.parameters()]))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("quantizer", INPUT_QUANTIZERS)
def test_gradients_are_those_of_saved_signs(quantizer: str, bf16: bool) -> None:
    torch.manual_seed(0)
    for kind, sizes, options in LAYERS:
        layer = kind(*sizes, input_quantizer=quantizer, **options)
        found = gradients(layer, bf16=bf16)
        again = gradients(recompute_inputs_(layer), bf16=bf16)
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize(("kind", "sizes", "options"), LAYERS)
def test_the_signs_are_freed_after_the_product(kind: Any, sizes: tuple[int, ...], options: dict[str, Any]) -> None:
    layer = recompute_inputs_(kind(*sizes, input_quantizer="ste_sign", **options))
    made: list[StorageWeakRef] = []
    quantized = layer.quantized_input

    def watched(x: Tensor) -> Tensor:
        made.append(StorageWeakRef((result := quantized(x)).untyped_storage()))
        return result

    layer.quantized_input = watched
    y = layer(inputs(layer))
    assert [ref.expired() for ref in made] == [True]
    y.sum().backward()


def test_inputs_without_gradient_and_random_quantizers_are_not_recomputed() -> None:
    layer = recompute_inputs_(BinaryLinear(6, 4, input_quantizer="ste_sign"))
    x = inputs(layer)
    for kept, given in ((True, x), (False, x.detach())):
        assert isinstance(layer.saved_as_real(given, given), nullcontext) != kept
    with torch.no_grad():
        assert isinstance(layer.saved_as_real(x, x), nullcontext)
    for quantizer in (Coin(), nn.Hardtanh(), None):
        other = recompute_inputs_(BinaryLinear(6, 4, input_quantizer=quantizer))
        assert isinstance(other.saved_as_real(x, x), nullcontext)


def test_inputs_changed_before_the_backward_pass_raise() -> None:
    layer = recompute_inputs_(BinaryLinear(6, 4, input_quantizer="ste_sign"))
    x = inputs(layer)
    real = x * 1
    y = layer(real)
    real.neg_()
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()


@pytest.mark.parametrize("quantizer", ["ste_sign", "rsign"])
def test_sequences_are_recomputed_too(quantizer: str) -> None:
    """A dense layer saves (N, T, I) as a matrix."""
    x = normal(2, 3, 6, seed=1).requires_grad_()
    layer = BinaryLinear(6, 4, input_quantizer=quantizer)
    found = []
    for recompute in (False, True):
        recompute_inputs_(layer, recompute)
        made: list[StorageWeakRef] = []
        quantized = type(layer).quantized_input

        def watched(x: Tensor) -> Tensor:
            made.append(StorageWeakRef((result := quantized(layer, x)).untyped_storage()))  # noqa: B023
            return result

        layer.quantized_input = watched  # type: ignore[method-assign]
        y = layer(x)
        assert [ref.expired() for ref in made] == [recompute]
        found.append(torch.autograd.grad((y * torch.linspace(-1, 1, 4)).sum(), [x, *layer.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
