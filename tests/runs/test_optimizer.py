"""Recipe -> optimizer: settings of Bop, BayesBiNN and ProxQuant arrive, and pairs that make no method are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from onebit.data import Dataset
from onebit.errors import UsageError
from onebit.optim import BayesBiNN, Bop
from onebit.recipe import Recipe, build_recipe, merge, methods
from onebit.runs.training import prepare
from support.toy_training import TOY


def recipe(method: str | None = None, **settings: Any) -> Recipe:
    own = {} if method is None else methods()[method]
    return build_recipe(merge(merge(TOY, own), settings))


def test_bop_takes_its_settings(data: Dataset) -> None:
    built = prepare(recipe("bop", optimizer={"lr": 0.02, "gamma": 0.25, "threshold": 1e-3}), data)
    optimizer = built.optimizer
    assert type(optimizer) is Bop
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.25, 0.02]
    assert optimizer.param_groups[0]["threshold"] == 1e-3
    assert built.model.linear1.weight.abs().unique().tolist() == [1]


def test_gamma_and_threshold_decay_in_epochs(data: Dataset) -> None:
    """128 images in batches of 32 are 4 steps an epoch."""
    own = {"decay_epochs": 0.5, "gamma_decay": 0.5, "threshold_decay": 2.0, "gamma": 1.0, "threshold": 1.0, "lr": 0.1}
    built = prepare(recipe("bop", optimizer=own, schedule={"name": "linear"}), data)
    found = []
    for _ in range(8):
        latents, others = built.optimizer.param_groups
        found.append((latents["lr"], latents["threshold"], others["lr"]))
        built.optimizer.step()
        built.schedule.step()
    assert [gamma for gamma, _, _ in found] == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert [threshold for _, threshold, _ in found] == [1, 1, 2, 2, 4, 4, 8, 8]
    assert [rate for _, _, rate in found] == pytest.approx([0.1 * (1 - i / 8) for i in range(8)])


def test_without_decay_epochs_gamma_follows_the_schedule(data: Dataset) -> None:
    built = prepare(recipe("bop", optimizer={"gamma": 0.5}, schedule={"name": "linear"}), data)
    for _ in range(4):
        built.optimizer.step()
        built.schedule.step()
    assert built.optimizer.param_groups[0]["lr"] == pytest.approx(0.25)
    assert built.optimizer.param_groups[0]["threshold"] == 1e-8


def test_bayesbinn_takes_its_settings(data: Dataset) -> None:
    own = {"lr": 0.5, "real_lr": 0.25, "momentum": 0.9, "data_scale": 10, "latent_init": 3, "samples": 4}
    own["lagged_mean"] = True
    built = prepare(recipe("bayesbinn", optimizer=own, model={"weight_options": {"temperature": 0.1}}), data)
    optimizer = built.optimizer
    assert type(optimizer) is BayesBiNN
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.5, 0.25]
    assert [optimizer.param_groups[0][name] for name in ("count", "momentum", "lagged_mean")] == [1280, 0.9, True]
    assert built.model.linear1.weight.unique().tolist() == [-3, 3]
    assert built.model.linear1.weight_quantizer.temperature == 0.1
    assert built.settings.samples == 4


@pytest.mark.parametrize("name", ["adam", "adamax", "adamw", "nadam", "radam"])
def test_an_entry_without_build_passes_its_options_to_its_class(data: Dataset, name: str) -> None:
    for options, expected in (({}, (0.9, 0.999)), ({"betas": [0.4, 0.99]}, (0.4, 0.99))):
        built = prepare(recipe(optimizer={"name": name, **options}), data)
        assert {group["betas"] for group in built.optimizer.param_groups} == {expected}


def test_the_prox_takes_its_settings_in_steps(data: Dataset) -> None:
    """The strength is that of the last step before the freeze, however long the training."""
    for epochs, steps, freeze, last in ((2, 8, 0.75, 6), (20, 80, None, math.inf)):
        own = {"prox_strength": 6.0, "prox_freeze": freeze, "lr": 0.01}
        group = prepare(recipe("proxquant", optimizer=own, epochs=epochs), data).optimizer.param_groups[0]
        assert group["prox_freeze"] == last
        assert group["prox_growth"] * min(last, steps) == pytest.approx(6.0)


def test_real_parameters_may_have_a_rate_of_their_own(data: Dataset) -> None:
    own = {"lr": 0.5, "real_lr": 0.125, "lr_scale": "glorot"}
    rates = [group["initial_lr"] for group in prepare(recipe(optimizer=own), data).optimizer.param_groups]
    assert rates == pytest.approx([0.5 / math.sqrt(1.5 / 80), 0.5 / math.sqrt(1.5 / 20), 0.125])


def test_a_net_without_binary_weights_has_one_rate(data: Dataset) -> None:
    real = {"weight_quantizer": None, "value": 1.0, "init": "default"}
    own = {"lr": 0.5, "real_lr": 0.125, "latent_clip": None}
    built = prepare(recipe(optimizer=own, model=real), data)
    assert {group["initial_lr"] for group in built.optimizer.param_groups} == {0.5}


@pytest.mark.parametrize(
    ("method", "settings", "noun"),
    [
        ("bayesbinn", {"model": {"weight_quantizer": "sign"}}, "sign"),
        ("bayesbinn", {"optimizer": {"lr_scale": "glorot"}}, "lr_scale"),
        ("bayesbinn", {"optimizer": {"clip_grad_norm": 0.5}}, "clip"),
        ("bop", {"optimizer": {"momentum": 0.9}}, "momentum"),
        ("proxquant", {"optimizer": {"prox_strength": None}}, "prox"),
    ],
)
def test_pairs_that_make_no_method_are_refused(data: Dataset, method: str, settings: dict[str, Any], noun: str) -> None:
    with pytest.raises(UsageError, match=noun):
        prepare(recipe(method, **settings), data)
