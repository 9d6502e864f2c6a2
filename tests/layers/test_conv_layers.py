"""Binary convolutions, transposed ones too, and dense layers, against torch's own with the binary weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import UsageError
from onebit.layers import BinaryConv1d, BinaryConv2d, BinaryConvTranspose1d, BinaryConvTranspose2d, BinaryLinear
from onebit.quantizers import BinaryWeight, Quantizer, sign
from support.tensors import normal


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
    *((BinaryLinear, nn.Linear, {"bias": bias}) for bias in (False, True)),
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
    """(2, 4), (2, 4, 9) or (2, 4, 9, 8)."""
    return normal(2, 4, *(9, 8)[: kind.axes])


def plain(kind: type, options: dict[str, Any], weight: Tensor, bias: Tensor | None) -> Any:
    """torch's own layer with a given weight."""
    twin = kind(4, 8, **({"bias": False} | options))
    with torch.no_grad():
        twin.weight.copy_(weight)
        if bias is not None:
            twin.bias.copy_(bias)
    return twin


@each_case
@pytest.mark.parametrize("inputs", ["ste_sign", None])
def test_values_gradients_and_keys_are_those_of_torch_with_the_binary_weight(
    kind: Any, plain_kind: Any, options: dict[str, Any], inputs: str | None
) -> None:
    layer = kind(4, 8, weight_quantizer="sign", input_quantizer=inputs, **options)
    shipped = layer.dense(layer.binary_weight())
    assert torch.equal(shipped, sign(layer.weight))
    x = batch(kind).requires_grad_()
    quantized = (x.detach() if inputs is None else sign(x.detach())).requires_grad_()
    twin = plain(plain_kind, options, shipped, layer.bias)
    out = layer(x)
    assert torch.equal(out, twin(quantized))
    assert torch.equal(layer.eval()(x), out)
    incoming = normal(*out.shape, seed=1)
    out.backward(incoming)
    twin(quantized).backward(incoming)
    torch.testing.assert_close(layer.weight.grad, twin.weight.grad)
    torch.testing.assert_close(x.grad, quantized.grad * (1 if inputs is None else x.detach().abs() <= 1))
    if layer.bias is not None:
        torch.testing.assert_close(layer.bias.grad, twin.bias.grad)
    assert [(k, v.shape) for k, v in layer.state_dict().items()] == [(k, v.shape) for k, v in twin.state_dict().items()]
    layer.load_state_dict(twin.state_dict())
    twin.load_state_dict(layer.state_dict())


@each_case
def test_quantizers_get_the_output_channels_first(kind: Any, plain_kind: Any, options: dict[str, Any]) -> None:
    layer = kind(4, 8, weight_quantizer=ChannelMean(), **options)
    groups = options.get("groups", 1)
    binary = layer.binary_weight()
    assert binary.signs.shape == (8, 4 // groups, *getattr(layer, "kernel_size", ()))
    weight = layer.effective_weight().detach()
    assert weight.shape == layer.weight.shape
    assert torch.equal(layer.own_layout(layer.outputs_first(layer.weight)), layer.weight)
    for channel in range(8):
        if issubclass(plain_kind, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            latent, effective = layer.weight[channel], weight[channel]
        else:  # input channels of the group, and the index among its outputs
            group, index = divmod(channel, 8 // groups)
            rows = slice(group * 4 // groups, (group + 1) * 4 // groups)
            latent, effective = layer.weight[rows, index], weight[rows, index]
        mean = latent.detach().abs().mean()
        torch.testing.assert_close(effective, mean * sign(latent.detach()))
        torch.testing.assert_close(binary.scale[channel], mean)


@pytest.mark.parametrize("kind", [BinaryConv2d, BinaryConvTranspose2d])
def test_a_draw_has_the_layout_of_the_latent(kind: Any) -> None:
    layer = kind(4, 6, 3, weight_quantizer="stochastic", groups=2)
    drawn = layer.dense(layer.sample_weight(generator=torch.Generator().manual_seed(0)))
    assert drawn.shape == layer.weight.shape
    assert set(drawn.unique().tolist()) == {-1, 1}
    with torch.no_grad():
        layer.weight.copy_(sign(normal(*layer.weight.shape)))  # p(+1) is 0 or 1: nothing is left to chance
    drawn = layer.dense(layer.sample_weight(generator=torch.Generator().manual_seed(0)))
    assert torch.equal(drawn, layer.weight)


def test_device_and_dtype_are_arguments() -> None:
    layer = BinaryConv2d(2, 3, 3, bias=True, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in layer.parameters()} == {("meta", torch.float64)}
    assert layer(torch.empty(1, 2, 5, 5, device="meta", dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
def test_one_sample_without_an_axis_n_is_quantized_by_channel(kind: Any) -> None:
    layer = kind(4, 6, 3, padding=1, input_quantizer="rsign")
    with torch.no_grad():
        layer.input_quantizer.shift.copy_(torch.linspace(-1, 1, 4))
    x = batch(kind)
    torch.testing.assert_close(layer(x[0]), layer(x)[0])


@pytest.mark.parametrize("value", [1, -1])
@pytest.mark.parametrize(
    ("padding", "margins"), [(1, (1, 1, 1, 1)), ((2, 0), (0, 0, 2, 2)), ("same", (1, 1, 1, 1)), ("valid", (0, 0, 0, 0))]
)
def test_the_border_holds_the_padding_value(
    value: float, padding: int | tuple[int, int] | str, margins: tuple[int, ...]
) -> None:
    layer = BinaryConv2d(3, 4, 3, padding=padding, padding_value=value, input_quantizer="ste_sign")
    x = normal(2, 3, 6, 5)
    padded = F.pad(sign(x), margins, value=value)
    assert torch.equal(layer(x), F.conv2d(padded, sign(layer.weight)))
    # every product is ±1, so that each sum has the parity of the kernel
    assert bool((layer(x).detach() % 2 == 27 % 2).all())
    assert f"padding_value={value}" in repr(layer)


def test_the_padding_value_works_with_other_options_and_one_axis() -> None:
    for options in ({"stride": 2}, {"dilation": 2, "groups": 3}):
        layer = BinaryConv2d(3, 6, 3, padding=2, padding_value=1, bias=True, **options)
        x = normal(2, 3, 6, 5)
        expected = F.conv2d(F.pad(x, (2, 2, 2, 2), value=1), sign(layer.weight), layer.bias, **options)
        assert torch.equal(layer(x), expected)
    row = BinaryConv1d(3, 4, 5, padding=2, stride=2, padding_value=-1, input_quantizer="ste_sign")
    x = normal(2, 3, 8)
    assert torch.equal(row(x), F.conv1d(F.pad(sign(x), (2, 2), value=-1), sign(row.weight), stride=2))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_an_even_kernel_is_padded_like_torch_does_for_same() -> None:
    torch.manual_seed(0)
    x = sign(normal(1, 2, 5, 5))
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


@pytest.mark.parametrize("size", [(7, 9), (8, 10), [8, 9]])
def test_a_transposed_convolution_takes_an_output_size(size: Any) -> None:
    layer = BinaryConvTranspose2d(4, 8, 3, stride=2, padding=1)
    twin = plain(nn.ConvTranspose2d, {"kernel_size": 3, "stride": 2, "padding": 1}, sign(layer.weight.detach()), None)
    x = normal(2, 4, 4, 5)
    assert layer(x, output_size=size).shape == (2, 8, *size)
    assert torch.equal(layer(x, output_size=size), twin(x, output_size=size))
    row = BinaryConvTranspose1d(4, 8, 3, stride=2, padding=1)
    assert row(normal(2, 4, 5), output_size=[size[1]]).shape[2] == size[1]
