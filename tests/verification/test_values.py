"""Outputs that are not logits of classes: values, several labels per sample, several outputs."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onebit.errors import FoldError, UsageError
from onebit.fold import pack
from onebit.layers import BinaryConv1d, BinaryConv2d, BinaryLinear, InputCoding
from onebit.packed import Affine, Certificate, PackedNet, Threshold
from onebit.quantizers import SteSign
from onebit.verification.agreement import certify, pack as certified_pack, verify
from support.changed_nets import changed
from support.fold_nets import SHAPE, images_of

COUNT = 400
RAW = images_of(COUNT)
X = torch.from_numpy(RAW)


CODING = InputCoding("standardize", mean=[100.0], std=[50.0])


def make_net(outputs: int) -> nn.Module:
    torch.manual_seed(outputs)
    hidden = [BinaryLinear(12, 32), nn.BatchNorm1d(32), nn.ReLU()]
    return with_statistics(CODING, nn.Flatten(), *hidden, BinaryLinear(32, outputs), nn.BatchNorm1d(outputs))


def with_statistics(*layers: nn.Module) -> nn.Sequential:
    """A net with the BatchNorm statistics of one batch."""
    net = nn.Sequential(*layers)
    net.train()(X)
    return net.eval()


def shifted(packed: PackedNet, by: Any) -> PackedNet:
    """The net with another shift in its last affine map."""
    return changed(packed, Affine, -1, shift=lambda shift: shift + np.asarray(by, np.float32))


def scaled(packed: PackedNet, factor: float, at: int) -> PackedNet:
    """The net with a multiple of one of its affine maps."""
    return changed(packed, Affine, at, **dict.fromkeys(("scale", "shift"), lambda values: values * np.float32(factor)))


def outputs_of(net: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return net(X).numpy()


# -------------------------------------------------------------------------------------------------------------- values
def test_single_numbers_are_compared_as_values() -> None:
    net = make_net(1)
    packed = pack(net, input_shape=SHAPE)
    found = verify(net, packed, RAW)
    assert found.ok
    assert (found.compared, found.count, found.label_mismatches, found.correct) == ("values", COUNT, 0, None)
    assert 0 < found.max_logit_difference < 1e-4
    flat = nn.Sequential(net, nn.Flatten(0))  # one number, without an axis
    assert verify(flat, pack(flat, input_shape=SHAPE), RAW, trained=torch.utils.data.TensorDataset(X)).ok
    wrong = verify(net, shifted(packed, 0.01), RAW)
    assert (wrong.ok, wrong.label_mismatches) == (False, COUNT)
    assert wrong.max_logit_difference == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("shape", [(COUNT,), (COUNT, 1)])
def test_targets_of_a_regression(shape: tuple[int, ...]) -> None:
    net = make_net(1)
    packed = pack(net, input_shape=SHAPE)
    targets = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = verify(net, packed, (RAW, targets), trained=lambda x: net(x) + 0.5)
    assert (found.label_mismatches, found.trained_mismatches, found.ok) == (0, COUNT, False)
    with pytest.raises(FoldError, match="preprocessing"):
        certify(net, packed, (RAW, targets), trained=lambda x: net(x) + 0.5)
    certificate = certify(net, packed, (RAW, targets)).certificate
    assert (certificate.compared, certificate.correct, certificate.label_mismatches) == ("values", None, 0)
    assert Certificate.from_json(certificate.to_json()) == certificate


def test_float_targets_make_vectors_values_and_integers_make_them_labels() -> None:
    net = make_net(3)
    packed = pack(net, input_shape=SHAPE)
    targets = np.random.default_rng(0).normal(size=(COUNT, 3))
    assert verify(net, packed, (RAW, targets)).compared == "values"
    assert verify(net, packed, (RAW, np.zeros(COUNT, np.int64))).compared == "labels"
    assert verify(net, packed, RAW).compared == "labels"
    # a small shift of all logits changes no label, but every value
    for data, differing in ((RAW, 0), ((RAW, targets), COUNT)):
        found = verify(net, shifted(packed, 0.01), data)
        assert (found.label_mismatches, found.ok) == (differing, False)


def test_rounding_is_relative_to_the_largest_value_of_each_column() -> None:
    net = make_net(2)
    with torch.no_grad():
        for tensor in net[-1].parameters():
            tensor[0] *= 1e6
    packed, targets = pack(net, input_shape=SHAPE), np.full((COUNT, 2), 0.3, np.float32)
    for by, apart in (((5, 0), 0), ((0, 5e-6), 0), ((0, 5), COUNT), ((5000, 0), COUNT)):
        assert verify(net, shifted(packed, np.array(by)), (RAW, targets)).label_mismatches == apart


def test_labels_that_rounding_decides_are_no_certificate() -> None:
    """A real layer with weights of ±0.1 adds signs: the order of a sum that is 0 decides its sign."""
    torch.manual_seed(0)
    real = nn.Linear(64, 64, bias=False)
    with torch.no_grad():
        real.weight.copy_(0.1 * torch.sign(real.weight))
    net = nn.Sequential(SteSign(), real, BinaryLinear(64, 5, input_quantizer="ste_sign"))
    x = torch.randn(200, 64)
    with pytest.raises(FoldError, match="ties"):
        certified_pack(net, x)


def test_rounding_decides_no_sign_of_scaled_sums() -> None:
    torch.manual_seed(0)
    scaled = BinaryLinear(64, 64, weight_quantizer="xnor", input_quantizer="ste_sign", bias=False)
    last = BinaryLinear(64, 5, input_quantizer="ste_sign")
    net = with_statistics(CODING, nn.Flatten(), BinaryLinear(12, 64), nn.BatchNorm1d(64), scaled, last)
    packed = pack(net, input_shape=SHAPE)
    found = verify(net, packed, RAW)  # 0 where there are 32 of each sign, which ±0.1 or so added 64 times often are not
    assert (found.ok, found.label_mismatches, found.layers[-1].mismatches) == (True, 0, 0)
    for by in (-4, -2, 1, 2, 4):
        assert not verify(net, changed(packed, Threshold, threshold=lambda at, by=by: at + np.int32(by)), RAW).ok


def test_maps_of_values_are_compared() -> None:
    torch.manual_seed(0)
    net = with_statistics(InputCoding(), BinaryConv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1))
    packed = pack(net, input_shape=SHAPE)
    found = verify(net, packed, RAW)
    assert (found.compared, found.count, found.ok) == ("values", COUNT, True)
    assert not verify(net, shifted(packed, 0.1), RAW).ok


# --------------------------------------------------------------------------------------------------------- many labels
@pytest.mark.parametrize(("width", "dtype"), [(1, np.float32), (4, np.int64), (4, np.bool_)])
def test_several_labels_are_the_signs_of_the_logits(width: int, dtype: Any) -> None:
    net = make_net(width)
    packed, theirs = pack(net, input_shape=SHAPE), outputs_of(net)
    targets = (np.random.default_rng(2).random((COUNT, width)) > 0.4).astype(dtype)
    found = verify(net, packed, (RAW, targets))
    assert found.ok
    assert (found.compared, found.count) == ("multi-label", COUNT * width)
    assert found.correct == ((theirs > 0) == (targets > 0)).sum()
    other = verify(net, packed, (RAW, targets), trained=lambda x: net(x) - 0.3)
    assert other.trained_mismatches == ((theirs > 0.3) != (theirs > 0)).sum() > 0
    assert other.trained_correct == ((theirs > 0.3) == (targets > 0)).sum()
    wrong = verify(net, shifted(packed, 0.3), (RAW, targets))
    assert not wrong.ok
    assert not verify(net, scaled(packed, 1.5, -1), (RAW, targets)).ok  # though the signs are the same
    certified = certify(net, packed, (RAW, targets))
    assert f"{COUNT * width:,} labels" in certified.statement
    assert f"{found.correct:,} correct" in certified.statement


# ---------------------------------------------------------------------------------------------------- several outputs
class TwoHeads(nn.Module):
    """Hidden values, and logits of three classes."""

    def __init__(self, *, named: bool, both: nn.Sequential) -> None:
        super().__init__()
        self.named, self.body, self.head = named, both[:-2], both[-2:]

    def forward(self, x: Tensor) -> Any:
        hidden = self.body(x)
        logits = self.head(hidden)
        return {"hidden": hidden, "label": logits} if self.named else (hidden, logits)


def two_heads(*, named: bool) -> tuple[nn.Module, PackedNet]:
    both = make_net(3)
    model = TwoHeads(named=named, both=both).eval()
    return model, pack(model, X[:2])


@pytest.mark.parametrize("named", [False, True])
def test_each_of_several_outputs_is_compared(named: bool) -> None:
    model, packed = two_heads(named=named)
    labels = np.random.default_rng(3).integers(0, 3, COUNT)
    targets: Any = {"label": labels} if named else (None, labels)
    found = verify(model, packed, RAW, labels=targets)
    with torch.no_grad():
        made = model(X)
    assert found.ok
    assert (found.compared, found.count, found.label_mismatches) == ("values", COUNT, 0)
    assert found.correct == (made["label" if named else 1].argmax(1).numpy() == labels).sum()
    unlabeled = verify(model, packed, RAW)
    assert (unlabeled.ok, unlabeled.correct) == (True, None)
    hidden = "output hidden" if named else "output 0"
    wrong = verify(model, scaled(packed, 1.1, 0), RAW, labels=targets)
    assert (wrong.ok, wrong.label_mismatches) == (False, COUNT)
    assert any(fault.startswith(f"{hidden}: 400 of 400 ") for fault in wrong.faults)
    other = {"hidden": made["hidden"] + 0.1, "label": made["label"]} if named else (made[0] + 0.1, made[1])
    for trained in (other, lambda x: other):
        by_training = verify(model, packed, RAW, labels=targets, trained=trained, batch_size=COUNT)
        assert (by_training.label_mismatches, by_training.trained_mismatches, by_training.ok) == (0, COUNT, False)


def test_labels_belong_to_the_only_output_of_logits() -> None:
    torch.manual_seed(0)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(InputCoding(), BinaryConv2d(1, 1, 1, bias=True))
            self.last = nn.Sequential(nn.Flatten(), BinaryLinear(12, 3), nn.BatchNorm1d(3))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            found = self.first(x)
            return found, self.last(found)

    model = Both()
    model.train()(X)
    packed = pack(model.eval(), X[:2])
    labels = np.random.default_rng(3).integers(0, 3, COUNT)
    found = verify(model, packed, (RAW, labels))
    assert found.ok
    assert found.correct == (model(X)[1].argmax(1).numpy() == labels).sum()


def test_several_outputs_are_certified() -> None:
    model, packed = two_heads(named=True)
    labels = np.random.default_rng(3).integers(0, 3, COUNT)
    certified = certify(model, packed, RAW, labels={"label": labels})
    certificate = certified.certificate
    assert (certificate.count, certificate.label_mismatches, certificate.compared) == (COUNT, 0, "values")
    assert f"400 images of own data (arrays): {certificate.correct} correct" in certified.statement


def test_outputs_that_do_not_fit_are_refused() -> None:
    (model, packed), (other, _) = two_heads(named=True), two_heads(named=False)
    for one, two in ((other, packed), (model, pack(make_net(3), input_shape=SHAPE))):
        with pytest.raises(UsageError, match="operations"):
            verify(one, two, RAW)
    with pytest.raises(UsageError, match="targets"):
        verify(model, packed, (RAW, np.zeros((COUNT, 3), np.float32)))
    with pytest.raises(UsageError, match="targets"):
        verify(model, packed, RAW, labels=(RAW, RAW))


def test_rounding_is_relative_to_the_channel() -> None:
    """Pressure in pascals beside an acceleration: no rounding flips the signs of the second."""
    torch.manual_seed(0)
    x = torch.stack([101_325 + 1_000 * torch.randn(200, 32), 0.01 * torch.randn(200, 32)], 1)
    net = nn.Sequential(
        BinaryConv1d(2, 4, 3, groups=2, weight_quantizer="xnor"),
        BinaryConv1d(4, 16, 3, weight_quantizer="xnor", input_quantizer="rsign"),
        *(nn.BatchNorm1d(16), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        BinaryLinear(16, 3, weight_quantizer="xnor"),
    )
    with torch.no_grad():
        net[1].input_quantizer.shift.copy_(net[0](x).mean((0, 2)))
        net.train()(x)
    other = copy.deepcopy(net.eval())
    with torch.no_grad():
        other[0].weight[2:] *= -1
    found = verify(net, pack(other.eval(), x[:2]), x)
    assert found.label_mismatches > 10
    assert not found.ok
