"""Counts of weights, bytes and MACs of layers and models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from onebit.evaluation.counts import model_size, state_size, summary
from onebit.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose1d,
    BinaryConvTranspose2d,
    BinaryLinear,
    binarize_,
    latent_keys,
)
from onebit.models import MLP, create_model


def net(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return MLP((16, 12, 4), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("affine", [True, False])
def test_the_summary_counts_weights_bytes_and_macs(affine: bool) -> None:
    whole = summary(net(real_last=True, norm_affine=affine))
    layers = {layer.name: layer for layer in whole.layers}
    first, norm, last = layers["linear1"], layers["norm1"], layers["linear2"]
    assert (first.binary_weights, first.real_parameters, first.binary_macs, first.real_macs) == (192, 0, 192, 0)
    assert (first.bytes_packed, first.bytes_float32) == (24, 768)
    assert (last.binary_weights, last.real_parameters, last.binary_macs, last.real_macs) == (0, 48, 0, 48)
    # scale and shift remain of it, learned or not
    assert (norm.binary_weights, norm.real_parameters, norm.bytes_packed) == (0, 2 * 12, 96)
    assert whole.total("real_parameters") == 48 + 2 * (12 + 4)
    assert "192" in str(whole).splitlines()[-1]


def test_the_summary_of_resnet20_has_the_published_counts() -> None:
    """0.27 M parameters (He et al. 2016, section 4.2); MACs of its 19 convolutions and the dense layer by hand."""
    with torch.device("meta"):  # without memory for weights
        model = create_model("resnet20", real_first=True, real_last=True)
    table = summary(model)
    assert table.total("binary_weights") + table.total("real_parameters") == 269_722
    stages = 16 * 32 * 32 * (6 * 16 * 9) + 32 * 16 * 16 * (16 + 5 * 32) * 9 + 64 * 8 * 8 * (32 + 5 * 64) * 9
    assert table.total("binary_macs") == stages
    assert table.total("real_macs") == 16 * 32 * 32 * 3 * 9 + 64 * 10
    assert stages + table.total("real_macs") == 40_551_040
    assert table.layers[0].output_shape == (16, 32, 32)
    assert table.total("bytes_float32") == 4 * 269_722
    binary = 9 * (6 * 16 * 16 + (16 + 5 * 32) * 32 + (32 + 5 * 64) * 64)
    assert table.total("bytes_packed") == binary // 8 + 4 * (269_722 - binary)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 2), stride=2, groups=2, bias=False),
        BinaryConv2d(4, 8, 3, dilation=2, stride=(1, 2), groups=4),
        BinaryConvTranspose2d(4, 8, (3, 2), stride=(2, 1), groups=2, dilation=2),
        BinaryConv1d(4, 8, 3, groups=4),
        BinaryConvTranspose1d(4, 6, 2, stride=2),
    ],
    ids=repr,
)
def test_macs_are_the_products_that_are_summed(layer: nn.Module) -> None:
    """With ones for inputs and weights every product adds 1, so that the sum of all outputs is their number."""
    shape = (4, 9, 7) if layer.weight.dim() == 4 else (4, 9)
    (row,) = summary(nn.Sequential(layer), torch.zeros(3, *shape)).layers
    twin = copy.deepcopy(layer)
    for parameter in twin.parameters():
        nn.init.ones_(parameter)
    if twin.bias is not None:
        nn.init.zeros_(twin.bias)
    products = int(twin(torch.ones(1, *shape)).sum())
    binary = "Binary" in type(layer).__name__
    assert (row.binary_macs, row.real_macs) == ((products, 0) if binary else (0, products))
    assert row.binary_weights + row.real_parameters == sum(p.numel() for p in layer.parameters())


def test_a_layer_that_acts_on_every_position_counts_each() -> None:
    rows = nn.Sequential(nn.Flatten(1, 2), BinaryLinear(5, 3))  # (N, 1, 4, 5) -> (N, 4, 3)
    assert summary(rows, input_shape=(1, 4, 5)).layers[0].binary_macs == 4 * 3 * 5


def test_macs_count_for_each_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = BinaryLinear(5, 5)
            self.spare = nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.dense(self.dense(x.flatten(1)))

    dense, spare = summary(Twice(), input_shape=(1, 1, 5)).layers
    assert (dense.binary_macs, dense.binary_weights) == (50, 25)
    assert (spare.real_macs, spare.real_parameters, spare.output_shape) == (0, 12, ())


def test_sizes_need_no_forward_pass() -> None:
    model = net(real_last=True)
    assert model_size(model) == (192, 48 + 2 * (12 + 4), 192 // 8 + 4 * 80)
    assert model_size(model)[2] == summary(model).total("bytes_packed")
    nines = nn.Sequential(BinaryLinear(3, 3), BinaryLinear(3, 3, bias=True))
    assert model_size(nines) == (18, 3, 2 + 2 + 12), "the bits of each layer fill whole bytes"


@pytest.mark.parametrize(
    "model",
    [
        create_model("mlp", coding="standardize", mean=[1.0], std=[2.0]),
        create_model("resnet20", coding="standardize", norm_affine=False, mean=[1.0] * 3, std=[2.0] * 3),
        create_model("lenet", coding="standardize", norm_affine=False, mean=[1.0], std=[2.0]),
        binarize_(nn.Sequential(nn.LSTM(5, 3), nn.MultiheadAttention(6, 2)), weight_quantizer="recu").model,
    ],
    ids=["mlp", "resnet20", "lenet", "parametrized"],
)
def test_a_state_dict_has_the_size_of_its_model(model: nn.Module) -> None:
    assert state_size(model.state_dict(), list(latent_keys(model))) == model_size(model)


def test_the_summary_changes_neither_the_model_nor_the_example_and_looks_into_a_wrapper() -> None:
    model = net().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    summary(model)
    assert model.training
    model.norm1.eval()
    summary(model)
    assert (model.norm1.training, model.norm2.training) == (False, True)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    x = torch.full((5, 4), -1.0)
    wrapped = nn.Sequential(nn.ReLU(inplace=True), BinaryLinear(4, 3))
    assert summary(wrapped, x[:2]) == summary(nn.DataParallel(wrapped), input_shape=(4,))
    assert bool((x == -1).all())


# ------------------------------------------------------------------------------------- sequences, recurrence, attention
class Sequence(nn.Module):
    """Tokens (N, T) -> (N, 3)."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, *, batch_first: bool = True, **options: Any) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embedding = nn.Embedding(10, 8)
        self.recurrent = kind(8, 6, batch_first=batch_first, **options)
        self.head = nn.Linear(6 * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x)
        found = self.recurrent(x if self.batch_first else x.transpose(0, 1))[0]
        return self.head(found[:, -1] if self.batch_first else found[-1])


@pytest.mark.parametrize(
    ("kind", "options", "weights", "batch_first"),
    [
        (nn.LSTM, {}, 4 * 6 * (8 + 6), True),
        (nn.GRU, {"num_layers": 2, "bias": False}, 3 * 6 * (8 + 6) + 3 * 6 * (6 + 6), False),
        (nn.RNN, {"bidirectional": True}, 2 * 6 * (8 + 6), True),
    ],
)
def test_a_recurrent_layer_counts_every_step(
    kind: Any, options: dict[str, Any], weights: int, batch_first: bool
) -> None:
    tokens = torch.zeros(4, 7, dtype=torch.int64)
    model = Sequence(kind, batch_first=batch_first, **options)
    rows = {row.name: row for row in summary(model, tokens).layers}
    assert (rows["recurrent"].binary_macs, rows["recurrent"].real_macs) == (0, 7 * weights)
    assert (rows["embedding"].real_macs, rows["embedding"].real_parameters) == (0, 80), "a table to look up"
    binarize_(model, weight_quantizer="recu")
    rows = {row.name: row for row in summary(model, tokens).layers}
    found, head = rows["recurrent"], rows["head"]
    assert (found.kind, found.binary_weights) == (kind.__name__, weights)
    assert (found.binary_macs, found.real_macs) == (7 * weights, 0)
    assert found.output_shape == (7, head.binary_weights // 3)
    assert head.binary_macs == head.binary_weights
    assert model_size(model)[0] == weights + head.binary_weights
    assert sum(model_size(model)[:2]) == sum(p.numel() for p in model.parameters())


class SelfAttention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys = x[:, :4] if self.attention.batch_first else x.transpose(0, 1)[:4]
        x = x if self.attention.batch_first else x.transpose(0, 1)
        return self.attention(x, key=keys, value=keys[..., : self.attention.vdim])[0]


@pytest.mark.parametrize(
    ("options", "extra", "value", "batch_first"), [({}, 0, 8, True), ({"vdim": 5, "add_zero_attn": True}, 1, 5, False)]
)
def test_attention_counts_projections_and_products(
    options: dict[str, Any], extra: int, value: int, batch_first: bool
) -> None:
    """Five queries, four keys of width 8."""
    model = binarize_(SelfAttention(batch_first=batch_first, **options), weight_quantizer="sign").model
    attention, output = summary(model, torch.zeros(3, 5, 8)).layers
    assert (attention.kind, output.kind) == ("MultiheadAttention", "Linear")
    assert attention.binary_macs == 8 * (5 * 8 + 4 * 8 + 4 * value)
    assert attention.real_macs == 2 * 5 * (4 + extra) * 8
    assert (output.binary_macs, output.real_macs) == (5 * 8 * 8, 0)
    assert attention.output_shape == (5, 8)
    assert (attention.binary_weights, output.binary_weights) == (8 * (8 + 8 + value), 64)
    real = summary(SelfAttention(batch_first=batch_first, **options), torch.zeros(3, 5, 8))
    assert real.total("real_macs") == 5 * 64 + attention.binary_macs + attention.real_macs
    assert real.total("binary_macs") == real.total("binary_weights") == 0


class Named(nn.Module):
    """Layers called by the names of their arguments, and a module without any."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.up = nn.GRU(5, 3, batch_first=True), nn.ConvTranspose1d(3, 2, 4)
        self.bias = nn.ParameterList([torch.zeros(2, 1)])
        self.shift = nn.Identity()
        self.shift.forward = lambda: self.bias[0]  # type: ignore[method-assign, assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found, _ = self.recurrent(hx=x.new_zeros(1, len(x), 3), input=x)
        return self.up(output_size=[10], input=found.transpose(1, 2)) + self.shift()


def test_layers_called_by_the_names_of_their_arguments_are_counted() -> None:
    macs = {row.name: row.real_macs for row in summary(Named(), torch.zeros(2, 7, 5)).layers}
    assert (macs["recurrent"], macs["up"]) == (7 * 3 * (5 * 3 + 3 * 3), 7 * 3 * 2 * 4)


def test_an_embedding_that_is_the_head_too_is_counted_once() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    net[1].weight = net[0].weight
    assert model_size(net) == (0, 20, 80)
    assert summary(net, torch.zeros(2, 3, dtype=torch.int64)).total("real_parameters") == 20
