"""`dense_` writes the weights that ship over the latents and leaves an ordinary model with the same outputs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import onebit
from onebit.quantizers import WEIGHT_QUANTIZERS

MODELS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)), (3, 8)),
    "conv": (nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ConvTranspose2d(5, 2, 3)), (2, 3, 6, 6)),
    "lstm": (nn.LSTM(8, 5, num_layers=2, bidirectional=True), (4, 2, 8)),
    "attention": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("quantizer", [*WEIGHT_QUANTIZERS])
def test_a_dense_model_is_an_ordinary_one_with_the_same_outputs(name: str, quantizer: str) -> None:
    torch.manual_seed(0)
    model, shape = copy.deepcopy(MODELS[name][0]), MODELS[name][1]
    kinds = [type(module) for module in model.modules()]
    keys = {*model.state_dict()}
    onebit.binarize_(model, weight_quantizer=quantizer)
    x = torch.randn(shape)
    expected = outputs(model.eval(), x)
    model.train()  # in which some quantizers draw
    assert onebit.dense_(model) is model
    assert not [*onebit.layers.binary_layers(model)]
    assert [type(module) for module in model.modules()] == kinds
    assert {*model.state_dict()} == keys
    torch.testing.assert_close(outputs(model.eval(), x), expected)
    copied = copy.deepcopy(MODELS[name][0]).eval()
    copied.load_state_dict(model.state_dict())
    torch.testing.assert_close(outputs(copied, x), expected)


@torch.no_grad()
def outputs(model: nn.Module, x: torch.Tensor) -> Any:
    return model(x)


def test_layers_with_more_than_weights_stay_binary_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        onebit.BinaryConv2d(2, 4, 3, padding=1, padding_value=1.0),
        onebit.BinaryConv2d(4, 4, 3, weight_quantizer="xnor", input_quantizer="ste_sign"),
    ).eval()
    x = torch.randn(2, 2, 6, 6)
    expected = outputs(model, x)
    onebit.dense_(model)
    assert [type(module) for module in model] == [onebit.BinaryConv2d] * 2
    assert model[0].weight.abs().unique().tolist() == [1.0]
    torch.testing.assert_close(outputs(model, x), expected)


def test_a_dense_layer_may_become_binary_again() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    for _ in range(2):
        onebit.binarize_(model, weight_quantizer="xnor")
        assert isinstance(model[0], onebit.BinaryLinear)
        onebit.dense_(model)
        assert type(model[0]) is nn.Linear


def test_the_quantizers_of_a_model_are_noted_by_name() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    onebit.binarize_(model, weight_quantizer="xnor", where=lambda name, _: name == "0")
    onebit.binarize_(model, weight_quantizer=WEIGHT_QUANTIZERS["ste_sign"](2.0), input_quantizer="ste_sign")
    assert onebit.quantizer_config(model) == {
        "quantizers": [
            {"weight_quantizer": "xnor", "options": {}, "layers": ["0"]},
            {"weight_quantizer": "ste_sign", "options": {"clip_value": 2.0}, "layers": ["1"]},
            {
                "weight_quantizer": "ste_sign",
                "options": {"clip_value": 2.0},
                "input_quantizer": "ste_sign",
                "layers": ["2"],
            },
        ]
    }
