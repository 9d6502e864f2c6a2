"""Recurrent layers, as operations of each time step, and torch's attention and transformers pack whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import onebit
from onebit.errors import FoldError
from onebit.export import export_net
from onebit.packed import costs, dumps, loads
from onebit.packed.net import float32_bytes
from support.fold_nets import Model, assert_answers, inputs_of

STEPS, FEATURES, WIDTH = 5, 6, 8
CAUSAL = nn.Transformer.generate_square_subsequent_mask(STEPS)


def last_states(net: Any, x: Tensor) -> Tensor:
    states = net.layer(x)[1]
    return torch.cat(
        [one[index] for one in (states if isinstance(states, tuple) else [states]) for index in (-2, -1)], 1
    )


def from_zeros(net: Any, x: Tensor) -> Tensor:
    h = torch.zeros(len(x), WIDTH)
    state = (h, h) if isinstance(net.layer, nn.LSTMCell) else h
    for at in range(STEPS):
        state = net.layer(x[:, at], state)
    return state[0] if isinstance(state, tuple) else state


def given(net: Any, x: Tensor) -> Tensor:
    return net.layer(x, net.other(x)[1])[0]


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any, Tensor], Tensor]]] = {
    "LSTM": (lambda: nn.LSTM(FEATURES, WIDTH, batch_first=True), lambda net, x: net.layer(x)[0]),
    "GRU": (lambda: nn.GRU(FEATURES, WIDTH, batch_first=True), lambda net, x: net.layer(x)[0][:, -1]),
    "RNN": (lambda: nn.RNN(FEATURES, WIDTH, nonlinearity="relu"), lambda net, x: net.layer(x.transpose(0, 1))[0][-1]),
    "both ways": (lambda: nn.LSTM(FEATURES, WIDTH, batch_first=True, bidirectional=True, num_layers=2), last_states),
    "without bias": (lambda: nn.GRU(FEATURES, WIDTH, bias=False, batch_first=True), lambda net, x: net.layer(x)[0]),
    "projected": (lambda: nn.LSTM(FEATURES, WIDTH, proj_size=3, batch_first=True), lambda net, x: net.layer(x)[0]),
    "LSTM cell": (lambda: nn.LSTMCell(FEATURES, WIDTH), from_zeros),
    "GRU cell": (lambda: nn.GRUCell(FEATURES, WIDTH), from_zeros),
    "RNN cell": (lambda: nn.RNNCell(FEATURES, WIDTH), lambda net, x: net.layer(x[:, 0])),
    "attention": (
        lambda: nn.MultiheadAttention(FEATURES, 2),
        lambda net, x: net.layer(*3 * [x.transpose(0, 1)], average_attn_weights=False)[1],
    ),
    "attention of three widths": (
        lambda: nn.MultiheadAttention(FEATURES, 2, kdim=4, vdim=3, bias=False, batch_first=True),
        lambda net, x: net.layer(x, x[..., :4], x[..., :3])[0],
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(FEATURES, 2, 12, activation="gelu"), 2, enable_nested_tensor=False
        ),
        lambda net, x: net.layer(x.transpose(0, 1)).transpose(0, 1),
    ),
    "causal encoder": (
        lambda: nn.TransformerEncoderLayer(FEATURES, 2, 12, batch_first=True, norm_first=True),
        lambda net, x: net.layer(x, src_mask=CAUSAL, is_causal=True),
    ),
    "decoder": (
        lambda: nn.TransformerDecoderLayer(FEATURES, 2, 12, batch_first=True),
        lambda net, x: net.layer(x, x[:, :3], tgt_mask=CAUSAL),
    ),
    "states": (lambda: nn.LSTM(FEATURES, WIDTH, batch_first=True), given),
}


def made(name: str) -> tuple[nn.Module, Any, Any]:
    make, function = LAYERS[name]
    torch.manual_seed(0)
    net = Model(function, layer=make(), other=make()).eval()
    onebit.binarize_(net, weight_quantizer="xnor")
    inputs = inputs_of((STEPS, FEATURES), count=3)
    return net, onebit.pack(net, torch.from_numpy(inputs)), inputs


@pytest.mark.parametrize("name", LAYERS)
def test_it_answers_as_torch(name: str) -> None:
    net, packed, inputs = made(name)
    assert_answers(net, packed, inputs)


def test_weights_count_once_and_are_stored_once() -> None:
    _, packed, inputs = made("LSTM")
    weights, bias = 4 * WIDTH * (FEATURES + WIDTH), 4 * WIDTH
    assert sum(row.binary_weights for row in costs(packed)) == weights
    assert float32_bytes(packed) <= 4 * (weights + 5 * bias + 4 * WIDTH)
    back = loads(dumps(packed))
    assert back.repeats == packed.repeats
    assert len(packed.repeats) >= 2 * (STEPS - 2)
    np.testing.assert_array_equal(onebit.run(back, inputs), onebit.run(packed, inputs))


@pytest.mark.parametrize("target", ["onnx", "torch", "c", "html"])
def test_exports_agree(target: str, tmp_path: Path) -> None:
    """`export_net` compares outputs."""
    name = {"onnx": "net.onnx", "torch": "net.pth", "c": "net", "html": "net.html"}[target]
    export_net(made("GRU")[1], target, tmp_path / name)
    if target == "c":
        assert (tmp_path / name / "net_weights.h").read_text().count("_signs[") == 2


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.layer(x)[0],  # samples as time steps
        lambda net, x: net.layer(x[:, 0])[0],
        lambda net, x: net.layer(nn.utils.rnn.pack_padded_sequence(x, [5, 3]))[0].data,
    ],
)
def test_samples_are_never_time_steps(function: Any) -> None:
    net = Model(function, layer=nn.LSTM(FEATURES, WIDTH), other=nn.Linear(2, 2)).eval()
    onebit.binarize_(net)
    with pytest.raises(FoldError):
        onebit.pack(net, torch.zeros(2, STEPS, FEATURES))


class RNN(nn.Linear):
    """Another module with the name of one of torch's."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def test_modules_of_the_same_name_are_followed() -> None:
    torch.manual_seed(0)
    net = Model(lambda net, x: net.layer(net.first(x)), first=nn.Linear(FEATURES, WIDTH), layer=RNN(WIDTH, 3)).eval()
    onebit.binarize_(net, where=lambda name, module: name == "first")
    inputs = inputs_of((FEATURES,), count=3)
    assert_answers(net, onebit.pack(net, torch.from_numpy(inputs)), inputs)


@pytest.mark.parametrize(
    "layer", [nn.LSTM(FEATURES, 6, batch_first=True), nn.MultiheadAttention(FEATURES, 2, add_bias_kv=True)]
)
def test_a_refusal_names_the_layer(layer: nn.Module) -> None:
    """Of a layer with a hook, and of other attention."""
    is_attention = isinstance(layer, nn.MultiheadAttention)
    net = Model(lambda net, x: net.layer(*[x] * (3 if is_attention else 1))[0], layer=layer).eval()
    onebit.binarize_(net)
    if not is_attention:
        net.layer.register_forward_hook(lambda module, args, output: output)
    with pytest.raises(FoldError, match="MultiheadAttention" if is_attention else "LSTM"):
        onebit.pack(net, torch.zeros(2, STEPS, FEATURES))
