"""Nets with attention and normalization pack whole and answer as torch; natively and in exports, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import onebit
from onebit.errors import FoldError
from onebit.export import export_net
from onebit.native import instruction_set, make_plan
from onebit.packed import nodes as op
from support.fold_nets import assert_answers, inputs_of

Body = Callable[[Any, Tensor], Tensor]
TOKENS, IMAGE = (6, 16), (12, 8, 8)


class Net(nn.Module):
    """A binary layer on the channels, then the body."""

    def __init__(self, shape: tuple[int, ...], body: Body) -> None:
        super().__init__()
        torch.manual_seed(0)
        width = shape[-1] if len(shape) == 2 else shape[0]
        self.inner: nn.Module = nn.Linear(width, width) if len(shape) == 2 else nn.Conv2d(width, width, 1)
        self.body = body
        self.norm, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, 4, batch_first=True)
        self.qkv, self.group = nn.Linear(width, 3 * width), nn.GroupNorm(3, 12)
        self.token, self.places = torch.randn(1, 1, width), torch.randn(4, 6, 6)
        for parameter in (self.norm.weight, self.norm.bias, self.group.weight, self.group.bias):
            nn.init.normal_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, self.inner(x))


def split(net: Net, x: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values (N, heads, T, size), as ViT makes them: the batch moves to the second axis."""
    return net.qkv(x).reshape(len(x), 6, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)


def eager(net: Net, x: Tensor) -> Tensor:
    q, k, v = split(net, x)
    scores = (q * 0.5) @ k.transpose(-2, -1) + net.places
    return x + (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)


def fused(net: Net, x: Tensor, **options: Any) -> Tensor:
    q, k, v = split(net, x)
    return F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2)


def grouped(net: Net, x: Tensor) -> Tensor:
    q, k, v = split(net, x)
    return F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True).transpose(1, 2).flatten(2)


def windows(net: Net, x: Tensor) -> Tensor:
    """Swin: windows join the batch, and leave it again."""
    x = torch.roll(x.permute(0, 2, 3, 1), shifts=(-1, -1), dims=(1, 2))
    y = x.reshape(len(x), 2, 4, 2, 4, 12).transpose(2, 3).reshape(-1, 16, 12)
    y = net.attention(y, y, y, need_weights=False)[0]
    y = y.view(len(x), 2, 2, 4, 4, 12).transpose(2, 3).reshape(x.shape)
    return net.norm(x + y).mean((1, 2))


@fx.wrap
def relu(x: Tensor) -> Tensor:
    """Another function with the name of one of torch's; `fx.wrap` hides nothing."""
    return x * 2


MASK = torch.ones(6, 6, dtype=torch.bool).tril(1)
CASES: dict[str, tuple[tuple[int, ...], Body]] = {
    "layer norm": (TOKENS, lambda net, x: net.norm(x)),
    "layer norm of images": (IMAGE, lambda net, x: F.layer_norm(x, x.shape[1:])),
    "rms norm": (TOKENS, lambda net, x: F.rms_norm(x, (16,), net.norm.weight, 1e-6)),
    "group norm": (IMAGE, lambda net, x: net.group(x)),
    "softmax": (TOKENS, lambda net, x: x.softmax(1)),
    "product": (TOKENS, lambda net, x: x @ x.transpose(1, 2)),
    "module": (TOKENS, lambda net, x: net.norm(x + net.attention(x, x, x)[0])),
    "module with a mask": (
        TOKENS,
        lambda net, x: net.attention(x, x, x, attn_mask=MASK.logical_not(), need_weights=False)[0],
    ),
    "module's weights": (TOKENS, lambda net, x: net.attention(x, x, x)[1]),
    "module with numbers": (TOKENS, lambda net, x: net.attention(x, x[:, :6], x, attn_mask=net.places[0])[0]),
    "eager": (TOKENS, eager),
    "fused": (TOKENS, fused),
    "causal": (TOKENS, lambda net, x: fused(net, x, is_causal=True)),
    "masked": (TOKENS, lambda net, x: fused(net, x, attn_mask=MASK, scale=0.1)),
    "grouped": (TOKENS, grouped),
    "windows": (IMAGE, windows),
    "class token": (TOKENS, lambda net, x: torch.cat([net.token.expand(len(x), -1, -1), x], dim=1)),
    "layer scale": (TOKENS, lambda net, x: x + net.norm.weight * F.gelu(x) * 0.5),
    "positions": (TOKENS, lambda net, x: x + net.places.reshape(9, 16)[:6]),
    "gates": (IMAGE, lambda net, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))),
    "bilinear": (IMAGE, lambda net, x: F.interpolate(x, size=(11, 16), mode="bilinear")),
    "corners": (IMAGE, lambda net, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)),
    "norm": (IMAGE, lambda net, x: x / (x.norm(p=2, dim=(2, 3), keepdim=True) + 1)),
    "unit": (TOKENS, lambda net, x: F.normalize(x, dim=-1)),
    "addcmul": (TOKENS, lambda net, x: torch.addcmul(net.norm.bias, net.norm.weight, x)),
    "einsum": (TOKENS, lambda net, x: torch.einsum("bhtd,bhsd->bths", *split(net, x)[:2])),
    "einsum of later samples": (
        TOKENS,
        lambda net, x: torch.einsum("tbc, sbc -> bst", x.transpose(0, 1), net.norm(x).transpose(0, 1)),
    ),
    "powers": (TOKENS, lambda net, x: x**3 * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1) + (x.square() + 1) ** -1),
    "mean of parts": (TOKENS, lambda net, x: torch.stack([x, net.norm(x)]).mean(0)),
    "shared keys": (TOKENS, lambda net, x: split(net, x)[0] @ split(net, x)[1][:, :1].mT),
    "many axes": (
        IMAGE,
        lambda net, x: (
            x.view(-1, 2, 6, 2, 4, 2, 4)
            .permute(0, 1, 3, 5, 2, 4, 6)
            .reshape(-1, 4, 2, 3, 2, 4, 4)
            .permute(0, 6, 2, 4, 1, 3, 5)
            .reshape(len(x), 12, 8, 8)
        ),
    ),
    "wrapped": (TOKENS, lambda net, x: relu(x)),
    "patches": (IMAGE, lambda net, x: x.unflatten(2, (4, 2)).unflatten(4, (4, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3)),
}


def made(name: str) -> tuple[nn.Module, Any, Any]:
    shape, body = CASES[name]
    net = Net(shape, body).eval()
    onebit.binarize_(net, weight_quantizer="xnor")
    inputs = inputs_of(shape, count=4)
    return net, onebit.pack(net, torch.from_numpy(inputs)), inputs


@pytest.mark.parametrize("name", CASES)
def test_it_answers_as_torch(name: str) -> None:
    net, packed, inputs = made(name)
    assert_answers(net, packed, inputs)
    assert packed.promise == "real"
    make_plan(packed, instruction_set())


@pytest.mark.parametrize("target", ["onnx", "torch"])
@pytest.mark.parametrize("name", ["eager", "windows", "group norm", "rms norm", "norm"])
def test_exports_agree(name: str, target: str, tmp_path: Path) -> None:
    """`export_net` compares outputs."""
    _, packed, _ = made(name)
    export_net(packed, target, tmp_path / ("net.onnx" if target == "onnx" else "net.pth"))


@pytest.mark.parametrize("target", ["c", "html"])
def test_other_targets_name_the_operation(target: str, tmp_path: Path) -> None:
    with pytest.raises(onebit.errors.OnebitError, match=r"Softmax|Product|Normalize|softmax|product|normalize"):
        export_net(made("eager")[1], target, tmp_path / ("net" if target == "c" else "net.html"))


def test_neighbouring_moves_meet() -> None:
    """A residual of tokens needs no permutation between its products."""
    _, packed, _ = made("layer scale")
    assert sum(isinstance(node, op.Permute) for node in packed.nodes) <= 3


@pytest.mark.parametrize(
    ("body", "noun"),
    [
        (lambda net, x: net.attention(x, x, x, key_padding_mask=torch.zeros(2, 6) > 0)[0], "mask"),
        (lambda net, x: fused(net, x, attn_mask=x[:, :, :6].unsqueeze(1)), "mask"),
        (lambda net, x: x.norm(p=1, dim=1), "norm"),
        (lambda net, x: (x + 1) ** 1.5, "exponent"),
        (lambda net, x: x**net.norm.weight, "exponent"),
        (lambda net, x: torch.einsum("ntc,nsk->nts", x, x), "letter"),
        (lambda net, x: torch.einsum("ntc,mtc->nm", x, x), "letter|samples"),
        (lambda net, x: torch.addcmul(net.token, x, x), "constant"),
        (lambda net, x: F.layer_norm(x.transpose(0, 2), (len(x),)).transpose(0, 2), "batch"),
        (lambda net, x: (x.permute(1, 0, 2) @ x.permute(1, 2, 0)).permute(1, 0, 2), "samples"),
        (lambda net, x: F.interpolate(x.to(torch.uint8)[:, None], size=(3, 3), mode="bilinear").float(), "uint8"),
        (lambda net, x: x.reshape(-1, 16)[:6], "batch"),
        (lambda net, x: x.transpose(0, 1), "samples"),
    ],
)
def test_a_refusal_names_what_it_is(body: Body, noun: str) -> None:
    net = Net(TOKENS, body).eval()
    onebit.binarize_(net)
    with pytest.raises(FoldError, match=noun):
        onebit.pack(net, torch.zeros(2, *TOKENS))
