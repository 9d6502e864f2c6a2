"""Layers with binary inputs that are all of one sign: found in a new net, with certainty, and left as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from onebit.data import make_toy
from onebit.evaluation.health import constant_inputs
from onebit.layers import BinaryLinear, InputCoding, binarize_
from onebit.quantizers import SteSign

IMAGES = torch.from_numpy(make_toy(40, 4)[0].images)


def net(between: nn.Module, *, inputs: str = "ste_sign") -> nn.Module:
    """Three dense layers, 64-16-8-4, with BatchNorm and `between` after the first two."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [InputCoding(), nn.Flatten()]
    for wide, narrow in ((64, 16), (16, 8)):
        layers += [nn.Linear(wide, narrow), nn.BatchNorm1d(narrow), copy.deepcopy(between)]
    return binarize_(nn.Sequential(*layers, nn.Linear(8, 4)), input_quantizer=inputs).model


@pytest.mark.parametrize("inputs", ["ste_sign", "rsign", "adabin"])
@pytest.mark.parametrize("between", [nn.ReLU(), nn.Sigmoid(), nn.Softplus()])
def test_layers_after_what_is_never_negative_are_found(between: nn.Module, inputs: str) -> None:
    assert constant_inputs(net(between, inputs=inputs), IMAGES) == ["5", "8"]


@pytest.mark.parametrize("between", [nn.Identity(), nn.Hardtanh(), nn.PReLU()])
def test_other_layers_are_not(between: nn.Module) -> None:
    assert constant_inputs(net(between), IMAGES) == []


def test_real_inputs_have_no_sign() -> None:
    model = nn.Sequential(InputCoding(), nn.Flatten(), BinaryLinear(64, 8), nn.ReLU(), BinaryLinear(8, 4))
    assert constant_inputs(model, IMAGES) == []


def test_statistics_of_a_new_net_make_no_sign_of_their_own() -> None:
    """All images are dark: without statistics of theirs a unit would have one sign for all of them."""
    model = net(nn.Identity())
    with torch.no_grad():
        model[2].weight.copy_(torch.rand_like(model[2].weight))
    dark = IMAGES // 32
    model.eval()
    assert float(model[:4](dark).detach().max()) < 0
    assert constant_inputs(model, dark) == []


def test_a_sign_that_is_a_layer_of_its_own() -> None:
    model = nn.Sequential(InputCoding(), nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), SteSign(), nn.Linear(16, 4))
    assert constant_inputs(model, IMAGES) == ["4"]


def test_inputs_of_any_structure_and_one_alone() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net(nn.ReLU())

        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.net(batch["image"])

    assert constant_inputs(Named(), {"image": IMAGES}) == ["net.5", "net.8"]
    assert constant_inputs(Named(), {"image": IMAGES[:1]}) == []
    assert constant_inputs(Named(), {"other": IMAGES}) == []


def test_the_net_stays_as_it_was() -> None:
    model = net(nn.ReLU()).train()
    before = copy.deepcopy(model.state_dict())
    stream = torch.get_rng_state()
    constant_inputs(model, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
