"""The MLP's own settings, and the same net written in torch.nn alone."""

from __future__ import annotations

from collections import OrderedDict
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from onebit.errors import UsageError
from onebit.models import MLP, create_model
from onebit.quantizers import WEIGHT_QUANTIZERS
from support.covering import covering
from support.small_models import images


def plain_mlp() -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (inputs, outputs) in enumerate([(64, 24), (24, 16), (16, 4)], 1):
        layers[f"linear{i}"] = nn.Linear(inputs, outputs, bias=False)
        layers[f"norm{i}"] = nn.BatchNorm1d(outputs)
        if i < 3:
            layers[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)


@pytest.mark.parametrize(("quantizer", "inputs"), covering(product([*WEIGHT_QUANTIZERS, None], ["ste_sign", None])))
def test_the_state_dict_loads_into_a_plain_torch_mlp_and_back(quantizer: str | None, inputs: str | None) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"weight_quantizer": quantizer, "input_quantizer": inputs}
    model, twin = MLP((64, 24, 16, 4), **options), plain_mlp()
    state = model.state_dict()
    learnt = {key: state.pop(key) for key in list(state) if "quantizer." in key}  # of the quantizers themselves
    assert list(state) == list(twin.state_dict())
    twin.load_state_dict(state)
    back = MLP((64, 24, 16, 4), **options)
    back.load_state_dict(twin.state_dict() | learnt)
    x = images(model)
    assert torch.equal(back.eval()(x), model.eval()(x))


def test_the_real_model_computes_what_the_plain_twin_does() -> None:
    model, twin = MLP((64, 24, 16, 4), weight_quantizer=None).eval(), plain_mlp().eval()
    twin.load_state_dict(model.state_dict())
    x = images(model)
    assert torch.equal(model(x), twin(2 * x.float() - 255))


@pytest.mark.parametrize("value", [1.0, 0.25, "glorot"])
def test_uniform_latents_fill_the_range_of_the_clip(value: float | str) -> None:
    torch.manual_seed(0)
    layer: Any = MLP((64, 400, 4), value=value).linear1
    relative = layer.weight.detach() / layer.weight_quantizer.latent_bound
    assert float(relative.abs().max()) <= 1
    assert float(relative.abs().max()) > 0.99
    assert float(relative.square().mean()) == pytest.approx(1 / 3, rel=0.03)


def test_default_latents_are_those_of_torch() -> None:
    torch.manual_seed(0)
    layer: Any = MLP((64, 24, 4), init="default").linear1
    torch.manual_seed(0)
    assert torch.equal(layer.weight, nn.Linear(64, 24, bias=False).weight)


def test_dropout_stands_after_the_activation_and_on_the_input() -> None:
    names = [name for name, _ in MLP((64, 24, 4), dropout=0.5, input_dropout=0.2).named_children()]
    assert names == [
        "coding", "input_dropout", "flatten", "linear1", "norm1", "relu1", "dropout1", "linear2", "norm2",
    ]  # fmt: skip


@pytest.mark.parametrize(("width", "shape"), [(784, (1, 28, 28)), (64, (1, 8, 8)), (12, (1, 1, 12))])
def test_the_input_shape_follows_from_the_first_width(width: int, shape: tuple[int, int, int]) -> None:
    assert MLP((width, 2)).input_shape == shape


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"widths": (64,)}, "widths"),
        ({"widths": (64, 4), "input_shape": (1, 28, 28)}, "widths"),
        ({"widths": (64, 4), "classes": 10}, "widths"),
        ({"dropout": 0.1, "input_quantizer": "ste_sign"}, "dropout"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=name):
        create_model("mlp", **options)
