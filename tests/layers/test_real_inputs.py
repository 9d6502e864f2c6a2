"""The inputs of a model: the coding of pixels, and `binarize_` with an input quantizer, which leaves them real."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import UsageError
from onebit.layers import InputCoding, Normalize, binarize_, binary_layers
from onebit.quantizers import sign
from support.tensors import normal


class Image(nn.Module):
    """A stem of images and two layers behind it; `forward` branches on its input if `branches`, so it has no trace."""

    def __init__(self, *, branches: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(6, 2)  # not in the order of the calls
        self.stem, self.norm, self.conv = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3)
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        if self.branches and float(x.mean()) > 1e9:
            return x
        return self.head(self.conv(self.norm(self.stem(x))).mean((2, 3)))


class InOrder(Image):
    def __init__(self) -> None:
        super().__init__(branches=True)
        head = self.head
        del self.head
        self.head = head


class Patches(nn.Module):
    """The first layer reads patches, with positions and a class token, scaled and normalized."""

    def __init__(self, *, unfold: bool) -> None:
        super().__init__()
        self.cut = nn.Unfold(2, stride=2) if unfold else None
        self.code, self.norm = InputCoding(), nn.LayerNorm(12)
        self.place = nn.Parameter(torch.randn(1, 4, 12))
        self.embed, self.mix = nn.Linear(12, 8), nn.Linear(8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.code(x)
        if self.cut is not None:
            x = self.cut(x).transpose(1, 2)
        else:
            x = x.reshape(len(x), 3, 2, 2, 2, 2).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        x = self.embed(self.norm(x) + self.place)
        return self.mix(torch.cat([self.token.expand(len(x), 1, 8), x], 1))


class Two(nn.Module):
    """Two inputs with a stem each, the second through one more branch, and a state that a pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.middle, self.right = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(5, 6)
        self.other, self.both = nn.Linear(5, 6), nn.Linear(12, 2)
        self.register_buffer("steps", torch.zeros(()))
        self.last: Any = None

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        self.steps += 1
        self.last = self.middle(torch.relu(self.left(a)))
        b = torch.relu(b)
        return self.both(torch.cat([self.last, self.right(b) + self.other(b)], 1))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(9, 8), nn.Embedding(5, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 9, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(tokens) + self.place.weight))


CASES: dict[str, tuple[Callable[[], nn.Module], str | None, set[str]]] = {
    "all": (Image, None, {"stem"}),
    "real stem": (Image, "stem", set()),
    "real stem without a trace": (InOrder, "stem", set()),
    "without a trace": (InOrder, None, {"stem"}),
    "reshaped patches": (lambda: Patches(unfold=False), None, {"embed"}),
    "unfolded patches": (lambda: Patches(unfold=True), None, {"embed"}),
    "real patches": (lambda: Patches(unfold=True), "embed", set()),
    "two inputs": (Two, None, {"left", "right", "other"}),
    "two inputs, one real stem": (Two, "left", {"right", "other"}),
    "tokens": (Tokens, "head", set()),
    "one layer twice": (lambda: nn.Sequential(*[nn.Linear(4, 4)] * 2), None, {"0"}),
    "tied": (lambda: tied(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))), None, {"0"}),
    "no forward": (lambda: nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), None, {"0"}),
    "normalized": (lambda: nn.Sequential(nn.LayerNorm((2, 4)), nn.Flatten(), nn.Linear(8, 4)), None, {"2"}),
}


def tied(net: nn.Sequential) -> nn.Sequential:
    net[2].weight = net[0].weight
    return net


@pytest.mark.parametrize("name", CASES)
def test_only_layers_that_read_the_inputs_of_the_model_keep_them_real(name: str) -> None:
    make, left_out, expected = CASES[name]
    net = make()
    binarize_(net, input_quantizer="ste_sign", where=lambda name, _: name != left_out)
    layers = {
        name: layer for name, layer in binary_layers(net) if "input_quantizer" in layer._modules or name in expected
    }
    assert {name for name, layer in layers.items() if layer.input_quantizer is None} == expected
    assert layers


def test_outputs_are_those_of_a_real_stem_and_binary_inputs_behind_it() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3))
    weights = [layer.weight.detach().clone() for layer in net]
    binarize_(net, weight_quantizer="sign", input_quantizer="ste_sign", where=lambda name, _: name != "0").model.eval()
    x = normal(7, 6)
    expected = F.linear(x, weights[0], net[0].bias)
    for layer, weight in zip(net[1:], weights[1:], strict=True):
        expected = F.linear(sign(expected), sign(weight), layer.bias)
    torch.testing.assert_close(net(x), expected)


def test_the_trace_changes_nothing_and_a_second_call_chooses_other_layers() -> None:
    net = Two()
    binarize_(net, input_quantizer="ste_sign", where=lambda name, _: name == "middle")
    assert float(net.steps) == 0
    assert net.last is None
    binarize_(net, where=lambda name, _: name == "right")
    binarize_(net, input_quantizer="ste_sign")
    found = {name: layer.input_quantizer is not None for name, layer in binary_layers(net)}
    assert found == {"left": False, "middle": True, "right": False, "other": False, "both": True}


# ----------------------------------------------------------------------------------------------------- the input coding
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_integer_coding_is_exact_and_keeps_its_input(dtype: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.int64).view(1, 1, 16, 16).to(dtype)
    before = pixels.clone()
    coded = InputCoding()(pixels)
    assert coded.flatten().tolist() == [2 * x - 255 for x in range(256)]
    assert torch.equal(coded.bfloat16().float(), coded)  # exact in bf16 too
    assert torch.equal(pixels, before)


def test_standardize_is_per_channel_and_travels_in_the_state_dict() -> None:
    mean, std = [10.0, 128.0], [2.0, 64.0]
    coding = InputCoding("standardize", mean=mean, std=std)
    x = torch.arange(96, dtype=torch.uint8).view(3, 2, 4, 4)
    coded = coding(x)
    for channel in range(2):
        expected = (x[:, channel].double() - mean[channel]) / std[channel]
        torch.testing.assert_close(coded[:, channel].double(), expected)
    assert list(coding.state_dict()) == ["mean", "std"]
    assert list(InputCoding().state_dict()) == []


def test_mean_and_std_of_pixels_from_0_to_1_take_a_scale() -> None:
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    coded = InputCoding("standardize", mean=(0.1307,), std=(0.3081,), scale=255)(x)
    torch.testing.assert_close(coded, (x / 255 - 0.1307) / 0.3081)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"coding": "standard"}, "coding"),
        ({"coding": "standardize"}, "mean"),
        ({"coding": "standardize", "mean": [1.0]}, "std"),
        ({"coding": "standardize", "mean": [0.1307], "std": [0.3081]}, "scale"),
        ({"mean": [128.0], "std": [64.0]}, "mean"),
    ],
)
def test_a_wrong_coding_is_refused(arguments: dict, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        InputCoding(**arguments)


def test_normalize_refuses_pixels_whose_mean_is_of_0_to_255() -> None:
    assert Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))(torch.zeros(2, 3, 4, 4)).shape == (2, 3, 4, 4)
    with pytest.raises(UsageError, match="mean"):
        Normalize(120.0, 60.0)(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
