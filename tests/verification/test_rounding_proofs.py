"""Proofs of the roundings of nets: the counts of the certificate are those of all integers, tried in fractions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import product
from math import floor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import onebit
from onebit.errors import FoldError, UsageError
from onebit.fold import fold_model
from onebit.layers import BinaryConv2d, BinaryLinear, InputCoding
from onebit.models import create_model
from onebit.packed import LayerProof, PackedNet, Requantize, infer
from onebit.quantizers import UInt4
from onebit.verification.agreement import prove
from onebit.verification.outcome import Agreement

IMAGES = torch.randint(0, 256, (64, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
Number = Callable[..., Fraction]


class Residual(nn.Module):
    """A shortcut of integers beside a convolution, a pool over 16 pixels, and three roundings."""

    def __init__(self) -> None:
        super().__init__()
        self.coding = InputCoding()
        self.conv0, self.bn0 = BinaryConv2d(1, 3, 3, bias=False, weight_quantizer="xnor"), nn.BatchNorm2d(3)
        self.conv1 = BinaryConv2d(3, 3, 3, padding=1, bias=True, weight_quantizer="xnor")
        self.bn1, self.pool = nn.BatchNorm2d(3), nn.AvgPool2d(4)
        self.first, self.sum, self.mean = UInt4(), UInt4(), UInt4()
        self.fc = BinaryLinear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(torch.relu(self.bn0(self.conv0(self.coding(x)))))
        x = self.sum(torch.relu(self.bn1(self.conv1(x)) + x))
        return self.fc(self.mean(self.pool(x)).flatten(1))


def trained(seed: int) -> Residual:
    torch.manual_seed(seed)
    model = Residual()
    with torch.no_grad():
        for _ in range(3):
            model(IMAGES)
        for norm in (model.bn0, model.bn1):
            norm.weight.uniform_(-2, 2)
            norm.bias.uniform_(-1, 1)
    return model.eval()


def numbers(tensor: Tensor | None) -> list[Fraction]:
    assert tensor is not None
    return [Fraction(float(x)) for x in tensor.detach().flatten()]


def norm_of(norm: nn.BatchNorm2d) -> tuple[list[Fraction], list[Fraction]]:
    """Scale and shift, with 50 digits of the root."""
    with localcontext() as context:
        context.prec = 50
        roots = [
            Fraction((Decimal(v.numerator) / v.denominator + Decimal(norm.eps)).sqrt())
            for v in numbers(norm.running_var)
        ]
    scales = [w / root for w, root in zip(numbers(norm.weight), roots, strict=True)]
    parts = zip(numbers(norm.bias), numbers(norm.running_mean), scales, strict=True)
    return scales, [b - m * a for b, m, a in parts]


def by_hand(model: Residual) -> dict[str, Number]:
    """For each rounding, what it rounds in channel c for integers x, from the parameters of the model."""
    first, total, mean = (numbers(q.integer_input().step)[0] for q in (model.first, model.sum, model.mean))
    (a0, b0), (a1, b1) = norm_of(model.bn0), norm_of(model.bn1)
    w0, w1 = (numbers(conv.binary_weight().scale) for conv in (model.conv0, model.conv1))
    bias = numbers(model.conv1.bias)
    return {
        "first": lambda c, x: (a0[c] * w0[c] * x + b0[c]) / first,
        "sum": lambda c, x, y: (a1[c] * (w1[c] * first * x + bias[c]) + b1[c] + first * y) / total,
        "mean": lambda c, x: total * x / 16 / mean,
    }


def counted(packed: PackedNet, name: str, number: Number) -> LayerProof:
    """All integers, tried: those that round otherwise than to even, or lie at a tie."""
    [node] = [node for node in packed.nodes if node.output == name]
    assert isinstance(node, Requantize)
    values = infer(packed)
    integers = differing = 0
    limits = [values[x].limits for x in node.inputs]
    for channel, xs in product(range(3), product(*(range(low, high + 1) for low, high in limits))):
        whole = sum(int(m) * x for m, x in zip(node.multiplier[:, channel], xs, strict=True))
        ours = min(max((whole + int(node.offset[channel])) >> node.right_shift, node.least), node.most)
        real = number(channel, *xs)
        theirs = min(max(round(real), node.least), node.most)
        tie = abs(real - floor(real) - Fraction(1, 2)) < Fraction(1, 10**11) and node.least < real < node.most
        assert abs(ours - theirs) <= 1
        integers, differing = integers + 1, differing + (ours != theirs or tie)
    return LayerProof(name=name, proof="every integer", integers=integers, mismatches=differing)


def coarser(packed: PackedNet, bits: int) -> PackedNet:
    """The net with fewer bits in its multipliers and offsets, the lower ones 0."""

    def change(node: Any) -> Any:
        if not isinstance(node, Requantize):
            return node
        arrays = {name: np.rint(getattr(node, name) * 2.0**-bits) * 2**bits for name in ("multiplier", "offset")}
        return replace(node, **{name: array.astype(getattr(node, name).dtype) for name, array in arrays.items()})

    return replace(packed, nodes=tuple(change(node) for node in packed.nodes))


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 100), bits=st.sampled_from([0, 0, 12, 14, 16]), tied=st.booleans())
def test_the_counts_are_those_of_all_integers_in_fractions(seed: int, bits: int, tied: bool) -> None:
    model = trained(seed)
    if tied:  # an average of 16 integers is at a tie where their sum is 8 modulo 16
        with torch.no_grad():
            model.mean.limit.copy_(model.sum.limit)
    packed = coarser(onebit.pack(model, IMAGES), bits)
    try:
        proofs = prove(model, packed)
    except FoldError:
        assert bits
        return
    assert [proof.name for proof in proofs] == ["first", "sum", "mean"]
    for proof in proofs:
        assert proof == counted(packed, proof.name, by_hand(model)[proof.name])
    if tied:
        assert proofs[2].mismatches == 3 * 15
    elif not bits:
        assert proofs[2].mismatches == 0


@pytest.mark.parametrize("seed", range(3))
def test_real_arithmetic_has_the_numbers_of_the_parameters(seed: int) -> None:
    """Not those of the folded net, which are rounded to float32: they are 1e-8 off."""
    model = trained(seed)
    found = fold_model(model, IMAGES).real
    for name, number in by_hand(model).items():
        inputs = len(found[name].values)
        for channel in range(3):
            zero = number(channel, *[0] * inputs)
            expected = [number(channel, *row) - zero for row in np.eye(inputs, dtype=int).tolist()]
            given = [*found[name].scales[:, channel], found[name].shift[channel]]
            largest = max(abs(float(x)) for x in (zero, *expected))
            np.testing.assert_allclose(given, [float(x) for x in (*expected, zero)], rtol=1e-14, atol=1e-14 * largest)


def test_some_integers_differ_with_fewer_bits() -> None:
    model = trained(0)
    exact = onebit.pack(model, IMAGES)
    found = [sum(p.mismatches for p in prove(model, coarser(exact, bits))) for bits in (0, 14)]
    assert found[0] < found[1]


@pytest.fixture
def folds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each fold of a model during a comparison."""
    done: list[int] = []

    def counting(*arguments: Any, **options: Any) -> Any:
        done.append(1)
        return fold_model(*arguments, **options)

    for module in ("agreement", "tally"):
        monkeypatch.setattr(f"onebit.verification.{module}.fold_model", counting)
    return done


def test_a_certificate_has_them_with_one_fold(folds: list[int]) -> None:
    model = trained(1)
    packed = onebit.pack(model, IMAGES)
    made = onebit.certify(model, packed, IMAGES).certificate
    assert made is not None
    assert made.layers == prove(model, packed)
    assert folds == [1, 1]  # the second one by `prove`
    assert onebit.verify(model, packed, IMAGES).ok
    assert folds == [1, 1]


def changed(packed: PackedNet, at: str, **arrays: Callable[[np.ndarray], np.ndarray]) -> PackedNet:
    """The net with other arrays in one rounding."""
    nodes = [
        replace(node, **{name: change(getattr(node, name)) for name, change in arrays.items()})
        if node.output == at
        else node
        for node in packed.nodes
    ]
    return replace(packed, nodes=tuple(nodes))


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "multiplier": lambda a: np.concatenate([a[:, :1] + np.abs(a).max() // 1000, a[:, 1:]], axis=1).astype(np.int32),
    "offset": lambda a: a + np.abs(a).max() // 100,
}


@pytest.mark.parametrize("at", ["first", "sum", "mean"])
@pytest.mark.parametrize("name", CHANGES)
def test_other_numbers_are_refused(at: str, name: str) -> None:
    model = trained(0)
    packed = changed(onebit.pack(model, IMAGES), at, **{name: CHANGES[name]})
    for claim in (lambda: prove(model, packed), lambda: onebit.certify(model, packed, IMAGES)):
        with pytest.raises(FoldError, match=rf"^{at}: its multipliers and offsets are not those of the model"):
            claim()


# ------------------------------------------------------------------------------------------ rounded after the training
def real_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(InputCoding(), BinaryConv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        *(BinaryConv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()),
        *(BinaryLinear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), BinaryLinear(7, 3)),
    )
    with torch.no_grad():
        for _ in range(10):
            model(IMAGES)
    return model.eval()


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_an_integer_net_states_its_steps_itself(bits: int) -> None:
    """The exact net and the integer net are enough, also of a file; the ranges are not needed."""
    model = real_model()
    exact = onebit.pack(model, IMAGES)
    small = onebit.integer_net(exact, IMAGES.numpy(), activations=bits)
    made = onebit.certify(model, small, IMAGES, activations=bits, calibration=64).certificate
    assert made is not None
    roundings = [node.output for node in small.nodes if isinstance(node, Requantize)]
    assert [layer.name for layer in made.layers] == roundings
    assert len(roundings) == 3
    assert all(layer.proof == "every integer" and layer.mismatches <= 2 for layer in made.layers)
    for at, (name, change) in product(roundings, CHANGES.items()):
        other = changed(small, at, **{name: change})
        with pytest.raises(FoldError, match=rf"^{at}: its multipliers and offsets are not those of the model"):
            prove(model, other, activations=bits)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20", {"width": 0.25, "real_first": True}),  # what follows real weights is rounded by `quantize`
        ("unet", {"width": 0.1, "depth": 2}),  # values that are concatenated have one step
        ("resnet18", {"width": 0.1, "bireal": True}),  # streams of 16 bits
    ],
)
def test_steps_are_found_behind_real_weights_and_concatenations(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = create_model(name, input_shape=(3, 16, 16), **options)
    images = torch.randint(0, 256, (48, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        model(images)
    packed = onebit.pack(model.eval(), images)
    small = onebit.integer_net(packed, images.numpy())
    proofs = prove(model, small, activations=8)
    assert [proof.name for proof in proofs] == [node.output for node in small.nodes if isinstance(node, Requantize)]
    assert len(proofs) > 5
    assert all(proof.mismatches <= max(2, proof.integers / 10**6) for proof in proofs)


def test_labels_that_the_activations_change_need_no_other_fold(folds: list[int]) -> None:
    model = real_model()
    small = onebit.integer_net(onebit.pack(model, IMAGES), IMAGES.numpy(), activations=2)
    made = onebit.certify(model, small, IMAGES, activations=2, calibration=64).certificate
    assert made is not None
    assert made.label_mismatches > 0
    assert folds == [1]


def test_an_integer_net_of_another_model_is_refused() -> None:
    small = onebit.integer_net(onebit.pack(real_model(), IMAGES), IMAGES.numpy())
    other = nn.Sequential(*list(real_model())[:5], nn.Flatten(), BinaryLinear(20, 3)).eval()
    with pytest.raises(UsageError, match="does not have the operations that the model has"):
        prove(other, small, activations=8)


def test_weighted_sums_where_pairs_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onebit.integer.staircase.MOST_STEPS", 15 * 3)
    model = trained(0)
    first, total, mean = prove(model, onebit.pack(model, IMAGES))
    assert [first.proof, total.proof, mean.proof] == ["every integer", "within one", "every integer"]
    assert 0 < total.mismatches < total.integers / 1000
    assert str(total).endswith("may differ by 1")


# ------------------------------------------------------------------------------------------------ ties and labels
class Halves(nn.Module):
    """A pixel in steps of 2, and two logits: 2n and 1 - 2n."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.halves, self.logits = BinaryLinear(1, 1), UInt4(), BinaryLinear(1, 2, bias=True)
        with torch.no_grad():
            self.halves.limit.fill_(30)
            self.same.weight.fill_(1)
            self.logits.weight.copy_(torch.tensor([[1.0], [-1.0]]))
            self.logits.bias.copy_(torch.tensor([0.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.halves(self.same(x.flatten(1).float())))


def test_labels_that_a_tie_decides_are_tied_and_others_are_not() -> None:
    """1/2 is 0 in torch, which rounds to even, and 1 in the packed net."""
    model, images = Halves().eval(), torch.arange(32, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    packed = onebit.pack(model, images)
    [proof] = prove(model, packed)
    assert (proof.integers, proof.mismatches) == (511, 15)
    found = onebit.verify(model, packed, images)
    assert (found.label_mismatches, found.tied, found.ok) == (1, 1, True)
    assert "in 1 rounding decides an integer" in str(found)
    made = onebit.certify(model, packed, images).certificate
    assert made is not None
    assert made.tied == 1
    # 0.51 is not near a tie, so what the packed net makes of it is no rounding of 0.5
    other = changed(packed, "halves", offset=lambda a: a + int(0.01 * 2 ** shift_of(packed)))
    found = onebit.verify(model, other, images)
    assert (found.label_mismatches, found.tied, found.ok) == (1, 0, False)
    # another label without another integer
    with torch.no_grad():
        model.logits.bias[1] = -2
    found = onebit.verify(model, packed, images)
    assert (found.label_mismatches, found.tied, found.ok) == (1, 0, False)


class Sides(nn.Module):
    """Half of each of two pixels less 8, their signs, and two logits; the first sign decides which is larger."""

    def __init__(self) -> None:
        super().__init__()
        self.side, self.logits = nn.Linear(2, 2), BinaryLinear(2, 2, bias=True, input_quantizer="ste_sign")
        with torch.no_grad():
            self.side.weight.copy_(0.5 * torch.eye(2))
            self.side.bias.fill_(-8)
            self.logits.weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]))
            self.logits.bias.copy_(torch.tensor([0.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.side(x.flatten(1).float()))


def test_labels_that_a_sign_near_zero_decides_are_tied_and_others_are_not() -> None:
    """The first pixel, from 0 to 31, decides the label; the second is 31."""
    model = Sides().eval()
    images = torch.stack([torch.arange(32), torch.full((32,), 31)], 1).to(torch.uint8).reshape(-1, 1, 1, 2)
    packed = onebit.pack(model, images)
    assert onebit.verify(model, packed, images).label_mismatches == 0

    def verified(moved: float) -> Agreement:
        return onebit.verify(model, changed(packed, "side_2", shift=lambda a: a + np.float32(moved)), images)

    found = verified(-1e-6)  # the sign of 0 turns, as a rounding in another order would have it
    assert (found.label_mismatches, found.tied, found.ok) == (1, 1, True)
    assert "in 1 rounding decides a sign" in str(found)
    made = onebit.certify(model, changed(packed, "side_2", shift=lambda a: a + np.float32(-1e-6)), images).certificate
    assert made is not None
    assert made.tied == 1
    for moved, turned in ((-1e-3, 1), (-0.6, 2), (-2, 4)):  # more than 1e-5 of 8: no rounding does that
        found = verified(moved)
        assert (found.label_mismatches, found.tied, found.ok) == (turned, 0, False)
    # another label without another sign
    with torch.no_grad():
        model.logits.bias[1] = -2
    found = verified(0)
    assert (found.label_mismatches, found.tied, found.ok) == (16, 0, False)


def shift_of(packed: PackedNet) -> int:
    return next(node.right_shift for node in packed.nodes if isinstance(node, Requantize))


def test_ties_of_values_are_found_as_well() -> None:
    model, images = Halves().eval(), torch.arange(32, dtype=torch.uint8).reshape(-1, 1, 1, 1)
    targets = np.zeros((32, 2), np.float32) + 0.5
    packed = onebit.pack(model, images)
    found = onebit.verify(model, packed, (images.numpy(), targets))
    assert (found.compared, found.label_mismatches, found.tied, found.ok) == ("values", 8, 8, True)  # 0.5, 2.5, …
    other = changed(packed, "halves", offset=lambda a: a + int(0.01 * 2 ** shift_of(packed)))
    assert not onebit.verify(model, other, (images.numpy(), targets)).ok


def test_integers_of_tokens_are_compared_in_the_order_of_the_net() -> None:
    """A layer on the last axis: the packed net has channels first."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.halves = BinaryLinear(3, 2, input_quantizer=UInt4)
            self.out = BinaryLinear(6, 2)
            with torch.no_grad():
                self.halves.input_quantizer.limit.fill_(30)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.halves(x.float()).flatten(1))

    torch.manual_seed(0)
    images = torch.randint(0, 30, (500, 3, 3), dtype=torch.uint8)
    model = Tokens().eval()
    packed = onebit.pack(model, images)
    found = onebit.verify(model, packed, images)
    assert found.label_mismatches == found.tied > 0
    assert found.ok
