"""What every kind of binary layer promises with every quantizer and method. A new row of a table needs no line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import onebit
from onebit.data import Dataset, make_toy
from onebit.layers import (
    BINARY_TWINS,
    PARAMETRIZED,
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose1d,
    BinaryConvTranspose2d,
    BinaryLayer,
    BinaryLinear,
    InputCoding,
    binarize_,
    binary_layers,
    latent_keys,
)
from onebit.optim import clip_latents_, latent_groups
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import methods
from support.covering import covering
from support.layer_kinds import LAYERS, First
from support.tensors import normal


def made(kind: str, quantizer: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """(binary net, the real net that it was made from, a batch)."""
    torch.manual_seed(0)
    build, shape = LAYERS[kind]
    plain = First(build())
    return binarize_(copy.deepcopy(plain), weight_quantizer=quantizer).model, plain, normal(*shape)


def test_every_kind_of_layer_is_here() -> None:
    assert {type(build()) for build, _ in LAYERS.values()} == BINARY_TWINS.keys() | PARAMETRIZED.keys()


@pytest.mark.parametrize(("kind", "quantizer"), covering(product(LAYERS, WEIGHT_QUANTIZERS)))
def test_a_weight_quantizer_and_a_kind_of_layer(kind: str, quantizer: str) -> None:
    net, plain, x = made(kind, quantizer)
    # a step of training moves every latent matrix
    before = {name: layer.weight.detach().clone() for name, layer in binary_layers(net)}
    optimizer = clip_latents_(torch.optim.Adam(latent_groups(net, lr=0.05)))
    (net.train()(x) * normal(*net(x).shape, seed=1)).sum().backward()
    optimizer.step()
    for name, layer in binary_layers(net):
        assert bool(layer.weight.grad.isfinite().all())
        assert not torch.equal(layer.weight, before[name]), name
    # what eval mode computes is what ships
    net.eval()
    state = {key: value for key, value in net.state_dict().items() if "quantizer." not in key}
    for key, (plain_key, _, layer) in latent_keys(net).items():
        del state[key]
        state[plain_key] = layer.dense(layer.binary_weight())
    plain.load_state_dict(state)
    torch.testing.assert_close(net(x), plain.eval()(x))
    # state_dict and copies
    again, _, _ = made(kind, quantizer)
    again.load_state_dict(net.state_dict())
    for twin in (again.eval(), copy.deepcopy(net)):
        assert twin.state_dict().keys() == net.state_dict().keys()
        assert all(torch.equal(value, net.state_dict()[key]) for key, value in twin.state_dict().items())
        assert torch.equal(twin(x), net(x))


BUILT: dict[str, tuple[Callable[..., Any], tuple[int, ...], int]] = {
    "linear": (lambda **options: BinaryLinear(6, 4, **options), (3, 6), -1),
    "linear of a sequence": (lambda **options: BinaryLinear(6, 4, **options), (3, 5, 6), -1),
    "conv1d": (lambda **options: BinaryConv1d(6, 4, 3, **options), (3, 6, 5), 1),
    "conv2d": (lambda **options: BinaryConv2d(6, 4, 3, **options), (3, 6, 5, 4), 1),
    "transposed 1d": (lambda **options: BinaryConvTranspose1d(6, 4, 3, **options), (3, 6, 5), 1),
    "transposed 2d": (lambda **options: BinaryConvTranspose2d(6, 4, 3, **options), (3, 6, 5, 4), 1),
}


@pytest.mark.parametrize(("name", "quantizer"), covering(product(BUILT, INPUT_QUANTIZERS)))
def test_an_input_quantizer_and_a_kind_of_layer(name: str, quantizer: str) -> None:
    build, shape, axis = BUILT[name]
    layer: BinaryLayer = build(input_quantizer=quantizer)
    inputs: Any = layer.input_quantizer
    with torch.no_grad():
        for parameter in inputs.parameters():
            parameter.copy_(torch.linspace(-0.8, 0.9, parameter.numel()).view_as(parameter))
    x = normal(*shape).requires_grad_()
    quantized = layer.eval().quantized_input(x)
    integers = inputs.integer_input()
    shift, scale, centre = inputs.binary_input() or (None, None, None)
    for channel in range(6):  # what the quantizer states, channel by channel
        part, found = x.select(axis, channel), quantized.select(axis, channel)
        if integers is not None:
            step, least, most = integers
            assert torch.equal(found, (part / step).round().clamp(least, most) * step)
            continue
        moved = part if shift is None else part - (shift[channel] if shift.dim() else shift)
        expected = onebit.sign(moved) * (1 if scale is None else scale) + (0 if centre is None else centre)
        assert torch.equal(found, expected)
    layer.train()(x).square().sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in inputs.parameters())


class Sequences(nn.Module):
    """Rows of an image as a sequence: attention, LSTM and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.coding = InputCoding()
        self.embed = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(self.coding(x).squeeze(1) / 255)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(self.lstm(x)[0][:, -1])


@pytest.mark.parametrize("method", methods())
def test_every_method_trains_a_net_of_sequences(method: str) -> None:
    torch.manual_seed(0)
    train, test = make_toy(64, 32)
    data = Dataset("toy", train, test, test, tuple("abcd"))
    net = Sequences()
    before = {name: p.detach().clone() for name, p in net.named_parameters() if p.dim() == 2}
    trainer = onebit.Trainer(net, method, epochs=1, batch_size=32, device="cpu", precision="fp32")
    (epoch,) = trainer.fit(data)
    assert epoch.step == 2
    assert np.isfinite(epoch.train_loss)
    if method == "real":
        assert not list(binary_layers(net))
        return
    latents = {latent.plain_key: latent.layer.weight for latent in latent_keys(net).values()}
    assert latents.keys() == before.keys()
    assert all(not torch.equal(latent, before[name]) for name, latent in latents.items())
    score = trainer.evaluate()
    assert (score.weights, score.count) == ("binary", 32)
    assert set(epoch.layers) == {name for name, _ in binary_layers(net)}
