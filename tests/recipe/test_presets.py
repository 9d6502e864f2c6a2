"""What every method of recipes/methods.yaml promises; a new line there needs no line here."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch

import onebit
from onebit.data import Dataset, load_dataset
from onebit.layers import binary_layers
from onebit.packed import PackedNet
from onebit.recipe import Recipe, build_recipe, default_settings, merge, method_settings, methods
from onebit.runs.training import prepare
from onebit.runtime import run
from support.covering import covering

NETS: dict[str, dict[str, Any]] = {
    "mlp": {"widths": [64, 32, 32, 4]},
    "vgg_small": {"width": 1 / 32},
    "resnet20": {"width": 1 / 4},
}
WEIGHT_ONLY = {"binaryconnect", "binaryconnect-stochastic", "ste", "bop", "bayesbinn", "proxquant"}


@pytest.fixture(scope="module")
def toy() -> Dataset:
    data = load_dataset("toy")
    return Dataset("toy", data.train[:64], data.validation[:32], data.test[:32], data.classes)


def recipe_of(method: str, net: str, **settings: Any) -> Recipe:
    asked = merge({"dataset": "toy", "model": {"name": net, **NETS[net]}}, method_settings(method))
    base = default_settings(build_recipe(asked), method=method)
    small = {"epochs": 2, "batch_size": 32, "draws": 0, "schedule": {"name": "constant"}, "precision": "fp32"}
    return build_recipe(merge(merge(base, asked), small | settings))


@pytest.mark.parametrize("method", ["bnn", "irnet", "recu", "adabin"])
def test_gradients_do_not_grow_from_layer_to_layer(method: str, toy: Dataset) -> None:
    """Of the sums of 18 convolutions: with gradients of signs that double in each layer training ends with NaN."""
    model = prepare(recipe_of(method, "resnet20"), toy).model
    images = torch.as_tensor(toy.train.images)
    torch.nn.functional.cross_entropy(model(images), torch.as_tensor(toy.train.labels)).backward()
    norms = [layer.weight for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert norms[0].grad.norm() < 60 * norms[-1].grad.norm()


@pytest.mark.parametrize(("method", "net"), covering(product(methods(), NETS)))
def test_every_method_trains_and_packs_every_kind_of_net(method: str, net: str, toy: Dataset) -> None:
    """Daily each method with one net."""
    recipe = recipe_of(method, net)
    training = prepare(recipe, toy)
    history = training.fit(toy)
    assert [row.step for row in history] == [2, 4]
    assert all(math.isfinite(row.train_loss) and math.isfinite(row.validation_loss or 0) for row in history)
    if method == "real":
        assert not any(True for _ in binary_layers(training.model))
        return
    packed = onebit.pack(training.model)
    assert isinstance(packed, PackedNet)
    assert run(packed, toy.test.images).shape == (32, 4)
    if net != "mlp" and method not in WEIGHT_ONLY | {"bnn"}:  # their papers keep the ends real
        layers = [m for m in training.model.modules() if type(m).__name__ in ("Conv2d", "Linear")]
        assert len(layers) == 2


@pytest.mark.filterwarnings("ignore:.*no weight changed its sign")  # ProxQuant's are soon drawn to ±1
@pytest.mark.parametrize("method", methods())
def test_every_method_learns_within_a_few_steps(method: str) -> None:
    """With the settings of its preset, as far as 80 steps get."""
    data = load_dataset("toy")
    data = Dataset("toy", data.train[:256], data.train[:0], data.test[:32], data.classes)
    recipe = recipe_of(method, "mlp", epochs=10)
    training = prepare(recipe, data)
    before = [parameter.detach().clone() for parameter in training.model.parameters()]
    rows = training.fit(data).rows
    if method == "real":
        assert not any(map(torch.equal, before, training.model.parameters()))
    else:
        assert max(row.flip_ratio or 0 for row in rows) > 0.001
    assert rows[-1].train_error < 0.7 * rows[0].train_error


def test_a_method_drops_the_options_of_another_and_leaves_settings_to_another_optimizer() -> None:
    other = {"model": {"weight_quantizer": "concrete_sign", "weight_options": {"temperature": 1.0}}}
    assert build_recipe(merge(other, method_settings("ste"))).model.weight_options is None
    row = method_settings("irnet", optimizer="adam")["optimizer"]
    assert row == {"latent_clip": None, "lr_scale": None}
    assert method_settings("irnet", optimizer="sgd") == methods()["irnet"]


def test_plain_sgd_has_the_square_of_the_scale() -> None:
    """As the paper of BinaryConnect has it, in section 2.5: Glorot's coefficients for ADAM, their squares for SGD."""
    asked = {"model": {"name": "mlp"}, "dataset": "mnist", "optimizer": {"name": "sgd"}}
    row = default_settings(build_recipe(asked), method="binaryconnect", given=["optimizer.name"])["optimizer"]
    assert (row["lr"], row["lr_scale"]) == (0.1, "glorot_squared")


def test_the_weight_only_form_of_irnet_has_the_blocks_of_its_authors() -> None:
    for inputs, expected in (("irnet", True), (None, None)):
        asked = build_recipe({"model": {"name": "resnet20", "weight_quantizer": "irnet", "input_quantizer": inputs}})
        assert default_settings(asked, method="irnet", given=[])["model"].get("bireal") is expected
