"""Binary convolutions, transposed ones too, against torch's own with the binary weight."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import UsageError
from onebit.layers import BinaryConv1d, BinaryConv2d, BinaryConvTranspose1d, BinaryConvTranspose2d
from onebit.quantizers import BinaryWeight, Quantizer, sign


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class ChannelMean(Quantizer):
    """Mean magnitude per output channel times the sign: shows which axis a quantizer takes for the outputs."""

    def forward(self, latent: Tensor) -> Tensor:
        return self.decompose(latent).dense()

    def decompose(self, latent: Tensor) -> BinaryWeight:
        return BinaryWeight(sign(latent.detach()), latent.detach().abs().flatten(1).mean(1))


CONVS: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 1, "bias": True},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
    {"kernel_size": 3, "padding": 1, "dilation": 2, "groups": 2},
    {"kernel_size": 3, "stride": 2, "padding": 2, "groups": 4, "bias": True},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": (3, 5), "padding": "same", "dilation": (1, 2)},
    {"kernel_size": 3, "padding": "valid", "stride": 2},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": (1, 2), "padding_mode": "circular", "stride": 2},
    {"kernel_size": 3, "padding": "same", "padding_mode": "replicate"},
]
TRANSPOSED: list[dict[str, Any]] = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 1, "bias": True},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "bias": True},
    {"kernel_size": 3, "groups": 2, "dilation": 2},
    {"kernel_size": (2, 3), "stride": 3, "groups": 4, "output_padding": (1, 0)},
]
CONVS_1D: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 5, "stride": 2, "padding": 2, "groups": 4, "bias": True},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 3, "padding": 2, "padding_mode": "circular"},
]
TRANSPOSED_1D: list[dict[str, Any]] = [
    {"kernel_size": 2, "stride": 2, "groups": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "dilation": 2, "bias": True},
]
CASES = [
    *((BinaryConv1d, nn.Conv1d, o) for o in CONVS_1D),
    *((BinaryConv2d, nn.Conv2d, o) for o in CONVS),
    *((BinaryConvTranspose1d, nn.ConvTranspose1d, o) for o in TRANSPOSED_1D),
    *((BinaryConvTranspose2d, nn.ConvTranspose2d, o) for o in TRANSPOSED),
]
KINDS = [BinaryConv1d, BinaryConv2d, BinaryConvTranspose1d, BinaryConvTranspose2d]
each_case = pytest.mark.parametrize(
    ("kind", "plain_kind", "options"), CASES, ids=[f"{k.__name__}-{i}" for i, (k, _, _) in enumerate(CASES)]
)


def batch(kind: Any) -> Tensor:
    """(2, 4, 9) or (2, 4, 9, 8)."""
    return numbers(2, 4, 9, 8) if kind.axes == 2 else numbers(2, 4, 9)


def plain(kind: type, options: dict[str, Any], weight: Tensor, bias: Tensor | None) -> Any:
    """torch's own layer with a given weight."""
    twin = kind(4, 8, **({"bias": False} | options))
    with torch.no_grad():
        twin.weight.copy_(weight)
        if bias is not None:
            twin.bias.copy_(bias)
    return twin


# ---------------------------------------------------------------------------------------------------------- both kinds
@each_case
@pytest.mark.parametrize("inputs", ["ste_sign", None])
def test_forward_is_the_convolution_with_the_weight_that_ships(
    kind: Any, plain_kind: Any, options: dict[str, Any], inputs: str | None
) -> None:
    layer = kind(4, 8, weight_quantizer="sign", input_quantizer=inputs, **options).eval()
    shipped = layer.dense(layer.binary_weight())
    assert shipped.shape == layer.weight.shape
    assert torch.equal(shipped, sign(layer.weight))
    x = batch(kind)
    expected = plain(plain_kind, options, shipped, layer.bias)(x if inputs is None else sign(x))
    assert torch.equal(layer(x), expected)


@each_case
def test_the_gradient_of_the_convolution_reaches_latent_input_and_bias(
    kind: Any, plain_kind: Any, options: dict[str, Any]
) -> None:
    layer = kind(4, 8, weight_quantizer="sign", input_quantizer="ste_sign", **options)
    x = batch(kind).requires_grad_()
    signs = sign(x.detach()).requires_grad_()
    twin = plain(plain_kind, options, sign(layer.weight.detach()), layer.bias)
    out = layer(x)
    incoming = numbers(*out.shape, seed=1)
    out.backward(incoming)
    twin(signs).backward(incoming)
    assert x.grad is not None
    assert signs.grad is not None
    torch.testing.assert_close(layer.weight.grad, twin.weight.grad)
    torch.testing.assert_close(x.grad, signs.grad * (x.detach().abs() <= 1))
    if layer.bias is not None:
        torch.testing.assert_close(layer.bias.grad, twin.bias.grad)


@each_case
def test_the_state_dict_is_that_of_the_plain_twin(kind: Any, plain_kind: Any, options: dict[str, Any]) -> None:
    binary, twin = kind(4, 8, **options), plain_kind(4, 8, **({"bias": False} | options))
    assert [(k, v.shape) for k, v in binary.state_dict().items()] == [
        (k, v.shape) for k, v in twin.state_dict().items()
    ]
    binary.load_state_dict(twin.state_dict())
    twin.load_state_dict(binary.state_dict())


@each_case
def test_quantizers_see_the_output_channels_first(kind: Any, plain_kind: Any, options: dict[str, Any]) -> None:
    layer = kind(4, 8, weight_quantizer=ChannelMean(), **options)
    groups = options.get("groups", 1)
    binary = layer.binary_weight()
    assert binary.signs.shape == (8, 4 // groups, *layer.kernel_size)
    weight = layer.effective_weight().detach()
    assert weight.shape == layer.weight.shape
    assert torch.equal(layer.own_layout(layer.outputs_first(layer.weight)), layer.weight)
    for channel in range(8):
        if issubclass(plain_kind, (nn.Conv1d, nn.Conv2d)):
            latent, effective = layer.weight[channel], weight[channel]
        else:  # input channels of the channel's own group, and its place among that group's outputs
            group, place = divmod(channel, 8 // groups)
            rows = slice(group * 4 // groups, (group + 1) * 4 // groups)
            latent, effective = layer.weight[rows, place], weight[rows, place]
        mean = latent.detach().abs().mean()
        torch.testing.assert_close(effective, mean * sign(latent.detach()))
        torch.testing.assert_close(binary.scale[channel], mean)


@pytest.mark.parametrize(("kind", "fans"), [(BinaryConv2d, 8 + 2), (BinaryConvTranspose2d, 8 + 2)])
@pytest.mark.parametrize("name", ["sign", "stochastic"])
def test_the_glorot_value_counts_kernel_area_times_channels(kind: Any, fans: int, name: str) -> None:
    layer = kind(4, 8, (3, 2), groups=2, weight_quantizer=name, value="glorot").eval()
    bound = math.sqrt(1.5 / (3 * 2 * fans))
    assert layer.weight_quantizer.latent_bound == pytest.approx(bound, rel=1e-12)
    torch.testing.assert_close(layer.effective_weight().abs(), torch.full_like(layer.weight, bound))


@pytest.mark.parametrize("kind", [BinaryConv2d, BinaryConvTranspose2d])
def test_a_draw_has_the_layout_of_the_latent(kind: Any) -> None:
    layer = kind(4, 6, 3, weight_quantizer="stochastic", groups=2)
    drawn = layer.dense(layer.sample_weight(generator=torch.Generator().manual_seed(0)))
    assert drawn.shape == layer.weight.shape
    assert set(drawn.unique().tolist()) == {-1, 1}
    with torch.no_grad():
        layer.weight.copy_(sign(numbers(*layer.weight.shape)))  # p(+1) is 0 or 1: nothing is left to chance
    drawn = layer.dense(layer.sample_weight(generator=torch.Generator().manual_seed(0)))
    assert torch.equal(drawn, layer.weight)


@pytest.mark.parametrize("kind", [BinaryConv2d, BinaryConvTranspose2d])
def test_a_layer_of_another_type_and_place_can_be_asked_for(kind: Any) -> None:
    layer = kind(2, 3, 3, bias=True, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float64)}
    assert layer(torch.empty(1, 2, 5, 5, device="meta", dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
def test_one_sample_without_an_axis_n_is_quantized_by_channel(kind: Any) -> None:
    layer = kind(4, 6, 3, padding=1, input_quantizer="rsign")
    with torch.no_grad():
        layer.input_quantizer.shift.copy_(torch.linspace(-1, 1, 4))
    x = batch(kind)
    torch.testing.assert_close(layer(x[0]), layer(x)[0])


# --------------------------------------------------------------------------------------------------- ±1 at the border
@pytest.mark.parametrize("value", [1, -1])
def test_the_border_of_one_axis_holds_the_padding_value(value: float) -> None:
    layer = BinaryConv1d(3, 4, 5, padding=2, stride=2, padding_value=value, input_quantizer="ste_sign")
    x = numbers(2, 3, 8)
    expected = F.conv1d(F.pad(sign(x), (2, 2), value=value), sign(layer.weight), stride=2)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("value", [1, -1])
@pytest.mark.parametrize(
    ("padding", "margins"), [(1, (1, 1, 1, 1)), ((2, 0), (0, 0, 2, 2)), ("same", (1, 1, 1, 1)), ("valid", (0, 0, 0, 0))]
)
def test_the_border_holds_the_padding_value(
    value: float, padding: int | tuple[int, int] | str, margins: tuple[int, ...]
) -> None:
    layer = BinaryConv2d(3, 4, 3, padding=padding, padding_value=value, input_quantizer="ste_sign")
    x = numbers(2, 3, 6, 5)
    padded = F.pad(sign(x), margins, value=value)
    assert torch.equal(layer(x), F.conv2d(padded, sign(layer.weight)))
    # every product is ±1, so that each sum has the parity of the kernel
    assert bool((layer(x).detach() % 2 == 27 % 2).all())
    assert f"padding_value={value}" in repr(layer)


@pytest.mark.parametrize("options", [{"stride": 2}, {"dilation": 2, "groups": 3}, {"bias": True}])
def test_the_padding_value_goes_with_the_other_options(options: dict[str, Any]) -> None:
    layer = BinaryConv2d(3, 6, 3, padding=2, padding_value=1, **options)
    x = numbers(2, 3, 6, 5)
    given = {k: v for k, v in options.items() if k != "bias"}
    expected = F.conv2d(F.pad(x, (2, 2, 2, 2), value=1), sign(layer.weight), layer.bias, **given)
    assert torch.equal(layer(x), expected)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_an_even_kernel_is_padded_like_torch_does_for_same() -> None:
    x = sign(numbers(1, 2, 5, 5))
    layers = [BinaryConv2d(2, 2, 2, padding="same", padding_value=value) for value in (1, 0)]
    layers[1].load_state_dict(layers[0].state_dict())
    one, zero = (layer(x) for layer in layers)
    assert one.shape == zero.shape == (1, 2, 5, 5)
    inner = (slice(None), slice(None), slice(0, 4), slice(0, 4))  # torch adds the odd row below and to the right
    assert torch.equal(one[inner], zero[inner])
    assert not torch.equal(one, zero)


@pytest.mark.parametrize("options", [{"padding_value": 0.5}, {"padding_value": 1, "padding_mode": "circular"}])
def test_another_padding_value_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="padding_value"):
        BinaryConv2d(2, 2, 3, padding=1, **options)


# ---------------------------------------------------------------------------------------------------- transposed only
def test_an_output_size_of_one_axis() -> None:
    layer = BinaryConvTranspose1d(4, 8, 3, stride=2, padding=1)
    assert [layer(numbers(2, 4, 5), output_size=[size]).shape[2] for size in (9, 10)] == [9, 10]


@pytest.mark.parametrize("size", [(7, 9), (8, 10), [8, 9]])
def test_an_output_size_can_be_asked_for(size: Any) -> None:
    layer = BinaryConvTranspose2d(4, 8, 3, stride=2, padding=1)
    twin = plain(nn.ConvTranspose2d, {"kernel_size": 3, "stride": 2, "padding": 1}, sign(layer.weight.detach()), None)
    x = numbers(2, 4, 4, 5)
    assert layer(x, output_size=size).shape == (2, 8, *size)
    assert torch.equal(layer(x, output_size=size), twin(x, output_size=size))


def test_it_undoes_the_shape_of_the_convolution_it_is_the_gradient_of() -> None:
    x = numbers(2, 4, 9, 9)
    conv = BinaryConv2d(4, 6, 3, stride=2)
    back = BinaryConvTranspose2d(6, 4, 3, stride=2)
    with torch.no_grad():
        back.weight.copy_(conv.weight)
    y = conv(x)
    # <conv(x), y> = <x, transposed(y)>
    torch.testing.assert_close((y * y).sum(), (x * back(y)).sum())
    assert back(y).shape == x.shape
