"""Nets trained with activations of few bits fold to integer nets: no real value between the weights."""

from __future__ import annotations

import torch
from torch import nn

import onebit
from onebit.layers import InputCoding
from onebit.packed import Affine, Dense, Flatten, Quantize, Requantize, infer
from onebit.runtime import run


def test_batch_norm_relu_and_quantizer_are_one_rounding_of_integers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(InputCoding(), nn.Flatten(), onebit.BinaryLinear(16, 24), nn.BatchNorm1d(24), nn.ReLU()),
        *(onebit.BinaryLinear(24, 12, input_quantizer="uint4"), nn.BatchNorm1d(12), nn.ReLU()),
        onebit.BinaryLinear(12, 3, input_quantizer="uint4"),
    )
    images = torch.randint(0, 256, (256, 1, 4, 4), dtype=torch.uint8)
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
