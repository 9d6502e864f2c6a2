"""A model that starts from a packed net computes what the packed net computes, or is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from onebit.errors import CheckpointError
from onebit.fold import pack
from onebit.fold.unfold import unfold_
from onebit.integer.nets import integer_net
from onebit.packed import Dense, PackedNet, Threshold
from onebit.packed.nodes.node import INT32
from onebit.recipe import build_recipe, methods, with_method
from onebit.runs.model import build_model
from onebit.runtime import run
from support.fold_nets import images_of
from support.recipe_nets import RECIPES, SMALL, Net, packed_net, small

FAST = small(RECIPES["mnist-fast"])
EXACT = [name for name, (model, *_) in SMALL.items() if model.input_quantizer in (None, "ste_sign")]
CONVOLUTIONS = ("adabin", "react")
"""Methods that run daily with convolutions, others with dense layers."""
DAILY = ("mnist-bnn", "mnist-bayesbinn", "cifar10-vgg-bnn", "cifar10-resnet20-binaryconnect-ends-real-short")


def fresh(net: Net, *, seed: int = 5, device: str = "cpu") -> nn.Module:
    model, shape, classes = net
    torch.manual_seed(seed)
    with torch.device(device):
        return build_model(model, input_shape=shape, classes=classes)


def logits(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(images)).numpy()


def assert_equal(model: nn.Module, packed: PackedNet, images: np.ndarray) -> None:
    """Same signs and thresholds, and the logits but for rounding."""
    expected, found = run(packed, images), logits(model.eval(), images)
    np.testing.assert_allclose(found, expected, atol=3e-5 * np.abs(expected).max())
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
    again = {node.output: node.stored for node in pack(model, input_shape=packed.input.shape).nodes}
    for node in packed.nodes:
        for field in {"signs", "threshold", "direction"} & node.stored.keys():
            np.testing.assert_array_equal(again[node.output][field], node.stored[field])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in DAILY else pytest.mark.nightly) for name in EXACT]
)
def test_the_net_of_every_recipe_starts_from_a_packed_one(name: str) -> None:
    net = SMALL[name]
    _, packed = packed_net(net, 4)
    model, images = fresh(net), images_of(16, packed.input.shape, seed=3)
    assert not np.allclose(logits(model.eval(), images), run(packed, images), atol=0.1)
    model.train()
    unfold_(model, packed, images, source="NET")
    assert model.training
    assert_equal(model, packed, images)


@pytest.mark.parametrize(
    ("method", "base"),
    [
        pytest.param(method, base, marks=() if (method in CONVOLUTIONS) is ("resnet" in base) else pytest.mark.nightly)
        for method in sorted(methods().keys() - {"real", "proxquant"})
        for base in ("cifar10-resnet20-binaryconnect", "mnist-binaryconnect")
    ],
)
def test_every_method_starts_from_a_packed_net_in_training_mode_too(method: str, base: str) -> None:
    net = small(build_recipe(with_method(RECIPES[base], method)))
    if net[0].name == "mlp":
        net = replace(net[0], dropout=0.0, input_dropout=0.0), *net[1:]
    _, packed = packed_net(net, 4)
    model, images = fresh(net), images_of(32, packed.input.shape, seed=3)
    unfold_(model, packed, images, source="NET")
    assert_equal(model, packed, images)
    # the batch is that of the statistics: training computes the same, which a wrong factor, a wrong shift or random
    # signs would change
    found, expected = logits(model.train(), images), run(packed, images)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def with_thresholds(packed: PackedNet, value: int) -> PackedNet:
    nodes = list(packed.nodes)
    at = next(i for i, node in enumerate(nodes) if isinstance(node, Threshold))
    node = nodes[at]
    assert isinstance(node, Threshold)
    threshold, direction = node.threshold.copy(), node.direction.copy()
    threshold[:3], direction[:3] = value, 1
    nodes[at] = replace(node, threshold=threshold, direction=direction)
    return replace(packed, nodes=tuple(nodes))


@pytest.mark.parametrize("value", [INT32.min, INT32.max])
def test_constant_signs_stay_constant(value: int) -> None:
    _, packed = packed_net(SMALL["mnist-bnn"], 4)
    packed = with_thresholds(packed, value)
    model, images = fresh(SMALL["mnist-bnn"]), images_of(16, packed.input.shape)
    unfold_(model, packed, images, source="NET")
    assert_equal(model, packed, images)


def test_statistics_are_those_of_the_images() -> None:
    _, packed = packed_net(FAST, 4)
    model, images = fresh(FAST), images_of(250, packed.input.shape, seed=7)
    unfold_(model, packed, images, source="NET")
    seen: list[torch.Tensor] = []
    norm = model.get_submodule("norm2")
    assert isinstance(norm, nn.BatchNorm1d)
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits(model.eval(), images)
    torch.testing.assert_close(norm.running_mean, seen[0].mean(0), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(norm.running_var, seen[0].var(0, correction=0), rtol=1e-3, atol=1e-3)


def test_a_last_layer_with_other_outputs_stays_unchanged() -> None:
    recipe, shape, _ = FAST
    _, packed = packed_net(FAST, 4)
    widths = (*(recipe.widths or ())[:-1], 7)
    net = replace(recipe, widths=widths), shape, 7
    model, images = fresh(net), images_of(16, shape)
    last = {key: value.clone() for key, value in model.state_dict().items() if key.startswith(("linear3", "norm3"))}
    unfold_(model, packed, images, source="NET")
    assert len(last) == 6
    assert all(torch.equal(model.state_dict()[key], value) for key, value in last.items())
    again = {node.output: node for node in pack(model, input_shape=shape).nodes}
    for node in packed.nodes:
        if isinstance(node, Dense) and node.output != "linear3":
            np.testing.assert_array_equal(again[node.output].stored["signs"], node.signs)


def test_another_net_is_refused_before_anything_changes() -> None:
    recipe, shape, classes = FAST
    _, packed = packed_net(FAST, 4)
    first, *_, last = recipe.widths or ()
    for other, size in (
        (replace(recipe, widths=(first, 60, last)), shape),
        (replace(recipe, coding="standardize"), shape),
        (replace(recipe, input_quantizer="ste_sign"), shape),
        (replace(recipe, widths=(first, 60, 70, last)), shape),
    ):
        model = fresh((other, size, classes))
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with pytest.raises(CheckpointError, match="net"):
            unfold_(model, packed, images_of(4, size), source="NET")
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_nets_that_do_not_determine_batch_norm_are_refused() -> None:
    _, packed = packed_net(FAST, 4)
    images = images_of(40, packed.input.shape)
    _, few_bits = packed_net(SMALL["mnist-w1a4"], 4)
    for net, other in ((FAST, integer_net(packed, images, activations=8)), (SMALL["mnist-w1a4"], few_bits)):
        with pytest.raises(CheckpointError, match="integer activations"):
            unfold_(fresh(net), other, images, source="NET")
    net = small(build_recipe(with_method(RECIPES["cifar10-binaryconnect"], "react")))
    _, packed = packed_net(net, 4)
    with pytest.raises(ValueError, match="shape"):  # a level for each pixel, not for each channel
        unfold_(fresh(net), packed, images_of(4, packed.input.shape), source="NET")
