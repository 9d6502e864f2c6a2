"""Nets trained with activations of few bits fold to integer nets: no real value between the weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import onebit
from onebit.errors import UsageError
from onebit.layers import InputCoding
from onebit.packed import Affine, Dense, Flatten, Quantize, Requantize, infer
from onebit.runtime import run


def net_of(*body: nn.Module, hidden: int = 24) -> nn.Sequential:
    """Pixels through a dense layer with BatchNorm into `body`."""
    torch.manual_seed(0)
    return nn.Sequential(InputCoding(), nn.Flatten(), onebit.BinaryLinear(16, hidden), nn.BatchNorm1d(hidden), *body)


def pixels(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8)


def test_batch_norm_relu_and_quantizer_are_one_rounding_of_integers() -> None:
    second = onebit.BinaryLinear(24, 12, input_quantizer="uint4"), nn.BatchNorm1d(12), nn.ReLU()
    model, images = net_of(nn.ReLU(), *second, onebit.BinaryLinear(12, 3, input_quantizer="uint4")), pixels(256)
    for _ in range(3):  # statistics of BatchNorm and steps of the quantizers
        model(images)
    model.eval()
    packed = onebit.pack(model, images, data=images)
    assert [type(node) for node in packed.nodes[:-1]] == [Flatten, Dense, Requantize, Dense, Requantize, Dense]
    assert isinstance(packed.nodes[-1], Affine)
    assert not any(isinstance(node, Quantize) for node in packed.nodes)
    assert {infer(packed)[node.output].limits for node in packed.nodes if isinstance(node, Requantize)} == {(0, 15)}
    assert packed.certificate is not None
    assert packed.certificate.activations is None
    with torch.no_grad():
        apart = (torch.from_numpy(run(packed, images.numpy())) - model(images)).abs().amax(1)
    assert (apart < 1e-4).float().mean() > 0.98  # an integer at a tie may round otherwise in float32


def test_a_changed_weight_fails_verification() -> None:
    """Only a net with all numbers of its model may have other labels, where float32 rounds an integer otherwise."""
    model, images = net_of(nn.ReLU(), onebit.BinaryLinear(64, 30, input_quantizer="uint8"), hidden=64), pixels(1000)
    model(images)
    model.eval()
    packed = onebit.pack(model, images, data=images)
    assert onebit.verify(model, packed, images).ok
    *before, dense, logits = packed.nodes
    assert isinstance(dense, Dense)
    signs = dense.signs.copy()
    signs[0, 0] ^= np.uint64(1)
    changed = replace(packed, nodes=(*before, replace(dense, signs=signs), logits), certificate=None)
    agreement = onebit.verify(model, changed, images)
    assert agreement.label_mismatches > 0
    assert not agreement.ok


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"activations": 8}, "calibration"),
        ({"calibration": 500}, "calibration"),
        ({"activations": 8, "calibration": 0}, "calibration"),
        ({"activations": 4, "calibration": 500}, "operations"),
        ({}, "activations"),
    ],
)
def test_certify_checks_the_activations_of_an_integer_net(given: dict[str, int], message: str) -> None:
    model, images = net_of(nn.ReLU(), onebit.BinaryLinear(24, 3)).eval(), pixels(64).numpy()
    small = onebit.integer_net(onebit.pack(model, images), images)
    with pytest.raises(UsageError, match=message):
        onebit.certify(model, small, images, **given)
    made = onebit.certify(model, small, images, activations=8, calibration=64).certificate
    assert made is not None
    assert made.activations == 8


@pytest.mark.parametrize("bits", [8, 2])
def test_a_bounded_activation_uses_a_symmetric_range(bits: int) -> None:
    """Hardtanh leaves -127 to 127 of 8 bits, which are 255 integers."""
    model, images = net_of(nn.Hardtanh(), onebit.BinaryLinear(24, 3)), pixels(64).numpy()
    model(torch.from_numpy(images))
    model.eval()
    small = onebit.integer_net(onebit.pack(model, images), images, activations=bits)
    (rounded,) = (node for node in small.nodes if isinstance(node, Requantize))
    assert rounded.least == -rounded.most
    certificate = onebit.certify(model, small, images, activations=bits, calibration=64).certificate
    assert certificate is not None
    assert certificate.activations == bits
