"""Binary embeddings: rows of the weight that ships, gradients of the rows that are read, and heads that share them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import onebit
from onebit.errors import UsageError
from onebit.evaluation.counts import model_size
from onebit.evaluation.modes import fixed_weights
from onebit.layers import BinaryEmbedding
from onebit.quantizers import WEIGHT_QUANTIZERS, MagnitudeAware, SteSign

TOKENS = torch.tensor([[0, 3, 3], [5, 0, 3]])


class ByLayer(SteSign):
    """One scale for the whole weight, so that rows depend on each other."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * x.detach().abs().mean()

    def decompose(self, latent: Tensor) -> Any:
        return super().decompose(latent)._replace(scale=latent.detach().abs().mean().reshape(1))


@pytest.mark.parametrize("name", [*WEIGHT_QUANTIZERS, ByLayer])
@pytest.mark.parametrize("training", [False, True])
def test_rows_and_gradients_are_those_of_the_whole_weight(name: Any, training: bool) -> None:
    torch.manual_seed(0)
    layer = BinaryEmbedding(7, 16, weight_quantizer=name).train(training)
    direction = torch.randn(2, 3, 16)
    torch.manual_seed(1)  # of draws
    rows = layer(TOKENS)
    (gradient,) = torch.autograd.grad((rows * direction).sum(), layer.weight)
    torch.manual_seed(1)
    whole = layer.effective_weight()
    (expected,) = torch.autograd.grad((whole[TOKENS] * direction).sum(), layer.weight)
    torch.testing.assert_close(rows, whole[TOKENS])
    torch.testing.assert_close(gradient, expected)
    if not training:
        torch.testing.assert_close(rows, layer.binary_weight().dense()[TOKENS].detach())
    if name in ("sign", "xnor"):
        assert not gradient[[1, 2, 4, 6]].any()


def test_groups_have_their_scales_and_autocast_rounds_nothing() -> None:
    layer = BinaryEmbedding(7, 256, weight_quantizer=MagnitudeAware(group=128))
    scale = layer.weight.detach().view(7, 2, 128).abs().mean(2).half().float()
    expected = layer.weight.detach().sign() * scale.repeat_interleave(128, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(TOKENS), expected[TOKENS])
    with fixed_weights(layer, "latent"):
        assert torch.equal(layer(TOKENS), layer.weight[TOKENS])


def test_arguments_are_those_of_torch() -> None:
    layer = BinaryEmbedding(7, 16, 3, sparse=True)
    layer(TOKENS).sum().backward()
    gradient: Any = layer.weight.grad
    assert gradient.is_sparse
    assert not gradient.to_dense()[3].any()
    assert layer.weight.detach().abs().max() <= 1
    with pytest.raises(UsageError, match="max_norm"):
        onebit.binarize_(nn.Sequential(nn.Embedding(7, 16, max_norm=1.0), nn.Linear(16, 7)), embeddings=True)


def tied(*, binary: bool = True, **options: Any) -> Any:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Embedding(9, 16), nn.Linear(16, 16), nn.Linear(16, 9, bias=False))
    net[2].weight = net[0].weight
    if binary:
        onebit.binarize_(net, embeddings=True, **options)
    return net


@pytest.mark.parametrize("name", WEIGHT_QUANTIZERS)
def test_a_tied_head_has_the_weights_of_the_embedding(name: str) -> None:
    net = tied(weight_quantizer=name)
    assert net[0].weight is net[2].weight
    assert net[0].weight_quantizer is net[2].weight_quantizer
    assert model_size(net)[0] == 9 * 16 + 16 * 16
    assert [row.weights for row in onebit.describe_layers(net).binary] == [9 * 16, 16 * 16, 0]
    shipped, expected = net[0].binary_weight().dense().detach(), net.eval()(TOKENS)
    again = tied(binary=False)
    onebit.binarize_from_config_(again, onebit.quantizer_config(net)).load_state_dict(net.state_dict())
    assert torch.equal(again.eval()(TOKENS), expected)
    dense = onebit.dense_(again)
    assert [type(layer) for layer in dense] == [nn.Embedding, nn.Linear, nn.Linear]
    assert dense[0].weight is dense[2].weight
    torch.testing.assert_close(dense[0].weight.detach(), shipped)


def test_a_draw_of_a_tied_head_is_that_of_the_embedding() -> None:
    net = tied(weight_quantizer="stochastic")
    with fixed_weights(net, "sample", generator=torch.Generator().manual_seed(3)):
        assert torch.equal(net[0](torch.arange(9)), net[2].effective_weight())
        assert not torch.equal(net[0](torch.arange(9)), net[0].binary_weight().dense())


@pytest.mark.parametrize("left_out", ["0", "2"])
def test_a_shared_weight_stays_real_if_one_of_its_layers_does(left_out: str) -> None:
    net = tied(where=lambda name, _: name != left_out)
    assert [type(layer) for layer in net] == [nn.Embedding, onebit.BinaryLinear, nn.Linear]


def test_an_embedding_becomes_binary_on_demand_and_has_no_input_quantizer() -> None:
    net = tied(binary=False)
    report = onebit.binarize_(net, input_quantizer="ste_sign")
    assert [row.name for row in report.binary] == ["1"]
    net = tied(input_quantizer="ste_sign")
    assert net[0].input_quantizer is None
    assert isinstance(net[2].input_quantizer, SteSign)
    assert net[0].weight_quantizer is net[2].weight_quantizer


def test_packed_layers_with_quantizers_of_their_own_share_nothing() -> None:
    torch.manual_seed(0)
    head = onebit.BinaryLinear(16, 9, weight_quantizer="sign")
    net: Any = nn.Sequential(BinaryEmbedding(9, 16, weight_quantizer="xnor"), head).eval()
    net[1].weight = net[0].weight
    expected = net(TOKENS)
    onebit.packed_layers_(net)
    torch.testing.assert_close(net(TOKENS), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("quantizer", ["sign", "adabin", MagnitudeAware(group=8)])
def test_packed_it_holds_the_bits_once(quantizer: Any) -> None:
    net = tied(weight_quantizer=quantizer).eval()
    expected = net(TOKENS)
    report = onebit.packed_layers_(net)
    torch.testing.assert_close(net(TOKENS), expected, atol=1e-5, rtol=1e-5)
    assert net[0].signs is net[2].signs
    assert [row.weights for row in report.packed] == [144, 256, 0]
    assert report.real_bytes == 64  # the bias
    assert model_size(net)[0] == 144 + 256
