"""Values that are read twice are written once, whether they are added, binarized or both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.fold import pack
from onebit.layers import BinaryConv2d, InputCoding, binarize_
from onebit.packed import Affine
from onebit.runtime import run
from onebit.verification.agreement import verify
from support.fold_nets import Model, assert_agrees, images_of, kinds, make_nasty, randomise, torch_logits

SHAPE = (3, 8, 8)


class BasicBlock(nn.Module):
    """A typical CIFAR block: in place, functional, with an empty Sequential as identity."""

    def __init__(self, in_planes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or in_planes != planes:
            quarter = planes // 4
            self.shortcut = Model(lambda m, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter)))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ForeignResNet(nn.Module):
    """Three stages of two blocks, averaged by `avg_pool2d`, flattened by `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2), BasicBlock(16, 16))
        self.layer3 = nn.Sequential(BasicBlock(16, 32, 2), BasicBlock(32, 32))
        self.linear = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        out = out.view(out.size(0), -1)
        return self.linear(out)


def test_a_foreign_residual_net_binarized() -> None:
    torch.manual_seed(0)
    model = randomise(nn.Sequential(InputCoding(), binarize_(ForeignResNet()).model), images_of(50, SHAPE))
    packed = pack(model, input_shape=SHAPE)
    assert Counter(kinds(packed)) == {
        "Conv": 13, "Affine": 14, "Relu": 13, "Add": 6, "Slice": 2, "Pad": 2,
        "AveragePool": 1, "Flatten": 1, "Dense": 1,
    }  # fmt: skip
    assert verify(model, packed, images_of(100, SHAPE)).ok
    assert_agrees(model, packed, images_of(100, SHAPE))


def test_a_foreign_residual_net_with_signs() -> None:
    torch.manual_seed(0)
    foreign = binarize_(ForeignResNet(), input_quantizer="ste_sign").model
    model = randomise(nn.Sequential(InputCoding(), foreign), images_of(50, SHAPE))
    packed = pack(model, input_shape=SHAPE)
    agreement = verify(model, packed, images_of(100, SHAPE))
    assert agreement.ok
    proofs = agreement.layers
    assert len(proofs) == 13
    assert sum(proof.mismatches for proof in proofs) == 0
    # signs inside a block are of integers, those between blocks of real sums; after a ReLU all of them are +1
    assert [proof.proof for proof in proofs] == ["every integer", *["every integer", "float"] * 6]


def body_net(body: Callable[[Any, Tensor], Tensor], *, quantizer: str | None = "ste_sign", mean: bool = True) -> Model:
    """InputCoding, convolution and BatchNorm, whose value `body` uses several times."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = body(m, m.bn(m.first(m.coding(x))))
        return y.mean((2, 3)) if mean else y

    torch.manual_seed(0)
    parts = {"coding": InputCoding(), "first": BinaryConv2d(3, 6, 3, padding=1), "bn": nn.BatchNorm2d(6)}
    parts |= {"a": BinaryConv2d(6, 6, 3, padding=1, input_quantizer=quantizer), "bn_a": nn.BatchNorm2d(6)}
    parts |= {"b": BinaryConv2d(6, 6, 1, input_quantizer=quantizer), "bn_b": nn.BatchNorm2d(6)}
    return Model(forward, **parts)


def both(m: Any, x: Tensor) -> Tensor:
    return m.bn_a(m.a(x)) + x


def relu_first(m: Any, x: Tensor) -> Tensor:
    return m.bn_a(m.a(F.relu(x))) + x


def added_first(m: Any, x: Tensor) -> Tensor:
    y = x + x
    return m.a(x) + y


def signed_twice(m: Any, x: Tensor) -> Tensor:
    return m.a(x) + m.b(x) + x


def bireal(m: Any, x: Tensor) -> Tensor:
    x = m.bn_a(m.a(x)) + x
    return m.bn_b(m.b(x)) + x


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (both, "Conv Threshold Conv Affine Affine Add AdaptiveAveragePool Flatten"),
        (relu_first, "Conv Threshold Conv Affine Affine Add AdaptiveAveragePool Flatten"),
        (added_first, "Conv Affine Add Threshold Conv Add AdaptiveAveragePool Flatten"),
        (signed_twice, "Conv Threshold Conv Conv Add Affine Add AdaptiveAveragePool Flatten"),
        (bireal, "Conv Threshold Conv Affine Affine Add Sign Conv Affine Add AdaptiveAveragePool Flatten"),
    ],
)
def test_a_value_that_is_added_and_binarized(body: Callable[[Any, Tensor], Tensor], expected: str) -> None:
    packed = pack(make_nasty(body_net(body)), input_shape=SHAPE)
    assert " ".join(kinds(packed)) == expected
    # torch adds the terms of an average in another order; before it every float is equal
    model = make_nasty(body_net(body, mean=False))
    inner = pack(model, input_shape=SHAPE)
    images = images_of(30, SHAPE)
    np.testing.assert_array_equal(run(inner, images), torch_logits(model, images))
    for proof in verify(model, inner, images).layers:
        assert proof.mismatches == 0
        assert proof.integers > 1000


@pytest.mark.parametrize("quantizer", [None, "ste_sign"])
def test_a_normed_value_is_written_once_whichever_reader_comes_first(quantizer: str | None) -> None:
    for body in (both, relu_first, bireal, lambda m, x: F.relu(x) + m.a(x), lambda m, x: x + m.a(F.relu(x)) + x):
        model = make_nasty(body_net(body, quantizer=quantizer), seed=2)
        packed = pack(model, input_shape=SHAPE)
        of_first = [node for node in packed.nodes if isinstance(node, Affine) and node.inputs == ("first",)]
        assert len(of_first) == 1
        assert_agrees(model, packed, images_of(20, SHAPE))


def test_in_place_sums_of_values_that_nothing_else_reads() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        y += m.b(x)
        return y.add_(x) + x.add_(1)  # whose earlier value was read before

    model = make_nasty(body_net(body))
    packed = pack(model, input_shape=SHAPE)
    assert kinds(packed).count("Add") == 3
    assert_agrees(model, packed, images_of(20, SHAPE))
