"""`onebit.check`: what is binary, what packs whole, every reason why not, and warnings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import onebit
from onebit.fold.check import check
from onebit.layers import BinaryConv2d, BinaryLinear, InputCoding, Normalize, binarize_
from onebit.quantizers import BinaryInput, Quantizer, sign


def mlp(*between: nn.Module, inputs: str | None = None) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), *between, nn.Linear(64, 64), nn.BatchNorm1d(64))
    binarize_(net, input_quantizer=inputs)
    return net


class Attention(nn.Module):
    """A block that cannot be packed whole, for four reasons."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm, self.fc = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        y, _ = self.attention(y, y, y, need_weights=False)
        y, _ = self.lstm(x + y)
        return F.gelu(self.fc(y[:, -1]))


def test_a_net_that_packs_whole() -> None:
    model = nn.Sequential(BinaryLinear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
    report = check(model, torch.zeros(1, 64))
    assert report.whole
    assert report.line == "check: 1 of 2 layers binary (97.0 % of weights); packs whole"
    assert str(report).endswith("packs whole: onebit.pack(model, example)")
    assert model.training
    assert onebit.check is check


def test_every_reason_is_listed() -> None:
    model = Attention()
    binarize_(model)
    report = check(model, torch.randn(2, 5, 8))
    assert not report.whole
    assert list(report.reasons) == ["norm", "attention", "lstm", "gelu"]
    assert "layer by layer" in str(report)
    assert report.line.endswith("layers binary (100.0 % of weights); packs layer by layer, because of 'norm'")


def test_signs_of_what_is_never_negative_are_a_warning() -> None:
    for inputs in ("ste_sign", "rsign"):
        report = check(mlp(nn.BatchNorm1d(64), nn.ReLU(), inputs=inputs), torch.zeros(2, 64))
        assert report.warnings[0].endswith(": 3")
        assert "; 1 warning: " in report.line
        assert check(mlp(nn.ReLU(), nn.BatchNorm1d(64), inputs=inputs), torch.zeros(2, 64)).warnings == ()
    pixels = nn.Sequential(
        nn.Flatten(), Scaled255(), BinaryLinear(64, 3, input_quantizer="ste_sign"), nn.BatchNorm1d(3)
    )
    assert ": 2" in check(pixels, torch.zeros(2, 64, dtype=torch.uint8)).warnings[0]


class Scaled255(nn.Module):
    """Pixels 0–1."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 255


def test_what_cannot_be_checked_is_a_text() -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = BinaryLinear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if x.sum() > 0 else x

    report = check(Random(), torch.zeros(2, 4))
    assert "cannot follow Random.forward" in str(report)
    assert "the model has no binary layer" in check(nn.Linear(4, 4), torch.zeros(2, 4)).line
    assert "input_shape" in check(Random()).line
    assert "str" in check(Random(), "abc").line


def test_a_model_that_fails_only_untraced_is_a_text() -> None:
    class Fails(Asks):
        def forward(self, x: Tensor) -> Tensor:
            if type(x) is Tensor:
                raise KeyError("x")
            return self.fc(x)

    assert "computes something else" in check(Fails(), torch.zeros(2, 10)).line


@pytest.mark.parametrize("part", ["refusals_of", "describe_layers"])
def test_a_mistake_of_ours_is_no_text(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(f"onebit.fold.check.{part}", fails)
    with pytest.raises(ZeroDivisionError):
        check(mlp(), torch.randn(2, 64))


def test_inputs_that_no_packed_net_takes() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), BinaryLinear(4, 4))
    report = check(model, torch.zeros(2, 3, dtype=torch.int64))
    assert "int64" in report.line
    assert not report.whole
    assert "one tensor" in str(check(model, {"ids": torch.zeros(2, 3)}))


def test_a_share_of_nearly_all_is_not_all() -> None:
    model = nn.Sequential(BinaryLinear(300, 300), nn.Linear(1, 2))
    assert "1 of 2 layers binary (99.9 % of weights)" in check(model, torch.zeros(1, 300)).line


def test_a_large_net_is_checked_by_its_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(InputCoding(), BinaryConv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    model.append(BinaryLinear(4 * 36, 3))
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    expected = str(check(model, images))
    monkeypatch.setattr("onebit.fold.LARGE", 0)
    assert str(check(model, images)) == expected
    floats = nn.Sequential(Forks(), BinaryLinear(4, 4), nn.LayerNorm(4))
    assert check(floats, torch.zeros(2, 4)).reasons.keys() == {"2"}
    pixels = nn.Sequential(BinaryConv2d(1, 4, 3))
    assert "cannot follow" in str(check(pixels, images))
    overwrites = nn.Sequential(BinaryLinear(4, 4), Overwrites())
    assert "it overwrites a value that is also used elsewhere" in str(check(overwrites, torch.zeros(2, 4)))


class Asks(nn.Module):
    """Computes something else while it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = BinaryLinear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(3 * x if type(x) is Tensor else x)


def test_what_is_checked_depends_on_the_size_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "something else" in check(Asks(), torch.zeros(2, 10)).line
    monkeypatch.setattr("onebit.fold.LARGE", 0)
    assert check(Asks(), torch.zeros(2, 10)).whole


class Forks(Quantizer):
    """A quantizer that reads its inputs, which has no values on the device "meta"."""

    def forward(self, latent: Tensor) -> Tensor:
        return sign(latent) if float(latent.detach().sum()) < 1e9 else latent

    def binary_input(self) -> BinaryInput:
        return BinaryInput()


class Overwrites(nn.Module):
    """Overwrites a view of what it reads again."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.view(len(x), 2, 2).relu_()
        return x + y.flatten(1)


def test_batches_of_a_loader_and_preprocessing() -> None:
    net = nn.Sequential(nn.Flatten(), BinaryLinear(12, 3), nn.BatchNorm1d(3))
    assert check(net, [torch.zeros(2, 1, 3, 4), torch.zeros(2)]).whole
    assert check(net, torch.zeros(2, 1, 3, 4, dtype=torch.float64)).whole
    assert check(net, torch.zeros(2, 1, 3, 4), preprocess=Normalize(0.5, 0.5)).whole


def test_what_depends_on_the_size_of_the_batch_does_not_pack_whole() -> None:
    class PerSample(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = BinaryLinear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) / len(x)

    report = check(PerSample(), torch.zeros(2, 4))
    assert not report.whole
    assert "the model computes something else for 7 samples than for 2" in str(report)


def test_the_answer_of_a_refused_layer_is_named_by_its_kind() -> None:
    model = nn.Sequential(nn.LSTM(4, 4))
    binarize_(model, weight_quantizer="sign")
    assert "returns" in check(model, torch.zeros(2, 3, 4)).reasons[""]
