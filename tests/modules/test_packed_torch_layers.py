"""`packed_layers_` on torch's recurrent layers, attention and transformers."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import onebit
from onebit.errors import UsageError
from onebit.layers import BinaryConv2d
from support.fold_nets import Model
from support.packed_layers import TOLERANCE, Around, assert_agrees_packed, binary


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
        (nn.LSTM, {"bias": False}),
        (nn.GRU, {"bias": False, "bidirectional": True}),
        (nn.GRU, {"num_layers": 2}),
        (nn.RNN, {"bidirectional": True}),
    ],
)
def test_recurrent_layers(kind: Any, options: dict[str, Any]) -> None:
    net = binary(Around(kind(10, 12, **options)))
    x = torch.randn(6, 4, 10)
    assert_agrees_packed(net, x)
    assert_agrees_packed(net, x[0])
    lengths = [3, 6, 1, 4]
    packed = assert_agrees_packed(net, pack_padded_sequence(x, lengths, enforce_sorted=False))
    state = net(x)[1]
    assert_agrees_packed(net, x, state)
    assert not list(onebit.layers.binary_layers(packed))
    with pytest.raises(UsageError, match="inputs"):
        packed(torch.randn(6, 4, 11))
    with pytest.raises(UsageError, match="hx"):
        packed(x, torch.randn(7, 4, 12))


def test_recurrent_layers_of_other_forms() -> None:
    x = torch.randn(5, 4, 10)
    assert_agrees_packed(binary(Around(nn.RNN(10, 12, nonlinearity="relu"))), x)
    hx, lengths = (torch.randn(2, 4, 6), torch.randn(2, 4, 12)), [3, 5, 1, 4]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that a slower implementation runs
        assert_agrees_packed(binary(Around(nn.LSTM(10, 12, proj_size=6, num_layers=2))), x, hx)
        both = binary(Around(nn.LSTM(10, 12, proj_size=6, bidirectional=True)))
        assert_agrees_packed(both, pack_padded_sequence(x, lengths, enforce_sorted=False), hx)
    for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell):
        assert_agrees_packed(binary(Around(kind(10, 12))), x[0])
        assert_agrees_packed(binary(Around(kind(10, 12))), x[0, 0])


ATTENTION: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"batch_first": True}, {"need_weights": False, "attn_mask": torch.eye(5, dtype=torch.bool)}),
    ({"batch_first": True, "bias": False}, {"key_padding_mask": torch.tensor([[False] * 4 + [True]] * 3)}),
    ({"batch_first": True, "add_bias_kv": True, "add_zero_attn": True}, {"average_attn_weights": False}),
    (
        {"batch_first": True, "add_bias_kv": True},
        {"attn_mask": torch.randn(12, 5, 5), "key_padding_mask": torch.tensor([[False] * 4 + [True]] * 3)},
    ),
    # without weights torch takes the hint in place of the mask, which hides the added keys, too
    *(
        (
            {"batch_first": True, **more},
            {"attn_mask": torch.ones(5, 5).triu(1).bool(), "is_causal": True, "need_weights": needed},
        )
        for more in ({"add_bias_kv": True}, {"add_zero_attn": True}, {})
        for needed in (False, True)
    ),
]


@pytest.mark.parametrize(("options", "call"), ATTENTION)
def test_attention_to_itself(options: dict[str, Any], call: dict[str, Any]) -> None:
    net = binary(Around(nn.MultiheadAttention(32, 4, **options)))
    x = torch.randn(3, 5, 32) if options.get("batch_first") else torch.randn(5, 3, 32)
    if "key_padding_mask" in call and "attn_mask" in call:
        call = {**call, "key_padding_mask": torch.zeros(3, 5).masked_fill_(call["key_padding_mask"], float("-inf"))}
    assert_agrees_packed(net, x, x, x, **call)


def test_attention_to_others() -> None:
    net = binary(Around(nn.MultiheadAttention(32, 4, batch_first=True)))
    x, memory = torch.randn(3, 5, 32), torch.randn(3, 7, 32)
    assert_agrees_packed(net, x, memory, memory)
    assert_agrees_packed(net, x, memory, torch.randn(3, 7, 32))
    packed = assert_agrees_packed(net, x[0], memory[0], memory[0])
    net = binary(Around(nn.MultiheadAttention(32, 4, batch_first=True, kdim=16, vdim=8)))
    assert_agrees_packed(net, x, torch.randn(3, 7, 16), torch.randn(3, 7, 8))
    with pytest.raises(UsageError, match="attn_mask"):
        packed(x, x, x, is_causal=True)


def test_transformers_of_torch() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    hidden = torch.arange(7)[None] > torch.tensor([[6], [3], [5]])
    net, x = binary(nn.TransformerEncoder(layer, 2)), torch.randn(3, 7, 32)
    packed = assert_agrees_packed(net, x, src_key_padding_mask=hidden)
    inputs = [x.clone().requires_grad_() for _ in (net, packed)]  # other branches of torch's layers than without
    weight = torch.randn(3, 7, 32)  # the normalization makes the sum of all outputs constant
    expected, found = (
        torch.autograd.grad((one(x) * weight).sum(), x)[0] for one, x in zip((net, packed), inputs, strict=True)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed(x), net(x), rtol=0, atol=TOLERANCE * 4)
    decoder = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(7)
    assert_agrees_packed(binary(decoder), x, torch.randn(3, 5, 32), tgt_mask=mask, tgt_is_causal=True)


def test_empty_batches_and_empty_sequences() -> None:
    net = binary(Around(nn.LSTM(10, 12, bidirectional=True)))
    onebit.packed_layers_(net)
    output, (h, cell) = net(torch.randn(6, 0, 10))
    assert (output.shape, h.shape, cell.shape) == ((6, 0, 24), (2, 0, 12), (2, 0, 12))
    attention = binary(Around(nn.MultiheadAttention(32, 4, batch_first=True)))
    onebit.packed_layers_(attention)
    assert attention(*[torch.randn(0, 5, 32)] * 3)[0].shape == (0, 5, 32)
    conv = nn.Sequential(BinaryConv2d(3, 4, 3))
    onebit.packed_layers_(conv)
    assert conv(torch.randn(0, 3, 8, 9)).shape == (0, 4, 6, 7)


def test_whole_models_in_half_precision_and_exported() -> None:
    torch.manual_seed(0)
    net = binary(nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 1)).eval()
    x = torch.randn(3, 7, 32)
    onebit.packed_layers_(net)
    expected = net(x).detach()
    assert torch.equal(torch.export.export(net, (x,)).module()(x), expected)
    with torch.no_grad():
        for dtype, tolerance in ((torch.float16, 0.01), (torch.bfloat16, 0.06)):
            found = copy.deepcopy(net).to(dtype)(x.to(dtype))
            assert found.dtype == dtype
            torch.testing.assert_close(found.float(), expected, rtol=0, atol=tolerance)


def test_products_of_packed_attention_count_as_before() -> None:
    net = binary(Around(nn.MultiheadAttention(32, 4, batch_first=True, add_bias_kv=True)))
    conv = binary(nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)))
    to_itself = Model(lambda m, x: m.attention(x, x, x)[0], attention=net)
    for model, x in ((to_itself, torch.randn(2, 5, 32)), (conv, torch.randn(2, 4, 5, 6))):
        before = onebit.summary(model, x)
        onebit.packed_layers_(model)
        after = onebit.summary(model, x)
        for name in ("binary_weights", "binary_macs", "real_macs"):
            assert after.total(name) == before.total(name)
