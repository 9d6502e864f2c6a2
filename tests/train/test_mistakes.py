"""Mistakes that keep a model from learning are warned about at the start, once, also without progress."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import onebit
from onebit.layers import BinaryLinear, binarize_
from support.samples import Augmented, Drawing, X, Y, loader, train, trained
from support.tensors import same
from support.toy_training import DATA


def warnings_of(model: nn.Module, data: Any = None, **options: Any) -> list[str]:
    """The warnings of a training."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train((X, Y) if data is None else data, model=model, epochs=2, **options)
    assert all(warning.category is UserWarning for warning in caught)
    return [str(warning.message) for warning in caught]


def behind_a_relu(*, norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    between = [nn.ReLU(), nn.BatchNorm1d(16)] if norm else [nn.BatchNorm1d(16), nn.ReLU()]
    net = nn.Sequential(nn.Linear(12, 16), *between, nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    return binarize_(net, input_quantizer="ste_sign").model


@pytest.mark.parametrize(
    ("data", "verbose"),
    [((X, Y), False), (loader(), True), (loader(Augmented()), False)],
    ids=["arrays", "loader", "draws"],
)
def test_signs_behind_a_relu_are_warned_about_once(data: Any, verbose: bool) -> None:
    (found,) = warnings_of(behind_a_relu(), data, verbose=verbose)
    assert found.endswith(": 3")


def test_a_net_without_binary_layers_is_warned_about() -> None:
    assert "no binary layer" in warnings_of(nn.Linear(12, 3))[0]
    assert warnings_of(nn.Sequential(BinaryLinear(12, 3, weight_quantizer=None))) == []


@pytest.mark.filterwarnings("error")
def test_nets_that_are_real_on_purpose_give_no_warning() -> None:
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 32, "precision": "fp32"}
    onebit.Trainer(nn.Linear(12, 3), "real", **settings).fit((X, Y), verbose=False)
    onebit.Trainer(nn.Sequential(nn.Flatten(), onebit.Normalize(0.5, 0.5), nn.Linear(64, 4)), "real", **settings).fit(
        DATA, verbose=False
    )
    real = onebit.create_model("mlp", widths=(64, 8, 4), weight_quantizer=None)
    optimizer = torch.optim.Adam(onebit.latent_groups(real, lr=0.01))
    onebit.fit(real, DATA, optimizer, epochs=1, verbose=False)


@pytest.mark.parametrize("data", [(X, Y), loader(Augmented())])
def test_the_check_changes_no_bit(monkeypatch: pytest.MonkeyPatch, data: Any) -> None:
    states = []
    for checked in (True, False):
        if not checked:
            monkeypatch.setattr("onebit.train.planning.mistakes", lambda *_: [])
        model = Drawing()
        train(data, model=model, epochs=1)
        states.append(model.state_dict() | {"trained": trained(data, epochs=1)["0.weight"]})
    assert same(*states)
