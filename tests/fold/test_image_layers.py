"""Layers and functions on images, written in several ways: their nodes, and agreement of the packed net."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings, strategies as st
from torch import Tensor, nn

from onebit.errors import OnebitError
from onebit.fold import pack
from onebit.layers import BinaryConv2d, BinaryConvTranspose2d, BinaryLinear, InputCoding
from onebit.modules.packed_layers import packed_layers_
from onebit.packed import (
    AdaptiveAveragePool,
    AveragePool,
    Conv,
    ConvTranspose,
    MaxPool,
    Pad,
    Slice,
    dumps,
    loads,
)
from onebit.runtime import run
from onebit.verification.agreement import verify
from support.fold_nets import Model, assert_agrees, images_of, kinds, make_nasty, node_of, torch_logits

SHAPE = (3, 9, 8)


class Net(nn.Module):
    """A coded image through a binary convolution into `body`, flattened into a binary dense layer."""

    def __init__(self, body: Callable[[Tensor], Tensor], *, coding: str = "integer", **parts: nn.Module) -> None:
        super().__init__()
        moments = {"mean": [100.0, 120.0, 99.5], "std": [60.0, 50.0, 77.7]} if coding == "standardize" else {}
        torch.manual_seed(0)
        self.coding, self.conv, self.body = InputCoding(coding, **moments), BinaryConv2d(3, 6, 3), body  # type: ignore[arg-type]
        for name, part in parts.items():
            setattr(self, name, part)
        with torch.no_grad():
            features = self.middle(torch.zeros(1, *SHAPE, dtype=torch.uint8)).shape[1]
        self.fc = BinaryLinear(features, 4)

    def middle(self, x: Tensor) -> Tensor:
        return self.body(self.conv(self.coding(x))).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.middle(x))


def check(body: Callable[[Tensor], Any], expected: str) -> Any:
    model = Net(body, coding="standardize").eval()
    packed = pack(model, input_shape=SHAPE)
    assert " ".join(kinds(packed)) == f"Conv {expected} Dense".replace("  ", " ")
    assert_agrees(model, packed, images_of(20, SHAPE))
    assert dumps(loads(dumps(packed))) == dumps(packed)
    return packed


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (nn.MaxPool2d(2), "MaxPool Flatten"),
        (nn.MaxPool2d(3, 2, 1), "MaxPool Flatten"),
        (nn.MaxPool2d(3, 2, ceil_mode=True), "MaxPool Flatten"),
        (nn.MaxPool2d((2, 3), (3, 1), (1, 0), dilation=(1, 2)), "MaxPool Flatten"),
        (lambda x: F.max_pool2d(x, kernel_size=(3, 2), stride=2, padding=1), "MaxPool Flatten"),
        (nn.AvgPool2d(2), "AveragePool Flatten"),
        (nn.AvgPool2d(3, 2, 1), "AveragePool Flatten"),
        (nn.AvgPool2d(3, 2, 1, count_include_pad=False), "AveragePool Flatten"),
        (nn.AvgPool2d(4, 4, ceil_mode=True), "AveragePool Flatten"),
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), "AveragePool Flatten"),
        (lambda x: F.avg_pool2d(x, x.size()[3]), "AveragePool Flatten"),
        (nn.AdaptiveAvgPool2d((3, None)), "AdaptiveAveragePool Flatten"),
        (lambda x: F.adaptive_avg_pool2d(x, (5, 4)), "AdaptiveAveragePool Flatten"),
        (lambda x: x.mean([-1, -2], keepdim=True), "AdaptiveAveragePool Flatten"),
        (lambda x: torch.mean(x, dim=(2, 3)), "AdaptiveAveragePool Flatten"),
        (lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(3).squeeze(-1), "AdaptiveAveragePool Flatten"),
        (lambda x: x + F.relu(x), "Relu Add Flatten"),
        (lambda x: x.add(F.hardtanh(x)), "Hardtanh Add Flatten"),
        (lambda x: torch.cat([x, F.relu(x), x], 1), "Relu Concat Flatten"),
        (lambda x: torch.cat((F.max_pool2d(x, 2), F.avg_pool2d(x, 2)), dim=-3), "MaxPool AveragePool Concat Flatten"),
        (lambda x: torch.cat([x], 1), "Flatten"),
        (lambda x: x[:, :, ::2, ::2], "Slice Flatten"),
        (lambda x: x[..., 1:-1, 2:6:3], "Slice Flatten"),
        (lambda x: x[:], "Flatten"),
        (lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 1), "constant", 0), "Slice Pad Flatten"),
        (lambda x: F.pad(x[:, :, :-2, 1:], (0, 1, 2, 0), value=1.0), "Slice Pad Flatten"),
        (nn.ConstantPad2d(1, -1.0), "Pad Flatten"),
        (nn.Dropout2d(0.3), "Flatten"),
        (nn.Hardtanh(), "Hardtanh Flatten"),
    ],
)
def test_every_way_to_write_operations_on_images(body: Callable[[Tensor], Tensor], expected: str) -> None:
    check(body, expected)


@pytest.mark.parametrize(
    "body",
    [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1), nn.ConstantPad2d(1, -1.0), lambda x: torch.cat([x, F.relu(x)], 1)],
)
def test_operations_on_sums_of_integers(body: Callable[[Tensor], Tensor]) -> None:
    model = Net(body, coding="integer").eval()
    assert_agrees(model, pack(model, input_shape=SHAPE), images_of(20, SHAPE))


def test_pools_round_sizes_like_torch() -> None:
    """`ceil_mode` adds padding at the end, floor does not."""
    assert node_of(check(nn.MaxPool2d(3, 2, ceil_mode=True), "MaxPool Flatten"), MaxPool).padding == (0, 0, 0, 1)
    assert node_of(check(nn.MaxPool2d(4, 4, 1), "MaxPool Flatten"), MaxPool).padding == (1, 1, 1, 1)
    counted = node_of(check(nn.AvgPool2d(3, 2, 1), "AveragePool Flatten"), AveragePool)
    assert (counted.padding, counted.count_padding) == ((1, 1, 1, 1), 1)
    plain = node_of(check(nn.AvgPool2d(4, 4, ceil_mode=True), "AveragePool Flatten"), AveragePool)
    assert (plain.padding, plain.count_padding) == ((0, 1, 0, 2), 0)
    whole = node_of(check(nn.AdaptiveAvgPool2d((3, None)), "AdaptiveAveragePool Flatten"), AdaptiveAveragePool)
    assert whole.size == (3, 6)
    moved = check(lambda x: F.pad(x[:, :, :-2, 1:], (0, 1, 2, 0), value=1.0), "Slice Pad Flatten")
    assert (node_of(moved, Slice).start, node_of(moved, Slice).stop) == ((0, 0, 1), (6, 5, 6))
    assert (node_of(moved, Pad).padding, node_of(moved, Pad).value) == ((2, 0, 0, 1), 1)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=15, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["binary", "real"]), transposed=st.booleans())
def test_drawn_convolutions_agree(data: st.DataObject, kind: str, transposed: bool) -> None:
    def pair(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    groups, inside = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    kernel, stride, dilation = pair(1, 4), pair(1, 3), pair(1, 2)
    padding: Any = pair(0, 2)
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "stride": stride,
        "dilation": dilation,
        "groups": groups,
        "bias": data.draw(st.booleans()),
    }
    options |= {"input_quantizer": data.draw(st.sampled_from([None, "ste_sign"]))}
    options["value"] = data.draw(st.sampled_from([1.0, 0.25, "glorot"]))
    if kind == "real":
        options |= {"weight_quantizer": None, "value": 1.0}
    sizes = (6, groups * inside)
    inputs = nn.Conv2d(3, 6, 1) if 6 % groups == 0 else nn.Conv2d(3, groups * 2, 1)
    if transposed:
        extra = tuple(data.draw(st.integers(0, max(a, b) - 1)) for a, b in zip(stride, dilation, strict=True))
        layer: nn.Module = BinaryConvTranspose2d(
            inputs.out_channels, sizes[1], kernel, padding=padding, output_padding=extra, **options
        )
    else:
        if stride == (1, 1) and data.draw(st.booleans()):
            padding = data.draw(st.sampled_from(["same", "valid"]))
        value = data.draw(st.sampled_from([0.0, 1.0, -1.0]))
        layer = BinaryConv2d(inputs.out_channels, sizes[1], kernel, padding=padding, padding_value=value, **options)
    model = nn.Sequential(InputCoding(), BinaryConv2d(3, inputs.out_channels, 1), nn.Hardtanh(), layer).eval()
    try:
        shape = model(torch.zeros(1, 3, 5, 4, dtype=torch.uint8)).shape
    except RuntimeError:
        assume(False)
    assume(min(shape) > 0)
    packed = pack(model, input_shape=(3, 5, 4))
    names = {True: ("ConvTranspose", "RealConvTranspose"), False: ("Conv", "RealConv")}[transposed]
    assert names[kind == "real"] in kinds(packed)
    assert_agrees(model, packed, images_of(6, (3, 5, 4)))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_asymmetric_same_padding_is_that_of_torch() -> None:
    model = nn.Sequential(InputCoding(), BinaryConv2d(3, 4, (2, 3), padding="same"), nn.Flatten(), BinaryLinear(288, 2))
    packed = pack(model.eval(), input_shape=SHAPE)
    assert node_of(packed, Conv).padding == (0, 1, 1, 1)
    np.testing.assert_array_equal(run(packed, images_of(9, SHAPE)), torch_logits(model, images_of(9, SHAPE)))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    ("kind", "padding", "changed"),
    [
        (BinaryConv2d, 1, {"padding": (2, 2), "dilation": (2, 2)}),
        (BinaryConv2d, "same", {"dilation": (2, 2)}),
        (BinaryConv2d, "same", {"padding": 0}),
        (nn.Conv2d, "same", {"dilation": (2, 2)}),
    ],
)
def test_a_convolution_changed_after_its_construction_packs(kind: Any, padding: Any, changed: dict[str, Any]) -> None:
    """Backbones are dilated after they are made; torch keeps a field of the padding of before."""
    torch.manual_seed(0)
    model = nn.Sequential(InputCoding(), BinaryConv2d(3, 4, 3), kind(4, 5, 3, padding=padding)).eval()
    for name, value in changed.items():
        setattr(model[2], name, value)
    assert_agrees(model, pack(model, input_shape=(3, 9, 8)), images_of(7, (3, 9, 8)))
    if kind is BinaryConv2d:
        images = torch.from_numpy(images_of(7, (3, 9, 8)))
        before = model(images)
        packed_layers_(model)
        torch.testing.assert_close(model(images), before)


def test_a_border_before_a_convolution_is_its_padding() -> None:
    def padded(border: nn.Module, conv: nn.Module, expected: str = "Conv Flatten") -> Any:
        return check(nn.Sequential(border, conv), expected).nodes[1]

    same = padded(nn.ZeroPad2d((0, 1, 1, 1)), nn.Conv2d(6, 4, 3, stride=2, bias=False), "RealConv Flatten")
    assert (same.padding, same.padding_value) == ((1, 1, 0, 1), 0)
    assert padded(nn.ZeroPad2d((0, 2, 0, 0)), BinaryConv2d(6, 4, 3, padding=1)).padding == (1, 1, 1, 3)
    assert padded(nn.ConstantPad2d(1, -1.0), BinaryConv2d(6, 4, 3)).padding_value == -1
    padded(nn.ConstantPad2d(1, 1.0), BinaryConv2d(6, 4, 3, padding=1), "Pad Conv Flatten")


@pytest.mark.parametrize("negated", [lambda x: F.max_pool2d(-x, 2), lambda x: 2 * F.adaptive_max_pool2d(x * -0.5, 5)])
@pytest.mark.parametrize("behind", [BinaryConv2d(4, 5, 3), nn.Conv2d(4, 5, 3)])
def test_max_pools_of_negated_integers(negated: Callable[[Tensor], Tensor], behind: nn.Module) -> None:
    forward = lambda m, x: m.behind(negated(m.first(x.float()))).mean((2, 3))  # noqa: E731
    model = Model(forward, first=BinaryConv2d(3, 4, 3), behind=behind).eval()
    assert_agrees(model, pack(model, input_shape=(3, 12, 12)), images_of(9, (3, 12, 12)))


def test_a_transposed_convolution_called_with_a_size() -> None:
    up = BinaryConvTranspose2d(3, 2, 3, stride=2, padding=1)
    model = Model(lambda m, x: m.up(m.coding(x), output_size=[18, 15]), coding=InputCoding(), up=up).eval()
    packed = pack(model, input_shape=SHAPE)
    assert node_of(packed, ConvTranspose).extra == (1, 0)
    np.testing.assert_array_equal(run(packed, images_of(3, SHAPE)), torch_logits(model, images_of(3, SHAPE)))


def test_a_norm_after_a_scaled_convolution_is_one_map_by_channel() -> None:
    torch.manual_seed(0)
    model = make_nasty(
        nn.Sequential(InputCoding(), BinaryConv2d(3, 5, 3, value=0.3, bias=True), nn.BatchNorm2d(5), nn.ReLU())
    )
    packed = pack(model, input_shape=SHAPE)
    assert kinds(packed) == ["Conv", "Affine", "Relu"]
    assert node_of(packed, Conv).scale is None
    assert_agrees(model, packed, images_of(20, SHAPE))


@pytest.mark.filterwarnings("ignore:This overload of")  # torch.add(x, 2, y)
@pytest.mark.parametrize(
    ("body", "noun"),
    [
        (lambda x: F.avg_pool2d(x, 3, divisor_override=2), "divisor_override"),
        (nn.AvgPool2d(3, 3, 1, ceil_mode=True), "padding"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "max_pool2d"),
        (lambda x: torch.add(x, x, alpha=2), "alpha"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "rounding"),
        (lambda x: torch.add(x, 2, x), "operands"),
        (lambda x: x.clamp(min=float("inf")).clamp(max=5.0), "clamp"),
        (lambda x: x.mean(0, keepdim=True), "mean"),
        (lambda x: torch.cat([x, x], 0), "batch"),
        (lambda x: x.flip(0), "flip"),
        (lambda x: x.repeat(2, 1, 1, 1)[:1], "repeat"),
        (lambda x: x[:, [0, 2], [1, 1]], "getitem"),
        (lambda x: F.pad(x, (1, 1), value=0.5), "0.5"),
        (lambda x: F.pad(x, (-1, 1)), "padding"),
        (lambda x: x[0], "getitem"),
        (lambda x: x[:1], "getitem"),
        (lambda x: torch.chunk(x, 2, 0)[0], "batch"),
        (lambda x: torch.cat(x.chunk(2, 1), 1), "cat"),
        (nn.InstanceNorm2d(6), "InstanceNorm2d"),
        (nn.BatchNorm2d(6, track_running_stats=False), "BatchNorm2d"),
        (lambda x: F.batch_norm(x, None, None, training=True), "batch"),
        (
            lambda x: torch.batch_norm(x, None, None, torch.ones(6), torch.ones(6), False, 0.1, 1e-5, False),
            "batch_norm",
        ),
        (lambda x: F.conv2d(x, x)[:, :1], "weights"),
    ],
)
def test_what_cannot_be_packed_is_named(body: Callable[[Tensor], Tensor], noun: str) -> None:
    with pytest.raises(OnebitError, match=noun):
        pack(Net(body).eval(), input_shape=SHAPE)


def test_sampled_convolutions_are_those_of_evaluate() -> None:
    torch.manual_seed(0)
    layers = [BinaryConvTranspose2d(3, 5, 2, stride=2, weight_quantizer="stochastic"), nn.BatchNorm2d(5), nn.ReLU()]
    model = nn.Sequential(InputCoding(), *layers, BinaryConv2d(5, 2, 3, weight_quantizer="stochastic")).eval()
    packed = pack(model, input_shape=SHAPE, weights="sample", seed=3)
    assert verify(model, packed, images_of(9, SHAPE), weights="sample", seed=3).max_logit_difference < 1
    assert verify(model, packed, images_of(9, SHAPE), weights="sample", seed=4).max_logit_difference > 100
