"""Every operation in every spelling: a packed net answers what torch answers, for real values and for signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.fold import pack
from onebit.layers import BinaryConv1d, BinaryConv2d, BinaryConvTranspose1d, BinaryLinear, RPReLU
from onebit.quantizers import SteSign
from support.covering import covering
from support.fold_nets import assert_answers, inputs_of

Body = Callable[["Net", Tensor], Any]

IMAGE = (4, 6, 8)
SIGNAL = (4, 12)
TOKENS = (5, 6)
FEATURES = (6,)


class Net(nn.Module):
    """A binary layer on the channels, a BatchNorm, `body`, and a dense layer of its signs or of its values."""

    def __init__(self, body: Body, shape: tuple[int, ...], *, signs: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, rank = body, len(shape)
        channels = shape[0]
        self.first: nn.Module = {
            1: lambda: BinaryLinear(channels, channels),
            2: lambda: BinaryConv1d(channels, channels, 3, padding=1),
            3: lambda: BinaryConv2d(channels, channels, 3, padding=1),
        }[rank]()
        self.norm = nn.BatchNorm2d(channels) if rank == 3 else nn.BatchNorm1d(channels)
        with torch.no_grad():
            for tensor in (self.norm.weight, self.norm.bias, self.norm.running_mean):
                assert tensor is not None
                tensor.normal_()
            assert self.norm.running_var is not None
            self.norm.running_var.uniform_(9, 90)
        self.vector, self.weight = nn.Parameter(torch.randn(channels)), nn.Parameter(torch.randn(7, shape[-1]))
        self.position = nn.Parameter(torch.randn(1, *shape))
        self.register_buffer("gate", torch.rand(channels, *[1] * (rank - 1)))
        self.register_buffer("number", torch.tensor(1.7))
        self.plain = torch.randn(shape[-1:])
        self.act: nn.Module | None = None
        self.eval()
        with torch.no_grad():
            made = body(self, self.norm(self.first(torch.randn(2, *shape))))
        size = made.flatten(1).shape[1] if made.dim() > 1 else 1
        self.out = BinaryLinear(size, 5, input_quantizer="ste_sign" if signs else None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self, self.norm(self.first(x.float())))
        return self.out(y.reshape(len(y), -1) + 0.013)  # no ties, which torch's rounding of a sum would decide


def with_module(module: Callable[[], nn.Module]) -> Body:
    def body(net: Net, x: Tensor) -> Tensor:
        if net.act is None:
            net.act = module().eval()
            with torch.no_grad():
                for parameter in net.act.parameters():
                    parameter.uniform_(0.1, 0.9)
        return net.act(x)

    return body


def _residual(x: Tensor) -> Tensor:
    out = F.relu(x)
    out += x
    return out


def _unused(net: Net, x: Tensor) -> Tensor:
    F.relu(x).argmax()
    return x / x[0].numel() + len(x[0].flatten())


ANY_SHAPE: dict[str, Body] = {
    "relu": lambda net, x: F.relu(x),
    "x.relu_": lambda net, x: (x + 0.3).relu_(),
    "ReLU6": with_module(nn.ReLU6),
    "LeakyReLU": with_module(lambda: nn.LeakyReLU(0.2)),
    "LeakyReLU negative": with_module(lambda: nn.LeakyReLU(-0.2)),
    "PReLU": with_module(nn.PReLU),
    "F.prelu": lambda net, x: F.prelu(x, net.vector.abs()),
    "Hardtanh": with_module(lambda: nn.Hardtanh(-0.3, 2.5)),
    "F.hardtanh": lambda net, x: F.hardtanh(x, -0.3, max_val=2.5),
    "Hardsigmoid": with_module(nn.Hardsigmoid),
    "F.hardsigmoid": lambda net, x: F.hardsigmoid(x) - 0.4,
    "Hardswish": with_module(nn.Hardswish),
    "F.hardswish": lambda net, x: F.hardswish(x - 0.4, inplace=True),
    "Sigmoid": with_module(nn.Sigmoid),
    "sigmoid": lambda net, x: torch.sigmoid(x) - 0.4,
    "x.sigmoid": lambda net, x: x.sigmoid() - 0.6,
    "F.sigmoid": lambda net, x: F.sigmoid(x) - x.sigmoid_(),
    "Tanh": with_module(nn.Tanh),
    "tanh": lambda net, x: torch.tanh(x) - (x * 2).tanh_() + F.tanh(x + 1),
    "SiLU": with_module(lambda: nn.SiLU(inplace=True)),
    "F.silu": lambda net, x: F.silu(x),
    "Mish": with_module(nn.Mish),
    "F.mish": lambda net, x: F.mish(x - 0.3, inplace=True),
    "swish": lambda net, x: x.mul(x.sigmoid()),
    "GELU": with_module(nn.GELU),
    "GELU tanh": with_module(lambda: nn.GELU("tanh")),
    "F.gelu": lambda net, x: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "clamp": lambda net, x: torch.clamp(x, -0.5, 1.0),
    "x.clamp": lambda net, x: x.clamp(max=0.7),
    "x.clamp_": lambda net, x: (x * 2).clamp_(min=-0.7),
    "clamp_min": lambda net, x: torch.clamp_min(x, -0.2),
    "x.clamp_max": lambda net, x: x.clamp_max(0.2),
    "clamp to infinity": lambda net, x: x.clamp(-0.3, float("inf")).clamp(float("-inf"), 5),
    "clamp by a buffer": lambda net, x: x.clip(max=net.number),
    "Dropout": with_module(lambda: nn.Dropout(0.5)),
    "F.dropout": lambda net, x: F.dropout(x, 0.5, net.training),
    "Identity": with_module(nn.Identity),
    "x + 2": lambda net, x: x + 2,
    "0.5 - x": lambda net, x: 0.5 - x,
    "x * 3": lambda net, x: 3 * x * -2.0,
    "x / 7": lambda net, x: x / 7,
    "-x": lambda net, x: -x,
    "x += 1": lambda net, x: _in_place(x),
    "x.add_": lambda net, x: (x * 1.5).add_(0.25).sub_(0.5).mul_(0.5).div_(3),
    "a number of the model": lambda net, x: x * net.number - net.number,
    "a gate per channel": lambda net, x: x * net.gate,
    "a gate computed": lambda net, x: x * (net.gate + 1).sqrt() / net.gate.exp(),
    "operands by name": lambda net, x: torch.mul(input=torch.add(input=x, other=1.5), other=2),
    "a position": lambda net, x: x + net.position,
    "a position before": lambda net, x: net.position - x,
    "a position expanded": lambda net, x: x + net.position.expand(len(x), *net.position.shape[1:]),
    "along the last axis": lambda net, x: x + net.plain,
    "x + x": lambda net, x: x + x,
    "x - y": lambda net, x: x - torch.relu(x) * 0.5,
    "x * y": lambda net, x: x * F.hardsigmoid(x),
    "what nothing reads": _unused,
    "flatten": lambda net, x: x.flatten(1),
    "Flatten": with_module(nn.Flatten),
    "view of the batch": lambda net, x: x.view(x.size(0), -1) - 0.5,
    "reshape of the batch": lambda net, x: torch.reshape(x, (x.shape[0], x.shape[1] // 2, -1)),
    "new axes": lambda net, x: x[:, None].squeeze(1)[..., None].squeeze(),
    "F.relu in place": lambda net, x: F.relu(x * 2, inplace=True),
    "leaky_relu_": lambda net, x: F.leaky_relu_(x + 0.1, 0.2),
    "a new tensor": lambda net, x: x * torch.tensor(0.3) + torch.ones(x.shape[1:]),
    "AlphaDropout": with_module(nn.AlphaDropout),
    "iadd of a value": lambda net, x: _residual(x),
    "subtract": lambda net, x: torch.subtract(x, 0.2).multiply(2).divide(3).subtract(x).negative(),
    "clone": lambda net, x: x.clone().detach().contiguous().to(torch.float32).type(torch.float32).cpu(),
    "to like": lambda net, x: x.to(x).type_as(x),
    "unsqueeze last": lambda net, x: torch.squeeze(torch.unsqueeze(x, -1), -1) * net.gate,
    "view": lambda net, x: x.view(len(x), 2, -1),
    "view_as": lambda net, x: x.view(x.size(0), -1).view_as(x) * net.gate,
    "Unflatten": with_module(lambda: nn.Unflatten(1, (2, -1))),
    "cat": lambda net, x: torch.cat([x, F.relu(x)], dim=1),
    "cat with axis": lambda net, x: torch.cat([x, x.chunk(2, axis=1)[0]], axis=1),
    "cat last": lambda net, x: torch.cat((x, x * 2, F.relu(x)), -1),
    "stack": lambda net, x: torch.stack([x, F.relu(x)], 1),
    "stack last": lambda net, x: torch.stack((x, x + 1), dim=-1),
    "chunk both": lambda net, x: _glu(x),
    "split": lambda net, x: torch.split(x, [1, 2, x.shape[1] - 3], dim=1)[2],
    "unbind": lambda net, x: torch.stack(x.unbind(1)[1:3], 1),
    "slice with steps": lambda net, x: x[:, ::2],
    "index": lambda net, x: x[:, -1:] + x[:, :1],
    "flip": lambda net, x: x.flip(-1),
    "roll": lambda net, x: torch.roll(x, 2, 1),
    "repeat": lambda net, x: x.repeat(1, 2, *[1] * (x.dim() - 2)),
    "repeat_interleave": lambda net, x: x.repeat_interleave(2, dim=-1),
    "a list of indices": lambda net, x: x[:, [0, 2, 2]],
    "Linear last": lambda net, x: F.linear(x, net.weight, net.weight[:, 0]),
    "a layer of constants": lambda net, x: x * with_module(nn.Sigmoid)(net, net.gate) + 0.1,
    "a quantizer of constants": lambda net, x: x * with_module(SteSign)(net, net.gate),
    "matmul": lambda net, x: x @ net.weight.t() + torch.matmul(x, net.weight.T),
}  # fmt: skip


def _in_place(x: Tensor) -> Tensor:
    x += 1
    x -= 0.5
    x *= 2
    x /= 3
    return x


def _glu(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return a * F.hardsigmoid(b)


def _excited(net: Net, x: Tensor) -> Tensor:
    squeezed = x.mean((2, 3), keepdim=True)
    return x * F.hardsigmoid(squeezed * net.gate + 0.5)


class NormAct(nn.BatchNorm2d):
    """A BatchNorm with its activation, as in timm."""

    def forward(self, x: Tensor) -> Tensor:
        training = self.training and self.track_running_stats
        y = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training, self.momentum or 0.0, self.eps
        )
        return F.relu(y)


class CallsNorm(nn.BatchNorm2d):
    """A subclass that calls the forward of its base class."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Standardized(nn.Conv2d):
    """A convolution with standardized weights and "same" padding, as in TensorFlow."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(F.pad(x, (0, 1, 1, 1)), weight, bias, self.stride, dilation=self.dilation)


IMAGES: dict[str, Body] = {
    "F.batch_norm": lambda net, x: F.batch_norm(x, net.vector, net.vector.exp(), bias=net.vector * 2, eps=0.1),
    "SyncBatchNorm": with_module(lambda: nn.SyncBatchNorm(4)),
    "a norm with its activation": with_module(lambda: NormAct(4)),
    "a norm that calls its base": with_module(lambda: CallsNorm(4, affine=False)),
    "standardized weights": with_module(lambda: Standardized(4, 5, 3, stride=2)),
    "F.conv2d": lambda net, x: F.conv2d(x, net.weight[:, :4, None, None], net.weight[:, 0], padding="same"),
    "F.conv2d in groups": lambda net, x: F.conv2d(x, weight=net.weight[:4, :1, None, None], groups=4, stride=(1, 2)),
    "F.conv_transpose2d": lambda net, x: F.conv_transpose2d(x, net.weight[:4, :6, None].unflatten(1, (3, 2)), None, 2),
    "MaxPool2d": with_module(lambda: nn.MaxPool2d(3, 2, 1)),
    "avg_pool2d": lambda net, x: F.avg_pool2d(x, (2, 4), stride=2),
    "AvgPool2d": with_module(lambda: nn.AvgPool2d(2, ceil_mode=True)),
    "AdaptiveAvgPool2d": with_module(lambda: nn.AdaptiveAvgPool2d((2, 3))),
    "AdaptiveMaxPool2d": with_module(lambda: nn.AdaptiveMaxPool2d(2)),
    "adaptive_max_pool2d": lambda net, x: F.adaptive_max_pool2d(x, 1),
    "mean with axis": lambda net, x: x.mean(axis=(2, 3), keepdims=True) + x.sum(axis=-1, keepdim=True),
    "mean after mean": lambda net, x: x.mean(-1).mean(dim=-1),
    "squeeze all": lambda net, x: F.adaptive_avg_pool2d(x, (1, 1)).squeeze(),
    "swapaxes": lambda net, x: x.swapaxes(2, 3).swapdims(1, 2),
    "nearest-exact": lambda net, x: F.interpolate(x, scale_factor=2.0, mode="nearest-exact"),
    "Upsample to": with_module(lambda: nn.Upsample(size=(12, 16), mode="nearest")),
    "gate of channels": lambda net, x: x * F.hardsigmoid(x.mean((2, 3)))[:, :, None, None],
    "gate of an activation": lambda net, x: F.silu(x.mean((2, 3), keepdim=True)).sigmoid() * F.hardswish(x),
    "bias of channels": lambda net, x: x.mean((2, 3), keepdim=True) + x - x.amax((2, 3), keepdim=True),
    "gate expanded": lambda net, x: x * F.relu6(x.mean((2, 3)) + 3).div(6).view(len(x), -1, 1, 1).expand_as(x),
    "binary depthwise": with_module(lambda: BinaryConv2d(4, 4, 3, padding=1, groups=4, bias=True)),
    "depthwise and pointwise": with_module(
        lambda: nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU6(), BinaryConv2d(4, 6, 1, weight_quantizer="xnor")
        )
    ),
    "mean of channels": lambda net, x: x.mean(1),
    "mean of all": lambda net, x: x.mean([1, 2, 3]),
    "sum": lambda net, x: x.sum(dim=(2, 3)),
    "amax": lambda net, x: x.amax((-2, -1)),
    "squeeze and excite": _excited,
    "spatial gate": lambda net, x: x * F.hardsigmoid(x.mean(1, keepdim=True)),
    "interpolate": lambda net, x: F.interpolate(x, scale_factor=2),
    "interpolate to": lambda net, x: F.interpolate(x, size=(12, 32), mode="nearest"),
    "UpsamplingNearest2d": with_module(lambda: nn.UpsamplingNearest2d(scale_factor=2)),
    "reflect": lambda net, x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
    "ReplicationPad2d": with_module(lambda: nn.ReplicationPad2d((0, 3, 1, 2))),
    "circular": lambda net, x: F.pad(x, (2, 1, 0, 3), "circular"),
    "Conv2d reflects": with_module(lambda: nn.Conv2d(4, 5, (3, 2), padding="same", padding_mode="reflect")),
    "BinaryConv2d wraps": with_module(
        lambda: BinaryConv2d(4, 5, 3, padding=(1, 2), padding_mode="circular", input_quantizer="ste_sign")
    ),
    "interpolate by 1.7": lambda net, x: F.interpolate(x, scale_factor=1.7),
    "AdaptiveAvgPool2d larger": with_module(lambda: nn.AdaptiveAvgPool2d((9, 11))),
    "AdaptiveMaxPool2d uneven": with_module(lambda: nn.AdaptiveMaxPool2d((4, 11))),
    "ChannelShuffle": with_module(lambda: nn.ChannelShuffle(2)),
    "PixelShuffle": with_module(lambda: nn.PixelShuffle(2)),
    "pixel_unshuffle": lambda net, x: F.pixel_unshuffle(x, 2),
    "cat of kinds": lambda net, x: torch.cat([x, with_module(SteSign)(net, x), net.first(x)], 1),
    "permute": lambda net, x: x.permute(0, 2, 3, 1),
    "transpose": lambda net, x: x.transpose(1, -1),
    "movedim": lambda net, x: torch.movedim(x, 1, -1),
    "tokens": lambda net, x: F.linear(x.flatten(2).transpose(1, 2), net.weight[:, :4]).mean(1),
    "shuffle": lambda net, x: x.view(len(x), 2, 2, 6, 8).transpose(1, 2).reshape(len(x), 4, 6, 8) * net.gate,
    "expand": lambda net, x: x.mean((2, 3), keepdim=True).expand(-1, -1, 3, 2),
    "expand_as": lambda net, x: x.amax((2, 3), keepdim=True).expand_as(x) - x,
    "crop": lambda net, x: x[:, :, 1:-1, ::3],
    "integers": lambda net, x: x[:, 2, :, -1],
    "ellipsis": lambda net, x: x[:, None, ..., 0],
    "chunk rows": lambda net, x: torch.cat(x.chunk(3, 2)[::-1], 2),
    "ConstantPad2d": with_module(lambda: nn.ConstantPad2d((1, 0, 3, 2), 1.0)),
    "RPReLU": with_module(lambda: RPReLU(4)),
    "depthwise": with_module(lambda: BinaryConv2d(4, 4, 3, groups=4, input_quantizer="ste_sign")),
    "real depthwise": with_module(lambda: nn.Conv2d(4, 8, 3, groups=4)),
}

SIGNALS: dict[str, Body] = {
    "F.batch_norm": lambda net, x: F.batch_norm(x, net.vector, net.vector.exp(), net.vector),
    "F.conv1d": lambda net, x: F.conv1d(x, net.weight[:, None, :4].mT, stride=2, padding=1, dilation=2),
    "MaxPool1d": with_module(lambda: nn.MaxPool1d(3, 2, 1, ceil_mode=True)),
    "AvgPool1d": with_module(lambda: nn.AvgPool1d(3, 2, 1)),
    "AdaptiveAvgPool1d": with_module(lambda: nn.AdaptiveAvgPool1d(5)),
    "AdaptiveMaxPool1d": with_module(lambda: nn.AdaptiveMaxPool1d(1)),
    "mean": lambda net, x: x.mean(2),
    "mean of channels": lambda net, x: x.mean(dim=1, keepdim=True),
    "torch.max_pool1d": lambda net, x: torch.max_pool1d(x, 3, 2),
    "interpolate": lambda net, x: F.interpolate(x, scale_factor=2),
    "depthwise": with_module(lambda: nn.Conv1d(4, 8, 3, groups=4)),
    "binary depthwise": with_module(lambda: BinaryConv1d(4, 4, 5, padding=2, groups=4, input_quantizer="ste_sign")),
    "crop": lambda net, x: x[:, 1:, 2:-2],
    "pad channels": lambda net, x: F.pad(x, (0, 1, 1, 0), value=-1),
    "ReflectionPad1d": with_module(lambda: nn.ReflectionPad1d((2, 1))),
    "Conv1d replicates": with_module(lambda: nn.Conv1d(4, 6, 3, padding=2, padding_mode="replicate")),
    "AdaptiveMaxPool1d uneven": with_module(lambda: nn.AdaptiveMaxPool1d(7)),
    "ConstantPad1d": with_module(lambda: nn.ConstantPad1d((1, 2), 0.0)),
    "RPReLU": with_module(lambda: RPReLU(4)),
    "Conv1d": with_module(lambda: nn.Conv1d(4, 6, 5, stride=2, padding=2, dilation=2)),
    "Conv1d same": with_module(lambda: nn.Conv1d(4, 6, 5, padding="same", groups=2)),
    "BinaryConv1d": with_module(lambda: BinaryConv1d(4, 6, 3, input_quantizer="ste_sign", padding=1, padding_value=-1)),
    "BinaryConv1d rsign": with_module(lambda: BinaryConv1d(4, 4, 3, input_quantizer="rsign", groups=4, bias=True)),
    "ConvTranspose1d": with_module(lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, groups=2)),
    "BinaryConvTranspose1d": with_module(lambda: BinaryConvTranspose1d(4, 6, 4, 2, 1, input_quantizer="ste_sign")),
    "BatchNorm1d": with_module(lambda: nn.BatchNorm1d(4)),
    "tokens": lambda net, x: F.linear(x.transpose(1, 2), net.weight[:, :4]).transpose(1, 2),
}

TOKEN_BODIES: dict[str, Body] = {
    "BinaryLinear": with_module(lambda: BinaryLinear(6, 3)),
    "BinaryLinear of signs": with_module(lambda: BinaryLinear(6, 3, bias=True, input_quantizer="ste_sign")),
    "BinaryLinear rsign": with_module(lambda: BinaryLinear(6, 4, input_quantizer="rsign", weight_quantizer="xnor")),
    "BinaryLinear adabin": with_module(lambda: BinaryLinear(6, 4, input_quantizer="adabin", weight_quantizer="adabin")),
    "Linear": with_module(lambda: nn.Linear(6, 3)),
    "two": with_module(
        lambda: nn.Sequential(
            BinaryLinear(6, 9, input_quantizer="ste_sign"), nn.ReLU(), BinaryLinear(9, 6, weight_quantizer="xnor")
        )
    ),
    "mean": lambda net, x: x.mean(1),
    "first": lambda net, x: x[:, 0],
    "mixer": lambda net, x: x + F.linear(x.transpose(1, 2), net.weight[:5, :5]).transpose(1, 2),
}

CASES = [
    *((name, body, shape) for name, body in ANY_SHAPE.items() for shape in (IMAGE, SIGNAL, FEATURES)),
    *((name, body, IMAGE) for name, body in IMAGES.items()),
    *((name, body, SIGNAL) for name, body in SIGNALS.items()),
    *((name, body, TOKENS) for name, body in TOKEN_BODIES.items()),
]


KINDS = {"floats": ("float32", False), "pixels": ("uint8", False), "signs of pixels": ("uint8", True)}
EVERY = [(*case, kind) for case in CASES for kind in KINDS]


@pytest.mark.parametrize(
    ("body", "shape", "kind"),
    covering((case[1:] for case in EVERY), of=lambda body, shape, kind: ((body, KINDS[kind][1]), shape, kind)),
    ids=[f"{name}-{len(shape)}-{kind}" for name, _, shape, kind in EVERY],
)
def test_an_operation_answers_as_torch(body: Body, shape: tuple[int, ...], kind: str) -> None:
    """Daily each operation on real values and on signs, in one of the shapes that it takes."""
    dtype, signs = KINDS[kind]
    model = Net(body, shape, signs=signs)
    inputs = inputs_of(shape, dtype)
    packed = pack(model, inputs)
    assert packed.input.dtype == dtype
    assert_answers(model, packed, inputs)


def test_more_than_one_axis_of_tokens() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(BinaryLinear(6, 3, input_quantizer="rsign"), nn.ReLU(), nn.Linear(3, 2)).eval()
    inputs = inputs_of((2, 3, 4, 6))
    with torch.no_grad():
        model[0].input_quantizer.shift.normal_()
    packed = pack(model, inputs)
    assert_answers(model, packed, inputs)
    assert np.prod(packed.input.shape) == 144
