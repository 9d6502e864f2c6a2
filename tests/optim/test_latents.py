"""Latent groups and the latent clip, and what every optimizer promises as one of torch."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from onebit.errors import UsageError
from onebit.layers import BinaryLinear, binarize_
from onebit.optim import (
    OPTIMIZERS,
    Bop,
    CompanionOptimizer,
    clip_latents_,
    latent_groups,
    latent_rate,
    prox_latents_,
)
from support import latent_training
from support.latent_training import bayesbinn, bop, parameters, same, through_a_file, train

EXCEPTIONS = {"LBFGS": "takes one group of parameters only", "SparseAdam": "takes sparse gradients only"}
ONLY_MATRICES = "Muon"
OF_TORCH = [name for name, kind in OPTIMIZERS.items() if not issubclass(kind, CompanionOptimizer)]
"""The others have other test files."""
TORCH_OPTIMIZERS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
)


def net(value: float | str = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        BinaryLinear(6, 8, True, weight_quantizer="sign", value=value), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int = 1) -> None:
    """Steps so long that latents hit their bound and real weights leave it."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(16, 6, generator=generator)
        optimizer.zero_grad()
        (model(x) * torch.arange(3.0)).sum().mul(100).backward()
        optimizer.step()


def largest(layer: nn.Module) -> float:
    return float(layer.weight.detach().abs().max())


def groups_of(model: nn.Module, **options: Any) -> list[dict[str, Any]]:
    return latent_groups(model, **{"lr": 1.0} | options)


def prox(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return prox_latents_(torch.optim.Adam(groups_of(model)), **options)


# --------------------------------------------------------------------------------------------------------------- clip
def test_the_table_has_every_optimizer_of_torch_for_dense_parameters() -> None:
    left_out = {*EXCEPTIONS, ONLY_MATRICES}
    assert {OPTIMIZERS[name].__name__ for name in OF_TORCH} == set(TORCH_OPTIMIZERS) - left_out


@pytest.mark.parametrize("name", OF_TORCH)
def test_a_step_equals_the_optimizers_step_then_a_clamp(name: str) -> None:
    ours, plain = net(), net()
    clipped = clip_latents_(OPTIMIZERS[name](latent_groups(ours, lr=0.1)))
    bare = OPTIMIZERS[name](latent_groups(plain, lr=0.1, latent_clip=None))
    for _ in range(3):
        step(ours, clipped)
        step(plain, bare)
        with torch.no_grad():
            plain[0].weight.copy_(plain[0].weight.clip(-1, 1))
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


@pytest.mark.parametrize("clip", [0.25, "value", None])
def test_the_clip_is_a_number_the_bound_of_the_quantizer_or_none(clip: float | str | None) -> None:
    model = net(value=0.5)
    optimizer = clip_latents_(torch.optim.SGD(latent_groups(model, lr=1.0, latent_clip=clip)))
    step(model, optimizer)
    if clip is None:
        assert largest(model[0]) > 1
    else:
        assert largest(model[0]) == (0.5 if clip == "value" else clip)


def test_clip_latents_is_idempotent() -> None:
    optimizer = torch.optim.SGD(latent_groups(net(), lr=1.0))
    assert clip_latents_(optimizer) is optimizer
    clip_latents_(clip_latents_(optimizer))
    assert len(optimizer._optimizer_step_post_hooks) == 1


def test_the_clip_survives_a_state_dict_into_a_fresh_optimizer() -> None:
    model = net()
    first = clip_latents_(torch.optim.Adam(latent_groups(model, lr=0.5)))
    step(model, first)
    fresh = torch.optim.Adam(latent_groups(model, lr=0.1, latent_clip=None))
    fresh.load_state_dict(first.state_dict())
    step(model, clip_latents_(fresh), steps=4)
    assert largest(model[0]) == 1
    assert fresh.param_groups[0]["latent_clip"] == 1.0


def test_a_group_added_later_is_left_alone() -> None:
    model, extra = net(), nn.Parameter(torch.full((2,), 7.0))
    optimizer = clip_latents_(torch.optim.SGD(latent_groups(model, lr=1.0)))
    optimizer.add_param_group({"params": [extra]})
    step(model, optimizer)
    assert extra.tolist() == [7.0, 7.0]


def test_only_updated_parameters_are_clipped() -> None:
    layers = BinaryLinear(4, 4), BinaryLinear(4, 4)
    optimizer = clip_latents_(torch.optim.SGD(latent_groups(nn.ModuleList(layers), lr=1.0)))
    with torch.no_grad():
        for layer in layers:
            layer.weight.fill_(7)
    layers[0](torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert [largest(layer) for layer in layers] == [1, 7]


# ------------------------------------------------------------------------------------------------------------- groups
@pytest.mark.parametrize("name", ["sign", "concrete_sign", "adabin"])
def test_every_parameter_is_in_one_group(name: str) -> None:
    model = binarize_(
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2)),
        weight_quantizer=name,
        where=lambda name, layer: name != "3",
    ).model
    groups = latent_groups(model, lr=0.1, weight_decay=0.01)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    latents = {id(model[0].weight), id(model[2].weight)}
    for group in groups:
        ids = {id(p) for p in group["params"]}
        assert ids <= latents or not ids & latents
        assert group.get("latent", False) == bool(ids & latents)
        bounded = model[0].weight_quantizer.latent_bound is not None
        assert ("latent_clip" in group) == (bool(ids & latents) and bounded)
        assert group["weight_decay"] == (0.01 if ids == {id(model[3].weight)} else 0.0)


@pytest.mark.parametrize(("scale", "power"), [(None, 0), ("glorot", 1), ("glorot_squared", 2)])
def test_the_glorot_factor_is_the_reference_formula(scale: str | None, power: int) -> None:
    model = nn.Sequential(BinaryLinear(784, 2048), BinaryLinear(2048, 2048), BinaryLinear(2048, 10), nn.BatchNorm1d(10))
    groups = latent_groups(model, lr=0.003, lr_scale=scale)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for layer in model[:3]:
        factor = (1 / math.sqrt(1.5 / (layer.in_features + layer.out_features))) ** power
        assert rates[id(layer.weight)] == pytest.approx(0.003 * factor, rel=1e-12)
    assert rates[id(model[3].weight)] == 0.003


def test_the_glorot_factor_of_flattened_latents_is_that_of_their_layers() -> None:
    """FSDP1 makes each Parameter a flat part of itself."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose1d(4, 6, 5), nn.LSTM(4, 5))
    binarize_(model, weight_quantizer="sign")
    rates = [group["lr"] for group in latent_groups(model, lr=0.1, lr_scale="glorot")]
    for holder in (model[0], model[1], *model[2].parametrizations.values()):
        name = "weight" if hasattr(holder, "weight") else "original"
        setattr(holder, name, nn.Parameter(getattr(holder, name).detach().flatten()[:7]))
    groups = latent_groups(model, lr=0.1, lr_scale="glorot")
    assert [group["lr"] for group in groups] == rates
    assert [[p.shape for p in group["params"]] for group in groups[:4]] == [[(7,)]] * 4
    assert rates[0] == pytest.approx(0.1 / math.sqrt(1.5 / (9 * (3 + 8))), rel=1e-12)


def test_layers_with_equal_settings_share_a_group() -> None:
    model = nn.Sequential(BinaryLinear(4, 4), BinaryLinear(4, 4), BinaryLinear(4, 2))
    assert [len(g["params"]) for g in latent_groups(model, lr=1.0)] == [3]
    assert [len(g["params"]) for g in latent_groups(model, lr=1.0, lr_scale="glorot")] == [2, 1]


@pytest.mark.parametrize(
    ("make", "name", "values"),
    [
        *(
            (groups_of, "lr_scale", ["xavier"]),
            (groups_of, "latent_clip", [0.0, -1, math.nan]),
            (groups_of, "lr", [-1]),
        ),
        *((bop, "gamma", [0.0, 1.5]), (bop, "threshold", [-1e-9, math.nan])),
        *((bayesbinn, "count", [0]), (bayesbinn, "lr", [-1.0]), (bayesbinn, "init", [math.inf])),
        *((bayesbinn, "momentum", [1.0]), (prox, "growth", [0.0, math.nan, math.inf])),
    ],
)
def test_wrong_options_are_refused(make: Callable[..., object], name: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(UsageError, match=name):
            make(latent_training.net("concrete_sign" if make is bayesbinn else "sign"), **{name: value})


# ---------------------------------------------------------------------------------------- optimizers of the whole table
each_optimizer = pytest.mark.parametrize("name", [*OPTIMIZERS, "prox"])


def pair(name: str, *, lr: float = 0.01) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A net with a convolution, and its optimizer."""
    options: dict[str, Any] = {"bop": {"gamma": 0.1, "threshold": 1e-5}, "bayesbinn": {"count": 100, "momentum": 0.9}}
    model = latent_training.net({"bayesbinn": "concrete_sign", "prox": "prox"}.get(name, "sign"))
    groups = latent_groups(model, lr=lr)
    if name == "prox":
        return model, prox_latents_(torch.optim.Adam(groups), growth=0.05, freeze=6)
    return model, clip_latents_(OPTIMIZERS[name](groups, **options.get(name, {})))


@each_optimizer
def test_a_state_dict_resumes_bit_for_bit_from_a_file(name: str) -> None:
    model, optimizer = pair(name)
    optimizer.param_groups[-1]["lr"] *= 0.5
    train(model, optimizer, steps=4)
    twin, fresh = pair(name, lr=0.5)
    if name == "prox":  # its numbers are those of the groups
        fresh = torch.optim.Adam(latent_groups(twin, lr=0.5))
    twin.load_state_dict(through_a_file(model.state_dict()))
    fresh.load_state_dict(through_a_file(optimizer.state_dict()))
    before = parameters(model)
    train(model, optimizer, steps=5, seed=2)
    train(twin, clip_latents_(fresh), steps=5, seed=2)
    assert same(model, twin)
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@each_optimizer
def test_a_copy_continues_bit_for_bit(name: str) -> None:
    model, optimizer = pair(name, lr=0.2)  # so that latents meet their bound
    train(model, optimizer, steps=3)
    twins = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    train(model, optimizer, steps=3, seed=2)
    for twin, own in twins:
        assert not same(model, twin)
        train(twin, clip_latents_(own), steps=3, seed=2)
        assert same(model, twin)


@each_optimizer
def test_latents_without_a_gradient_stay(name: str) -> None:
    model, optimizer = pair(name)
    model[4].weight.requires_grad_(False)
    frozen = model[4].weight.clone()
    train(model, optimizer, steps=1)
    assert torch.equal(model[4].weight, frozen)
    before = parameters(model)
    model.zero_grad()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


# -------------------------------------------------------------------------------------------------------------- rates
@pytest.mark.parametrize("scale", [None, "glorot"])
def test_the_rate_of_latents_excludes_its_scale(scale: str | None) -> None:
    model = nn.Sequential(BinaryLinear(4, 4), BinaryLinear(4, 2, weight_quantizer="ste_sign"), nn.BatchNorm1d(2))
    groups = latent_groups(model, lr=0.5, lr_scale=scale)
    groups[-1]["lr"] = 0.125
    assert latent_rate(torch.optim.SGD(groups)) == pytest.approx(0.5)


def test_without_a_rate_of_latents_that_of_the_others_counts() -> None:
    model = nn.Sequential(BinaryLinear(4, 4), nn.BatchNorm1d(4))
    assert latent_rate(Bop(latent_groups(model, lr=0.25), gamma=0.5)) == 0.25
    assert latent_rate(torch.optim.SGD(model.parameters(), lr=0.5)) == 0.5
