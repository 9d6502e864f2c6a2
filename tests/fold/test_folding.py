"""The nodes that layers fold into, and agreement of the packed net."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from onebit.errors import UsageError
from onebit.evaluation.forward import predict_logits
from onebit.evaluation.modes import fixed_weights
from onebit.fold import pack
from onebit.layers import BinaryLinear, InputCoding, binarize_, binary_layers
from onebit.packed import Affine, Dense, Threshold, dumps
from onebit.packed.bits import unpack_signs
from onebit.runtime import run
from support.fold_nets import SHAPE, assert_agrees, images_of, kinds, make_mlp, node_of, torch_logits
from support.packed_layers import Centered


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "Flatten Dense Affine Relu Dense Affine Relu Dense Affine"),
        ({"dropout": 0.5, "input_dropout": 0.2}, "Flatten Dense Affine Relu Dense Affine Relu Dense Affine"),
        ({"value": "glorot"}, "Flatten Dense Affine Relu Dense Affine Relu Dense Affine"),
        ({"real_last": True}, "Flatten Dense Affine Relu Dense Affine Relu RealDense Affine"),
        (
            {"coding": "standardize", "mean": [33.3], "std": [77.7]},
            "Flatten Dense Affine Relu Dense Affine Relu Dense Affine",
        ),
        ({"input_quantizer": "ste_sign", "norm_affine": False}, "Flatten Dense Threshold Dense Threshold Dense Affine"),
        (
            {"input_quantizer": "ste_sign", "real_last": True},
            "Flatten Dense Threshold Dense Affine Relu RealDense Affine",
        ),
        ({"input_quantizer": "ste_sign", "value": "glorot"}, "Flatten Dense Threshold Dense Threshold Dense Affine"),
        (
            {"input_quantizer": "ste_sign", "coding": "standardize", "mean": [33.3], "std": [77.7]},
            "Flatten Dense Affine Sign Dense Threshold Dense Affine",
        ),
    ],
)
def test_mlps_fold_and_agree(options: dict[str, Any], expected: str) -> None:
    torch.manual_seed(3)
    model = make_mlp(nasty=None, **options)
    with torch.no_grad():  # BatchNorm as after some training
        model.train()
        for start in range(0, 200, 50):
            model(torch.from_numpy(images_of()[start : start + 50]))
        model.eval()
    packed = pack(model, classes=[*"abcde"], name="some net")
    assert " ".join(kinds(packed)) == expected
    assert packed.classes == tuple("abcde")
    assert packed.name == "some net"
    assert_agrees(model, packed)
    np.testing.assert_array_equal(run(packed, images_of()).argmax(1), torch_logits(model, images_of()).argmax(1))


def test_names_are_those_of_the_modules() -> None:
    packed = pack(make_mlp((12, 7, 3), input_quantizer="ste_sign"))
    assert [node.output for node in packed.nodes] == ["flatten", "linear1", "linear2.sign", "linear2", "norm2"]


def test_invalid_names_of_modules_are_changed() -> None:
    model = nn.Sequential(InputCoding(), nn.Flatten())
    model.add_module("input", BinaryLinear(12, 6))
    model.add_module("a layer, ünnamed " + "x" * 200, BinaryLinear(6, 6))
    model.add_module("-", BinaryLinear(6, 2))
    names = [node.output for node in pack(model, input_shape=SHAPE).nodes]
    assert names == ["1", "input_2", "x" * 90, "value"]


def test_color_images_are_standardized_per_channel() -> None:
    model = make_mlp(
        (12, 9, 3), input_shape=(3, 2, 2), coding="standardize", mean=[10.0, 20.0, 30.5], std=[50.0, 60.0, 71.1]
    )
    packed = pack(model)
    assert packed.input.mean is not None
    np.testing.assert_array_equal(packed.input.mean, np.float32([10, 20, 30.5]))
    assert_agrees(model, packed, images_of(shape=(3, 2, 2)))


def test_the_last_norm_is_torchs_own_scale_and_shift() -> None:
    model = make_mlp((12, 200), nasty=5, norm_eps=0.1)
    last = node_of(pack(model), Affine)
    norm = model.get_submodule("norm1")
    with torch.no_grad():
        np.testing.assert_array_equal(last.shift, norm(torch.zeros(1, 200))[0].numpy())
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    np.testing.assert_allclose(last.scale, scale.numpy(), rtol=3e-7)


def test_biases_are_kept() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 30), nn.Hardtanh(), nn.Linear(30, 4))
    model = nn.Sequential(InputCoding(), binarize_(net, where=lambda name, layer: name != "5").model).eval()
    packed = pack(model, input_shape=SHAPE)
    assert kinds(packed) == ["Flatten", "Dense", "Affine", "Relu", "Dense", "Affine", "Hardtanh", "RealDense", "Affine"]
    assert node_of(packed, Affine).scale is None
    assert_agrees(model, packed)


def test_a_clip_of_integers_stays_exact() -> None:
    model = nn.Sequential(
        InputCoding(),
        nn.Flatten(),
        BinaryLinear(12, 9),
        nn.ReLU(),
        BinaryLinear(9, 8),
        nn.BatchNorm1d(8),
        BinaryLinear(8, 3, input_quantizer="ste_sign"),
    ).eval()
    packed = pack(model, input_shape=SHAPE)
    assert kinds(packed) == ["Flatten", "Dense", "Relu", "Dense", "Threshold", "Dense"]
    assert node_of(packed, Threshold).direction.tolist() == [1] * 8
    np.testing.assert_array_equal(run(packed, images_of()), torch_logits(model, images_of()))


def test_scale_and_centre_are_kept_in_the_node() -> None:
    model = make_mlp(weight_quantizer=Centered(), init="default", nasty=None)
    packed = pack(model)
    assert node_of(packed, Dense).scale is not None
    assert node_of(packed, Dense).centre is not None
    assert_agrees(model, packed)
    signed = make_mlp(weight_quantizer=Centered(), init="default", input_quantizer="ste_sign", nasty=None)
    assert kinds(pack(signed)) == ["Flatten", "Dense", "Affine", "Sign", "Dense", "Affine", "Sign", "Dense", "Affine"]


def test_the_model_is_not_changed() -> None:
    model = make_mlp(dropout=0.5, weight_quantizer="stochastic").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = dumps(pack(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert dumps(pack(model)) == first


def test_sampled_weights_are_those_of_evaluate_and_differ_from_the_signs() -> None:
    model = make_mlp(weight_quantizer="stochastic", nasty=None)
    packed = pack(model, weights="sample", seed=11)
    with fixed_weights(model, "sample", generator=torch.Generator().manual_seed(11)):
        drawn = [layer.effective_weight().numpy() for _, layer in binary_layers(model)]
        logits = predict_logits(model, torch.from_numpy(images_of())).numpy()
    assert np.abs(logits).max() > 1000
    dense = [node for node in packed.nodes if isinstance(node, Dense)]
    for node, weight in zip(dense, drawn, strict=True):
        np.testing.assert_array_equal(unpack_signs(node.signs, node.in_features), weight)
    np.testing.assert_allclose(run(packed, images_of()), logits, rtol=0, atol=0.01)
    assert dumps(pack(model, weights="sample", seed=11)) == dumps(packed)
    assert dumps(pack(model, weights="sample", seed=12)) != dumps(packed)
    assert dumps(pack(model)) != dumps(packed)


def test_draws_are_refused_for_quantizers_without_them() -> None:
    with pytest.raises(UsageError, match="linear1"):
        pack(make_mlp(weight_quantizer="ste_sign"), weights="sample")
    with pytest.raises(UsageError, match=r"weights"):
        pack(make_mlp(), weights="latent")


def test_the_default_dtype_does_not_matter() -> None:
    model = make_mlp(nasty=None)
    expected = pack(model)
    torch.set_default_dtype(torch.float64)
    try:
        found = pack(model)
    finally:
        torch.set_default_dtype(torch.float32)
    images = images_of(20)
    assert np.array_equal(run(found, images), run(expected, images))
