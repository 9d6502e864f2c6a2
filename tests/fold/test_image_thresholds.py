"""Integer thresholds in nets of images: every possible integer is proven, through pools and borders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from torch import nn

from onebit.fold import example_of, fold_model, pack
from onebit.layers import BinaryConv2d, BinaryConvTranspose2d, BinaryLinear, InputCoding
from onebit.packed import AveragePool, Conv, Threshold, dumps, loads
from onebit.quantizers import SteSign
from onebit.runtime import batches, run
from onebit.verification.agreement import verify
from onebit.verification.layer_proofs import Proof
from support.fold_nets import Model, images_of, kinds, make_nasty, node_of, torch_logits

SHAPE = (3, 8, 8)


def conv(inputs: int, outputs: int, size: int = 3, **options: Any) -> nn.Module:
    options = {"padding": size // 2, "input_quantizer": "ste_sign", **options}
    return BinaryConv2d(inputs, outputs, size, **options)


def net(*middle: nn.Module, features: int, seed: int = 0) -> nn.Module:
    """Pixels into 5 channels of sums, through `middle`, into a dense layer with signs."""
    torch.manual_seed(seed)
    first = [InputCoding(), conv(3, 5, input_quantizer=None)]
    last = [nn.Flatten(), BinaryLinear(features, 4, input_quantizer="ste_sign")]
    return make_nasty(nn.Sequential(*first, *middle, *last), seed)


@pytest.mark.parametrize(
    ("middle", "features", "expected"),
    [
        ([nn.BatchNorm2d(5)], 320, "Conv Threshold Flatten Dense"),
        ([nn.MaxPool2d(2), nn.BatchNorm2d(5)], 80, "Conv MaxPool Threshold Flatten Dense"),
        ([nn.BatchNorm2d(5), nn.MaxPool2d(2)], 80, "Conv Threshold MaxPool Flatten Dense"),
        ([nn.BatchNorm2d(5), nn.Hardtanh(), nn.MaxPool2d(3, 2, 1)], 80, "Conv Threshold MaxPool Flatten Dense"),
        ([nn.BatchNorm2d(5), nn.MaxPool2d(2), nn.Hardtanh()], 80, "Conv Threshold MaxPool Flatten Dense"),
        ([nn.MaxPool2d(2), nn.MaxPool2d(2), nn.BatchNorm2d(5)], 20, "Conv MaxPool MaxPool Threshold Flatten Dense"),
        ([nn.AvgPool2d(3, 2), nn.BatchNorm2d(5)], 45, "Conv AveragePool Threshold Flatten Dense"),
        ([nn.AvgPool2d(2), nn.BatchNorm2d(5), nn.MaxPool2d(2)], 20, "Conv AveragePool Threshold MaxPool Flatten Dense"),
        ([nn.BatchNorm2d(5), conv(5, 7, stride=2), nn.BatchNorm2d(7)], 112,
         "Conv Threshold Conv Threshold Flatten Dense"),
        (
            [nn.BatchNorm2d(5), conv(5, 5, padding_value=-1, groups=5), nn.MaxPool2d(2), nn.BatchNorm2d(5)],
            80,
            "Conv Threshold Conv MaxPool Threshold Flatten Dense",
        ),
        (
            [nn.BatchNorm2d(5), BinaryConvTranspose2d(5, 3, 2, 2, input_quantizer="ste_sign"), nn.BatchNorm2d(3)],
            768,
            "Conv Threshold ConvTranspose Threshold Flatten Dense",
        ),
        ([nn.Flatten(), nn.BatchNorm1d(320)], 320, "Conv Flatten Threshold Dense"),
    ],
)  # fmt: skip
def test_every_sign_of_a_sequential_net_is_proven(middle: list[nn.Module], features: int, expected: str) -> None:
    model = net(*middle, features=features)
    packed = pack(model, input_shape=SHAPE)
    assert " ".join(kinds(packed)) == expected
    agreement = verify(model, loads(dumps(packed)), images_of(20, SHAPE))
    assert agreement.bit_exact
    assert [proof.proof for proof in agreement.layers] == ["every integer"] * expected.count("Threshold")
    assert all(proof.mismatches == 0 and proof.integers > 0 for proof in agreement.layers)


def test_only_signs_use_the_sums_of_an_average() -> None:
    model = net(nn.AvgPool2d(3, 2), features=45)
    packed = pack(model, input_shape=SHAPE)
    assert node_of(packed, AveragePool).sums == 1
    whole = nn.Sequential(*list(model)[:3]).eval()  # an operation other than a sign needs the average
    assert node_of(pack(whole, input_shape=SHAPE), AveragePool).sums == 0
    np.testing.assert_array_equal(
        run(pack(whole, input_shape=SHAPE), images_of(5, SHAPE)), torch_logits(whole, images_of(5, SHAPE))
    )


@pytest.mark.parametrize(
    ("layer", "step"),
    [
        (conv(4, 3), 2),  # each tap on the border removes four odd terms
        (conv(3, 3), 1),  # the border removes odd numbers of odd terms
        (conv(3, 3, padding=0), 2),
        (conv(3, 3, padding_value=1), 2),
        (conv(3, 3, size=1, padding=1), 1),  # outputs on the border have no input: 0 among odd sums
        (conv(4, 4, groups=4), 1),
        (BinaryConvTranspose2d(4, 3, 3, stride=2, input_quantizer="ste_sign"), 2),
        (BinaryConvTranspose2d(3, 3, 3, input_quantizer="ste_sign"), 1),
    ],
)
def test_possible_integers_have_the_parity_of_sums(layer: nn.Module, step: int) -> None:
    torch.manual_seed(0)
    last = [nn.Flatten(), BinaryLinear(layer.out_channels, 2, input_quantizer="ste_sign")]
    model = nn.Sequential(InputCoding(), nn.Conv2d(3, layer.in_channels, 1, bias=False), layer, nn.AvgPool2d(99), *last)
    model[3] = nn.MaxPool2d(model[:3](torch.zeros(1, *SHAPE, dtype=torch.uint8)).shape[-1])
    folded = fold_model(model.eval(), input_shape=SHAPE)
    chain = next(site.chain for site in folded.sites if site.chain is not None)
    assert chain.integers.step == step
    most = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else layer.weight.numel() // layer.out_channels
    assert chain.integers[-1] == most
    name = next(node.output for node in folded.net.nodes if node.output == "2")
    seen = np.unique(np.concatenate([v[name] for _, v in batches(folded.net, images_of(60, SHAPE), [name])]))
    assert set(seen.tolist()) <= set(chain.integers)
    if step == 1:
        assert len(set((seen % 2).tolist())) == 2


@pytest.mark.parametrize("padding_value", [1, -1])
def test_a_border_of_ones_makes_even_sums_odd(padding_value: int) -> None:
    torch.manual_seed(0)
    model = Model(
        lambda net, x: net.last(net.sign(net.first(net.coding(x))) + net.sign(net.second(net.coding(x)))),
        coding=InputCoding(),
        sign=SteSign(),
        first=nn.Conv2d(3, 3, 1, bias=False),
        second=nn.Conv2d(3, 3, 1, bias=False),
        last=nn.Sequential(
            BinaryConv2d(3, 16, 3, padding=1, padding_value=padding_value),
            nn.BatchNorm2d(16),
            nn.Flatten(),
            BinaryLinear(16 * 64, 4, input_quantizer="ste_sign"),
        ),
    )
    model, images = make_nasty(model), images_of(20, SHAPE)
    np.testing.assert_array_equal(run(pack(model, input_shape=SHAPE), images), torch_logits(model, images))


def test_a_border_of_zeros_is_not_a_sign() -> None:
    """A threshold at 0 must get the true sums at the border, including 0."""
    torch.manual_seed(0)
    model = nn.Sequential(
        InputCoding(),
        nn.Conv2d(3, 1, 1, bias=False),
        conv(1, 4, size=1, padding=1),
        nn.BatchNorm2d(4),
        SteSign(),
        nn.Conv2d(4, 2, 10, bias=False),
    ).eval()
    with torch.no_grad():
        model[3].weight.copy_(torch.tensor([1.0, -1.0, 1.0, -1.0]))
        model[3].bias.copy_(torch.tensor([0.0, 0.0, -1e-9, -1e-9]))
    packed = pack(model, input_shape=SHAPE)
    node = node_of(packed, Threshold)
    integers = np.array([-1, 0, 1])
    expected = [[-1, 1, 1], [1, 1, -1], [-1, -1, 1], [1, -1, -1]]
    for channel, wanted in enumerate(expected):
        at, up = node.threshold[channel], node.direction[channel] > 0
        assert np.where(integers >= at if up else integers <= at, 1, -1).tolist() == wanted
    proofs = verify(model, packed, images_of(5, SHAPE)).layers
    assert [(proof.proof, proof.integers, proof.mismatches) for proof in proofs] == [
        ("float", 5 * 64, 0),
        ("every integer", 3 * 4, 0),
    ]


@settings(max_examples=12, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_drawn_sign_nets_agree_bit_for_bit(data: st.DataObject, seed: int) -> None:
    torch.manual_seed(seed)
    channels = data.draw(st.integers(1, 5))
    layers: list[nn.Module] = [InputCoding(), conv(3, channels, data.draw(st.integers(1, 3)), input_quantizer=None)]
    for _ in range(data.draw(st.integers(1, 3))):
        pools = [[], [nn.MaxPool2d(2, 1)], [nn.MaxPool2d(3, 2, 1)], [nn.AvgPool2d(2, 1)]]
        pool, norm = data.draw(st.sampled_from(pools)), [nn.BatchNorm2d(channels)]
        before = isinstance((pool or [None])[0], nn.AvgPool2d) or data.draw(st.booleans())
        layers += [*pool, *norm] if before else [*norm, *pool]
        outputs = data.draw(st.integers(1, 5))
        options = {"padding": data.draw(st.integers(0, 2)), "stride": data.draw(st.integers(1, 2))}
        layers.append(conv(channels, outputs, 2, padding_value=data.draw(st.sampled_from([0.0, 1.0, -1.0])), **options))
        channels = outputs
    model = make_nasty(nn.Sequential(*layers), seed)
    images = images_of(4, SHAPE, seed)
    try:
        expected = torch_logits(model, images)
    except RuntimeError:  # the image is too small
        assume(False)
    packed = pack(model, input_shape=SHAPE)
    np.testing.assert_array_equal(run(packed, images), expected)
    folded = fold_model(model, example_of(packed))
    assert {proof.proof for proof in Proof.of(folded, packed, None).layers} == {"every integer"}
    assert sum(isinstance(node, Conv) for node in packed.nodes) == len([m for m in layers if isinstance(m, nn.Conv2d)])
