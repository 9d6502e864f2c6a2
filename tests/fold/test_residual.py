"""Values that are read twice are written once, whether they are added, binarized or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.fold import pack
from onebit.layers import BinaryConv2d, InputCoding
from onebit.packed import Affine
from onebit.runtime import run
from onebit.verification.agreement import verify
from support.fold_nets import Model, assert_agrees, images_of, kinds, make_nasty, torch_logits

SHAPE = (3, 8, 8)


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
