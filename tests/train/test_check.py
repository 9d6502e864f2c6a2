"""`onebit.check`: what is binary, what packs whole, every reason why not, and warnings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import onebit
from onebit.layers import BinaryConv2d, BinaryLinear, InputCoding, Normalize, binarize_
from onebit.quantizers import BinaryInput, Quantizer, sign
from onebit.train.check import check
from support.fold_nets import Model


def dense(function: Any = lambda m, x: m.fc(x)) -> nn.Module:
    return Model(function, fc=BinaryLinear(4, 4))


def missing(x: Any) -> Any:
    """Fails outside of a trace."""
    if type(x) is Tensor:
        raise KeyError("x")
    return x


def mlp(*between: nn.Module, inputs: str | None = None) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), *between, nn.Linear(64, 64), nn.BatchNorm1d(64))
    binarize_(net, input_quantizer=inputs)
    return net


def attention(m: Any, x: Tensor) -> Tensor:
    """A block that cannot be packed whole, for four reasons."""
    y = m.norm(x)
    y, _ = m.attention(y, y, y, need_weights=False)
    y = m.shrink(x + y)
    return F.selu(m.fc(y[:, -1]))


def test_a_net_that_packs_whole() -> None:
    model = nn.Sequential(BinaryLinear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
    report = check(model, torch.zeros(1, 64))
    assert report.whole
    assert report.line == "check: 1 of 2 layers binary (97.0 % of weights); packs whole"
    assert str(report).endswith("packs whole: onebit.pack(model, example)")
    assert model.training
    assert onebit.check is check


@pytest.mark.parametrize("example", [None, torch.zeros(2, 3, dtype=torch.int64)])
def test_tokens_are_told_from_images(example: Any) -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    onebit.binarize_(model, weight_quantizer="xnor")
    report = check(model, example)
    assert "uint8" not in str(report)
    assert not report.whole
    assert ("example" if example is None else "packed_layers_") in report.line


def test_every_reason_is_listed() -> None:
    parts = {"norm": nn.LayerNorm(8), "attention": nn.MultiheadAttention(8, 2, batch_first=True)}
    model = Model(attention, **parts, shrink=nn.Softshrink(), fc=nn.Linear(8, 8))
    binarize_(model)
    report = check(model, torch.randn(2, 5, 8))
    assert not report.whole
    assert list(report.reasons) == ["shrink", "selu"]
    assert "layer by layer" in str(report)
    assert report.line.endswith("layers binary (100.0 % of weights); packs layer by layer, because of 'shrink'")


def test_signs_of_what_is_never_negative_are_a_warning() -> None:
    for inputs in ("ste_sign", "rsign"):
        report = check(mlp(nn.BatchNorm1d(64), nn.ReLU(), inputs=inputs), torch.zeros(2, 64))
        assert report.warnings[0].endswith(": 3")
        assert "; 1 warning: " in report.line
        assert check(mlp(nn.ReLU(), nn.BatchNorm1d(64), inputs=inputs), torch.zeros(2, 64)).warnings == ()
    pixels = Model(lambda m, x: m.fc(x / 255), fc=BinaryLinear(64, 3, input_quantizer="ste_sign"))
    assert ": fc" in check(pixels, torch.zeros(2, 64, dtype=torch.uint8)).warnings[0]


@pytest.mark.parametrize(
    ("model", "example", "reason"),
    [
        (dense(lambda m, x: m.fc(x) if x.sum() > 0 else x), torch.zeros(2, 4), "contents of tensors"),
        (dense(lambda m, x: m.fc(x) / len(x)), torch.zeros(2, 4), "7 samples"),
        (dense(lambda m, x: m.fc(missing(x))), torch.zeros(2, 4), "computes something else"),
        (nn.Linear(4, 4), torch.zeros(2, 4), "binary layer"),
        (dense(), None, "input_shape"),
        (dense(), "abc", "str"),
        (dense(), {"ids": torch.zeros(2, 4)}, "'ids'"),
        (dense(), torch.zeros(2, 4, dtype=torch.int64), "int64"),
        (binarize_(nn.Sequential(nn.LSTM(4, 4)), weight_quantizer="sign").model, torch.zeros(2, 3, 4), "returns"),
    ],
)
def test_the_report_gives_the_reason_that_nothing_packs(model: nn.Module, example: Any, reason: str) -> None:
    report = check(model, example)
    assert not report.whole
    assert reason in report.reasons[""]


def test_internal_errors_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onebit.train.check.refusals_of", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check(mlp(), torch.randn(2, 64))


def test_a_large_net_is_checked_by_its_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(InputCoding(), BinaryConv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    model.append(BinaryLinear(4 * 36, 3))
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    expected = str(check(model, images))
    monkeypatch.setattr("onebit.fold.LARGE", 0)
    assert str(check(model, images)) == expected
    floats = nn.Sequential(Forks(), BinaryLinear(4, 4), nn.SELU())
    assert check(floats, torch.zeros(2, 4)).reasons.keys() == {"2"}
    pixels = nn.Sequential(BinaryConv2d(1, 4, 3))
    assert "cannot follow" in str(check(pixels, images))
    overwrites = Model(lambda m, x: (y := m.fc(x)) + y.view(len(y), 2, 2).relu_().flatten(1), fc=BinaryLinear(4, 4))
    assert "overwrites" in str(check(overwrites, torch.zeros(2, 4)))
    asks = dense(lambda m, x: m.fc(3 * x if type(x) is Tensor else x))
    assert check(asks, torch.zeros(2, 4)).whole  # values of large batches are not computed


class Forks(Quantizer):
    """A quantizer that reads its inputs, which has no values on the device "meta"."""

    def forward(self, latent: Tensor) -> Tensor:
        return sign(latent) if float(latent.detach().sum()) < 1e9 else latent

    def binary_input(self) -> BinaryInput:
        return BinaryInput()


class Doubled(Quantizer):
    """A quantizer whose inherited `decompose` lacks the factor of its forward."""

    def forward(self, latent: Tensor) -> Tensor:
        return 2 * sign(latent)


def test_a_net_that_does_not_pack_at_all_is_not_said_to_pack_layer_by_layer() -> None:
    model = nn.Sequential(BinaryLinear(4, 4, weight_quantizer=Doubled))
    text = str(check(model, torch.zeros(2, 4)))
    assert "Doubled" in text
    assert "packed_layers_" not in text


def test_batches_of_a_loader_and_preprocessing() -> None:
    net = nn.Sequential(nn.Flatten(), BinaryLinear(12, 3), nn.BatchNorm1d(3))
    assert check(net, [torch.zeros(2, 1, 3, 4)]).whole
    assert check(net, torch.zeros(2, 1, 3, 4), preprocess=Normalize(0.5, 0.5)).whole
