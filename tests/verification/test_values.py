"""Outputs that are not logits of classes: values, several labels per sample, several outputs."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fold_nets import SHAPE, images_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from onebit.errors import FoldError, UsageError
from onebit.fold import pack
from onebit.layers import BinaryConv1d, BinaryConv2d, BinaryLinear, InputCoding
from onebit.packed import Affine, Certificate, Node, PackedNet, Threshold
from onebit.runtime import run
from onebit.verification.agreement import certify, verify
from onebit.verification.outcome import Agreement
from onebit.verification.spread import Spread

COUNT = 400
RAW = images_of(COUNT)
X = torch.from_numpy(RAW)


def make_net(outputs: int, *, signs: bool = False) -> nn.Module:
    torch.manual_seed(outputs)
    between = nn.Identity() if signs else nn.ReLU()
    net = nn.Sequential(
        InputCoding("standardize", mean=[100.0], std=[50.0]),
        nn.Flatten(),
        BinaryLinear(12, 32),
        nn.BatchNorm1d(32),
        between,
        BinaryLinear(32, outputs, input_quantizer="ste_sign" if signs else None),
        nn.BatchNorm1d(outputs),
    )
    net.train()(X)
    return net.eval()


def shifted(packed: PackedNet, by: float) -> PackedNet:
    """The net with another shift in its last affine map."""
    last = packed.nodes[-1]
    assert isinstance(last, Affine)
    assert last.shift is not None
    return replace(packed, nodes=(*packed.nodes[:-1], replace(last, shift=last.shift + np.float32(by))))


def times(node: Node, factor: float) -> Affine:
    assert isinstance(node, Affine)
    assert node.scale is not None
    assert node.shift is not None
    return replace(node, scale=node.scale * np.float32(factor), shift=node.shift * np.float32(factor))


def outputs_of(net: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return net(X).numpy()


# -------------------------------------------------------------------------------------------------------------- values
def test_single_numbers_are_compared_as_values() -> None:
    net = make_net(1)
    packed, theirs = pack(net, input_shape=SHAPE), outputs_of(net)
    found = verify(net, packed, RAW)
    assert found.ok
    assert (found.compared, found.count, found.label_mismatches, found.tied) == ("values", COUNT, 0, 0)
    assert 0 < found.max_logit_difference < 1e-4
    assert found.relative_difference == pytest.approx(found.max_logit_difference / np.ptp(theirs))
    assert found.r2 is not None
    assert 0.999999 < found.r2 <= 1
    assert (found.correct, found.error) == (None, None)
    spoilt = shifted(packed, 0.01)
    wrong = verify(net, spoilt, RAW)
    assert not wrong.ok
    assert wrong.label_mismatches == COUNT
    error = float(np.square(run(spoilt, RAW).astype(np.float64) - theirs).sum())
    assert wrong.r2 == pytest.approx(1 - error / float(np.square(theirs - theirs.mean(dtype=np.float64)).sum()))


@pytest.mark.parametrize("shape", [(COUNT,), (COUNT, 1)])
def test_targets_of_a_regression_give_both_errors(shape: tuple[int, ...]) -> None:
    net = make_net(1)
    packed, theirs = pack(net, input_shape=SHAPE), outputs_of(net)
    targets = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = verify(net, packed, (RAW, targets), trained=lambda x: net(x) + 0.5)
    error, trained = (
        float(np.square(y - targets.reshape(-1, 1)).mean(dtype=np.float64)) for y in (theirs, theirs + 0.5)
    )
    assert found.error == pytest.approx(error, rel=1e-5)
    assert found.trained_error == pytest.approx(trained, rel=1e-5)
    assert (found.label_mismatches, found.trained_mismatches, found.ok) == (0, COUNT, False)
    assert str(found).startswith("400 of 400 equal (outputs differ by at most ")
    assert f"; mean squared error {found.error:.4g}; as trained mean squared error {found.trained_error:.4g}, " in str(
        found
    )
    assert str(found).endswith(
        f"400 outputs differ (R² {found.trained_r2:.6g}): InputCoding is not the preprocessing of the training"
    )
    with pytest.raises(FoldError, match="is not the preprocessing of the training"):
        certify(net, packed, (RAW, targets), trained=lambda x: net(x) + 0.5)
    certificate = certify(net, packed, (RAW, targets)).certificate
    assert certificate is not None
    assert (certificate.compared, certificate.correct, certificate.label_mismatches) == ("values", None, 0)
    assert "0 outputs differ by more than rounding" in str(certificate)
    assert Certificate.from_json(certificate.to_json()) == certificate


def test_float_targets_make_vectors_values_and_integers_make_them_labels() -> None:
    net = make_net(3)
    packed = pack(net, input_shape=SHAPE)
    targets = np.random.default_rng(0).normal(size=(COUNT, 3))
    assert verify(net, packed, (RAW, targets)).compared == "values"
    assert verify(net, packed, (RAW, np.zeros(COUNT, np.int64))).compared == "labels"
    assert verify(net, packed, RAW).compared == "labels"
    # a small shift of all logits changes no label, but every value
    moved = shifted(packed, 0.01)
    assert verify(net, moved, RAW).ok
    assert not verify(net, moved, (RAW, targets)).ok


def test_rounding_may_decide_signs_of_few_samples_and_only_where_there_are_signs() -> None:
    """Two of 400 samples are 0.5 %."""
    for signs, wrong, ok in ((True, 2, True), (True, 3, False), (False, 1, False)):
        net = make_net(1, signs=signs)
        packed = pack(net, input_shape=SHAPE)

        class Off(nn.Module):
            def __init__(self, net: nn.Module, wrong: int) -> None:
                super().__init__()
                self.net, self.wrong = net, wrong

            def forward(self, x: Tensor) -> Tensor:
                found = self.net(x).clone()
                found[: self.wrong if len(x) == COUNT else 0] += 0.1
                return found

        found = verify(Off(net, wrong), packed, RAW)
        assert (found.label_mismatches, found.ok) == (wrong, ok)
        assert found.tied == (wrong if ok else 0)
        assert (f"; in {wrong} rounding decides a sign" in str(found)) == ok


def test_rounding_decides_the_sign_of_scaled_sums_that_are_0_and_of_no_others() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        InputCoding("standardize", mean=[100.0], std=[50.0]),
        nn.Flatten(),
        BinaryLinear(12, 64),
        nn.BatchNorm1d(64),
        BinaryLinear(64, 64, weight_quantizer="xnor", input_quantizer="ste_sign", bias=False),
        BinaryLinear(64, 5, input_quantizer="ste_sign"),
    )
    net.train()(X)
    packed = pack(net.eval(), input_shape=SHAPE)
    [threshold] = [node for node in packed.nodes if isinstance(node, Threshold)]
    found = verify(net, packed, RAW)  # torch adds ±0.1 or so 64 times: not always 0 where there are 32 of each
    assert found.ok
    assert found.tied == found.label_mismatches > 0
    for by in (-4, -2, 1, 2, 4):
        moved = replace(threshold, threshold=threshold.threshold + np.int32(by))
        nodes = tuple(moved if node is threshold else node for node in packed.nodes)
        assert not verify(net, replace(packed, nodes=nodes), RAW).ok


def test_maps_of_values_are_compared() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(InputCoding(), BinaryConv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1))
    net.train()(X)
    packed = pack(net.eval(), input_shape=SHAPE)
    found = verify(net, packed, RAW)
    assert (found.compared, found.count, found.ok) == ("values", COUNT, True)
    assert not verify(net, shifted(packed, 0.1), RAW).ok


# --------------------------------------------------------------------------------------------------------- many labels
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
@pytest.mark.parametrize("width", [1, 4])
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
    assert (wrong.compared, wrong.label_mismatches, wrong.ok) == ("values", COUNT, False)
    louder = replace(packed, nodes=(*packed.nodes[:-1], times(packed.nodes[-1], 1.5)))
    assert not verify(net, louder, (RAW, targets)).ok  # the same signs; but 0 and 1 may also be values
    certified = certify(net, packed, (RAW, targets))
    assert certified.statement.startswith(
        f"certified on {COUNT * width:,} labels (1 for an output above 0) of own data (arrays): "
        f"{found.correct:,} correct"
    )


# ---------------------------------------------------------------------------------------------------- several outputs
class TwoHeads(nn.Module):
    """Logits of three classes, and a number."""

    def __init__(self, *, named: bool, both: nn.Module, shift: float = 0.0) -> None:
        super().__init__()
        self.named, self.both, self.shift = named, both, shift

    def forward(self, x: Tensor) -> Any:
        hidden, logits = self.both[:-2](x), self.both(x)  # type: ignore[index]
        return {"hidden": hidden + self.shift, "label": logits} if self.named else (hidden + self.shift, logits)


def two_heads(*, named: bool, shift: float = 0.0) -> tuple[nn.Module, PackedNet]:
    """A net with its hidden values as a second output, and the packed net that gives both."""
    net = make_net(3)
    packed = pack(net, input_shape=SHAPE)
    hidden = packed.nodes[-3].output
    output: Any = {"hidden": hidden, "label": packed.output} if named else (hidden, packed.output)
    return TwoHeads(named=named, both=net, shift=shift), replace(packed, output=output)


@pytest.mark.parametrize("named", [False, True])
def test_each_of_several_outputs_is_compared(named: bool) -> None:
    model, packed = two_heads(named=named)
    labels = np.random.default_rng(3).integers(0, 3, COUNT)
    targets: Any = {"label": labels} if named else (None, labels)
    found = verify(model, packed, RAW, labels=targets)
    hidden, label = ("hidden", "label") if named else ("output 0", "output 1")
    assert found.ok
    assert list(found.outputs) == [hidden, label]
    assert [part.compared for part in found.outputs.values()] == ["values", "labels"]
    right = int((torch.as_tensor(outputs_of(model.both)).argmax(1).numpy() == labels).sum())  # type: ignore[arg-type]
    assert found.correct == found.outputs[label].correct == right
    assert f"; {hidden}: 400 equal (outputs differ by at most " in str(found)
    assert f"; {label}: 400 equal (logits differ by at most " in str(found)
    unlabeled = verify(model, packed, RAW)
    assert unlabeled.ok
    assert [part.compared for part in unlabeled.outputs.values()] == ["values", "values"]
    other, _ = two_heads(named=named, shift=0.1)
    wrong = verify(other, packed, RAW, labels=targets)
    assert not wrong.ok
    assert (wrong.label_mismatches, wrong.outputs[hidden].label_mismatches, wrong.outputs[label].label_mismatches) == (
        COUNT, COUNT, 0,
    )  # fmt: skip
    by_training = verify(model, packed, RAW, labels=targets, trained=other)
    assert (by_training.label_mismatches, by_training.trained_mismatches, by_training.ok) == (0, COUNT, False)
    given = other(X)
    assert verify(model, packed, RAW, labels=targets, trained=given).trained_mismatches == COUNT


def test_labels_belong_to_the_only_output_of_logits() -> None:
    torch.manual_seed(0)
    both = nn.Sequential(
        *(InputCoding(), BinaryConv2d(1, 1, 1, bias=True), nn.Flatten(), BinaryLinear(12, 3), nn.BatchNorm1d(3))
    )
    both.train()(X)
    packed = pack(both.eval(), input_shape=SHAPE)
    values = next(node.output for node in packed.nodes if isinstance(node, Affine))

    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return both[:2](x), both(x)  # type: ignore[return-value]

    labels = np.random.default_rng(3).integers(0, 3, COUNT)
    found = verify(Both(), replace(packed, output=(values, packed.output)), (RAW, labels))  # type: ignore[arg-type]
    assert found.ok
    assert found.correct == found.outputs["output 1"].correct == (both(X).argmax(1).numpy() == labels).sum()
    assert found.outputs["output 0"].compared == "values"


def test_several_outputs_are_certified() -> None:
    model, packed = two_heads(named=True)
    labels = np.random.default_rng(3).integers(0, 3, COUNT)
    certified = certify(model, packed, RAW, labels={"label": labels}, layers=())
    certificate = certified.certificate
    assert certificate is not None
    assert (certificate.count, certificate.label_mismatches, certificate.compared) == (COUNT, 0, "values")
    assert certified.statement.startswith(
        f"certified on 400 images of own data (arrays): {certificate.correct} correct"
    )


def test_outputs_that_do_not_fit_are_one_clear_line() -> None:
    (model, packed), (other, _) = two_heads(named=True), two_heads(named=False)
    with pytest.raises(UsageError, match="the model makes a tuple of 2, the packed net the outputs hidden, label"):
        verify(other, packed, RAW)
    with pytest.raises(UsageError, match="the model makes a dict of 2, the packed net one array"):
        verify(model, pack(make_net(3), input_shape=SHAPE), RAW)
    with pytest.raises(UsageError, match="got one array of targets for a net with 2 outputs, expected a tuple or dict"):
        verify(model, packed, (RAW, np.zeros((COUNT, 3), np.float32)))
    with pytest.raises(UsageError, match="got targets in a tuple of 2, the net has the outputs hidden, label"):
        verify(model, packed, RAW, labels=(RAW, RAW))


# ------------------------------------------------------------------------------------------------------------- spreads
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 60),
    shape=st.sampled_from([(), (1,), (3,), (2, 2)]),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    offset=st.sampled_from([0.0, 1e4]),
)
def test_batches_do_not_matter(seed: int, count: int, shape: tuple[int, ...], cuts: list[int], offset: float) -> None:
    rng = np.random.default_rng(seed)
    theirs = (rng.normal(size=(count, *shape)) + offset).astype(np.float32)
    noise = 10.0 ** rng.integers(-8, 0, theirs.shape) * rng.choice([-1, 0, 1], theirs.shape)
    ours = (theirs + noise).astype(np.float32)
    whole, parts = Spread(), Spread()
    whole.add(ours, theirs)
    edges = [0, *sorted(min(cut, count) for cut in cuts), count]
    for start, stop in itertools.pairwise(edges):
        parts.add(ours[start:stop], theirs[start:stop])
    assert (whole.apart() == parts.apart()).all()
    assert whole.relative_difference == parts.relative_difference
    assert (whole.r2 is None) == (parts.r2 is None)
    assert whole.r2 is None or whole.r2 == pytest.approx(parts.r2, rel=1e-6, abs=1e-6)
    columns = theirs.reshape(count, shape[0] if shape else 1, -1).astype(np.float64)
    scale = np.ptp(columns, axis=(0, 2))
    if count < 8:
        scale = np.maximum(scale, np.abs(columns).max(axis=(0, 2)))
    tolerance = 1e-4 * scale + 1e-6 * np.abs(columns).max(axis=(0, 2))
    apart = (np.abs(ours.reshape(columns.shape) - columns).max(axis=2) > tolerance).any(axis=1)
    assert (whole.apart() == apart).all()


def test_each_column_has_its_own_range() -> None:
    theirs = np.stack([np.linspace(0, 1e6, 50), np.linspace(0, 1, 50)], axis=1).astype(np.float32)
    for column, by, found in ((0, 10, 0), (1, 10, 50), (1, 5e-5, 0), (0, 200, 50)):
        ours = theirs.copy()
        ours[:, column] += by
        spread = Spread()
        spread.add(ours, theirs)
        assert spread.apart().sum() == found


def test_constant_outputs_have_no_r2_unless_they_are_equal() -> None:
    theirs = np.full((20, 1), 3.0, np.float32)
    for by, r2, apart in ((0.0, 1.0, 0), (0.1, None, 20)):
        spread = Spread()
        spread.add(theirs + np.float32(by), theirs)
        assert (spread.r2, spread.apart().sum()) == (r2, apart)


def test_the_sums_of_a_large_channel_are_no_reason_for_those_of_a_small_one() -> None:
    """Pressure in pascals beside an acceleration: what turns the signs of the second is not rounding."""
    torch.manual_seed(0)
    x = torch.stack([101_325 + 1_000 * torch.randn(200, 32), 0.01 * torch.randn(200, 32)], 1)
    net = nn.Sequential(
        BinaryConv1d(2, 4, 3, groups=2, weight_quantizer="xnor"),
        BinaryConv1d(4, 16, 3, weight_quantizer="xnor", input_quantizer="rsign"),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
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


@pytest.mark.parametrize(
    ("count", "wrong", "ok"), [(1, 1, False), (9, 1, False), (10, 1, True), (10, 2, False), (400, 2, True)]
)
def test_few_samples_leave_nothing_to_rounding(count: int, wrong: int, ok: bool) -> None:
    found = Agreement(count, 0, 0.0, True, trained_mismatches=wrong)
    assert found.as_trained is found.ok is ok


def test_one_sample_of_another_net_is_refused() -> None:
    def net(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        first = BinaryLinear(10, 32, weight_quantizer="xnor")
        return nn.Sequential(first, BinaryLinear(32, 1, input_quantizer="ste_sign", bias=True)).eval()

    x = torch.randn(5, 10)
    found = verify(net(1), pack(net(2), x), x[:1])
    assert (found.label_mismatches, found.ok) == (1, False)
