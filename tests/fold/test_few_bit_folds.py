"""Nets with activations of few bits: what they pack to, and that the packed net computes what torch does."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onebit.errors import FoldError
from onebit.evaluation.modes import reestimate_batch_norm_
from onebit.fold import pack
from onebit.layers import (
    BinaryConv2d,
    BinaryLinear,
    InputCoding,
    batch_norms,
    binarize_,
    describe_layers,
    trains_other_weights,
)
from onebit.models import ResNet, create_model
from onebit.packed import Affine, AveragePool, Conv, Dense, PackedNet, Quantize, Relu, infer
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS, Quantizer, UInt4, UInt8
from onebit.quantizers.base import IntegerInput
from onebit.recipe import Recipe
from onebit.recipe.defaults import default_settings
from onebit.recipe.override import method_of
from onebit.recipe.reading import build_recipe
from onebit.runtime import run
from support.covering import covering
from support.fold_nets import Model, assert_answers, images_of, kinds, make_mlp, torch_logits

NAMES = [name for name, entry in INPUT_QUANTIZERS.entries().items() if entry.bits > 1]
resnet = partial(ResNet, [1, 1], (4, 8), classes=10, stem="cifar")
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "mlp": ("mlp", {"widths": (192, 24, 20, 6), "input_shape": (3, 8, 8)}),
    "resnet": ("resnet14", {"width": 0.25, "input_shape": (3, 8, 8)}),
    "bireal": (resnet, {"shortcut": "averaged", "around_each": True, "input_shape": (3, 8, 8)}),
    "rprelu": (resnet, {"shortcut": "padded", "activation": "rprelu", "input_shape": (3, 8, 8)}),
    "bottlenecks": (resnet, {"shortcut": "projected", "bottleneck": True, "input_shape": (3, 8, 8)}),
    "vgg": ("vgg_small", {"width": 0.1, "input_shape": (3, 8, 8), "dropout": 0.2}),
    "nin": ("nin", {"width": 0.1, "input_shape": (3, 16, 16)}),
    "unet": ("unet", {"width": 0.1, "input_shape": (3, 16, 16), "depth": 2}),
}


def trained(model: nn.Module, shape: tuple[int, ...] = (3, 8, 8)) -> nn.Module:
    """A net in eval mode whose ranges and BatchNorms have seen images."""
    images = torch.from_numpy(images_of(32, shape, seed=3))
    for norm in batch_norms(model):
        norm.momentum = 1.0
    with torch.no_grad():
        for _ in range(2):  # the first pass sets the ranges
            model.train()(images)
        if trains_other_weights(model):  # as `fit` ends
            reestimate_batch_norm_(model, images)
    return model.eval()


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nets as the model is folded, before their roundings make them integer nets."""
    monkeypatch.setattr("onebit.fold.rounded_as_trained", lambda net, numbers: (net, {}))


def equal_up_to_ties(model: nn.Module, packed: PackedNet, images: np.ndarray) -> None:
    """All logits of nearly all images are equal: rounding in float32 may decide an integer of the others."""
    ours, theirs = run(packed, images, executor="reference"), torch_logits(model, images)
    apart = np.abs(ours - theirs).reshape(len(images), -1).max(axis=1) > 1e-4 * np.abs(theirs).max()
    assert apart.mean() <= 0.2, apart.sum()
    np.testing.assert_allclose(ours, theirs, atol=0.05 * np.abs(theirs).max(), rtol=0)


@pytest.mark.parametrize(("form", "inputs"), covering(product(MODELS, ["uint4", "int4"])))
def test_a_packed_model_computes_what_torch_does(form: str, inputs: str) -> None:
    torch.manual_seed(0)
    name, options = MODELS[form]
    model = trained(create_model(name, input_quantizer=inputs, **options), options["input_shape"])
    packed = pack(model)
    equal_up_to_ties(model, packed, images_of(20, options["input_shape"]))
    values, made = infer(packed), {node.output: node for node in packed.nodes}
    first, *layers = [node for node in packed.nodes if isinstance(node, (Conv, Dense))]
    taken = [node for node in layers if values[node.inputs[0]].exact]
    assert made.get(first.inputs[0]) is None or not isinstance(made[first.inputs[0]], Quantize)
    if form not in ("unet", "bireal", "nin"):  # concatenated steps, real shortcuts and averages are real values
        assert taken == layers


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(("inputs", "range"), covering(product(NAMES, ["lsq", "pact", "dorefa", "follow"])))
def test_every_quantizer_and_range_packs(inputs: str, range: str) -> None:
    model = trained(make_mlp(nasty=None, input_quantizer=inputs, input_options={"range": range}), (1, 3, 4))
    packed = pack(model)
    equal_up_to_ties(model, packed, images_of(100))
    quantizers = [module for module in model.modules() if isinstance(module, Quantizer) and module.integer_input()]
    least, most = quantizers[0].least, quantizers[0].most
    # a ReLU before a signed one is part of the clipping
    assert [(n.least, n.most) for n in packed.nodes if isinstance(n, Quantize)] == [(max(least, 0), most)] * 2
    assert kinds(packed) == ["Flatten", "Dense", "Affine", "Quantize", "Dense", "Affine", "Quantize", "Dense", "Affine"]


@pytest.mark.parametrize("weights", WEIGHT_QUANTIZERS)
def test_every_weight_quantizer_packs_with_integer_activations(weights: str) -> None:
    model = trained(make_mlp(nasty=None, weight_quantizer=weights, input_quantizer="uint4"), (1, 3, 4))
    equal_up_to_ties(model, pack(model), images_of(100))


def residual(m: Any, x: Tensor) -> Tensor:
    x = torch.relu(m.bn1(m.first(m.coding(x))))
    y = torch.relu(m.bn2(m.conv1(x)) + m.conv2(x) / 8 + x)
    return m.fc(m.pool(y).flatten(1))


@pytest.mark.usefixtures("exact")
def test_two_quantizers_of_one_value_have_their_own_steps() -> None:
    torch.manual_seed(0)
    parts = {"coding": InputCoding(), "bn1": nn.BatchNorm2d(6), "bn2": nn.BatchNorm2d(6)}
    parts |= {"first": nn.Conv2d(3, 6, 3, padding=1), "conv1": nn.Conv2d(6, 6, 3, padding=1)}
    parts |= {"conv2": nn.Conv2d(6, 6, 1), "pool": nn.AdaptiveAvgPool2d(1), "fc": nn.Linear(6, 4)}
    model: Any = trained(binarize_(Model(residual, **parts), input_quantizer="uint4").model)
    with torch.no_grad():
        model.conv2.input_quantizer.limit.mul_(0.3)
    packed = pack(model, input_shape=(3, 8, 8))
    equal_up_to_ties(model, packed, images_of(20, (3, 8, 8)))
    assert kinds(packed).count("Quantize") == 3
    assert kinds(packed).count("Relu") >= 1  # the shortcut is real


@pytest.mark.usefixtures("exact")
def test_a_shortcut_takes_the_integers_of_its_convolution() -> None:
    torch.manual_seed(0)
    model = trained(create_model("resnet14", width=0.25, input_shape=(3, 8, 8), input_quantizer="uint4"))
    packed = pack(model)
    assert kinds(packed).count("Quantize") == 13  # one for each convolution: the block's input counts once
    steps = {float(m.integer_input().step) for m in model.modules() if isinstance(m, UInt4)}
    rounded = {node.output for node in packed.nodes if isinstance(node, Quantize)}
    found = [node for node in packed.nodes if isinstance(node, Affine) and node.inputs[0] in rounded]
    assert found
    for node in found:  # the step alone: conversion to an integer net relies on it
        assert node.shift is None
        assert len(set(node.scale.tolist())) == 1
        assert float(node.scale[0]) in steps
    assert not any(isinstance(node, Relu) for node in packed.nodes)
    nodes = {node.output: node for node in packed.nodes}
    for node in packed.nodes:
        if isinstance(node, Quantize):
            assert isinstance(nodes[node.inputs[0]], Affine)
    pool = next(node for node in packed.nodes if isinstance(node, AveragePool))
    assert (pool.sums, isinstance(nodes[pool.inputs[0]], Quantize)) == (1, True)
    assert isinstance(packed.nodes[-2], Dense)


def test_zero_padding_is_the_integer_zero() -> None:
    torch.manual_seed(0)
    for padding_value in (0.0, 1.0, -1.0):
        options: dict[str, Any] = {"padding": 1, "padding_value": padding_value, "input_quantizer": "uint4"}
        net = nn.Sequential(
            InputCoding(),
            BinaryConv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(3, 1, 1),
            BinaryConv2d(4, 5, 3, **options),
            nn.Flatten(),
            BinaryLinear(180, 4),
        )
        model = trained(net)
        equal_up_to_ties(model, pack(model, input_shape=(3, 8, 8)), images_of(20, (3, 8, 8)))


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("size", "pool", "terms"),
    [
        (20, nn.AvgPool2d(8, stride=1), 13 * 13),  # the weights would sum integers beyond the limit
        (80, nn.AdaptiveAvgPool2d(1), 1),  # the window would
    ],
)
def test_averages_whose_integer_sums_leave_int32_are_real(
    size: int, pool: nn.Module, terms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(InputCoding(), UInt8(), pool, nn.Flatten(), BinaryLinear(terms, 6))
    images = images_of(1, (1, size, size))
    with torch.no_grad():
        model.train()(torch.from_numpy(images))
    for limit, exact in ((2**31 - 1, True), (2**20, False)):
        for part in ("pooling", "weight_layers"):
            monkeypatch.setattr(f"onebit.fold.{part}.SUM_LIMIT", limit)
        packed = pack(model.eval(), input_shape=(1, size, size))
        [dense] = [node for node in packed.nodes if isinstance(node, Dense)]
        assert infer(packed)[dense.inputs[0]].exact == exact
        assert_answers(model, packed, images, atol=1e-4)  # torch adds up thousands of float32


@pytest.mark.parametrize("limit", [float("nan"), float("inf")])
def test_a_range_that_is_not_finite_is_refused(limit: float) -> None:
    model = trained(make_mlp(nasty=None, input_quantizer="uint4"), (1, 3, 4))
    with torch.no_grad():
        next(m for m in model.modules() if isinstance(m, UInt4)).limit.fill_(limit)
    with pytest.raises(FoldError, match="UInt4"):
        pack(model)


def test_a_quantizer_that_does_something_else_is_refused() -> None:
    class Other(UInt4):
        def integer_input(self) -> IntegerInput:
            return super().integer_input()._replace(most=14)

    model = trained(make_mlp(nasty=None, input_quantizer=Other), (1, 3, 4))
    with pytest.raises(FoldError, match="integer_input"):
        pack(model)


# ------------------------------------------------------------------------------------------------- models and recipes
def test_real_layers_take_no_input_quantizer() -> None:
    model = create_model("mlp", input_quantizer="uint4", real_last=True)
    assert sum(isinstance(module, UInt4) for module in model.modules()) == 1
    real = create_model("mlp", input_quantizer=None)
    made = create_model("mlp", input_quantizer="uint4")
    assert set(made.state_dict()) - set(real.state_dict()) == {"relu1.quantizer.limit", "relu2.quantizer.limit"}


def test_describe_layers_counts_the_range_parameter() -> None:
    rows = describe_layers(create_model("mlp", input_quantizer="uint4")).real
    assert [(row.name, row.parameters, row.reason) for row in rows if "quantizer" in row.name] == [
        ("relu1.quantizer", 1, "activation"),
        ("relu2.quantizer", 1, "activation"),
    ]


def test_integer_input_quantizers_do_not_change_the_method() -> None:
    def recipe(inputs: str | None) -> Recipe:
        return build_recipe({"dataset": "cifar10", "model": {"name": "vgg_small", "input_quantizer": inputs}})

    assert method_of(recipe("uint4")) == method_of(recipe(None)) == "binaryconnect"
    real, few, binary = (default_settings(recipe(inputs)) for inputs in (None, "uint4", "ste_sign"))
    assert few["optimizer"]["lr"] == real["optimizer"]["lr"] != binary["optimizer"]["lr"]
    # sums of integers from the first layer on
    assert (real["model"]["coding"], few["model"]["coding"]) == ("standardize", "integer")
