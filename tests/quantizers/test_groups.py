"""Scales per group of inputs: each group is what a row of its own would be, with a scale that float16 holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

import onebit
from onebit.errors import FoldError, UsageError
from onebit.layers import BinaryConv2d, BinaryLinear
from onebit.quantizers import WEIGHT_QUANTIZERS, BinaryWeight

NAMES = ["magnitude_aware", "xnor"]


def quantizer(name: str, group: int | None = None) -> Any:
    return WEIGHT_QUANTIZERS[name](group=group)


@pytest.mark.parametrize("name", NAMES)
@given(rows=st.integers(1, 5), groups=st.integers(1, 4), group=st.sampled_from([1, 2, 8, 128]), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_weight_and_gradient_follow_the_formula_in_each_group(
    name: str, rows: int, groups: int, group: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    latent, g = (torch.randn(rows, groups * group, generator=generator) for _ in range(2))
    latent.requires_grad_()
    weight = quantizer(name, group)(latent)
    weight.backward(g)
    values, given_ = latent.detach().numpy().astype(np.float64), g.numpy().astype(np.float64)
    scales = np.zeros((rows, groups))
    for row in range(rows):
        for at in range(groups):
            part = slice(at * group, (at + 1) * group)
            w, gradient = values[row, part], given_[row, part]
            scales[row, at] = np.float16(np.abs(w).mean(dtype=np.float32))
            signs = np.where(w >= 0, 1.0, -1.0)
            expected = scales[row, at] * gradient * (np.abs(w) <= 1)
            if name == "xnor":
                expected += signs * (gradient * signs).mean()
            np.testing.assert_allclose(latent.grad[row, part], expected, rtol=2e-3, atol=1e-5)
            np.testing.assert_allclose(weight.detach()[row, part], scales[row, at] * signs, rtol=1e-3)
    shipped = quantizer(name, group).decompose(latent)
    assert shipped.scale.shape == (rows, groups)
    assert torch.equal(shipped.dense(), weight)
    assert torch.equal(shipped.scale.half().float(), shipped.scale)


@pytest.mark.parametrize("name", NAMES)
def test_a_group_of_the_whole_row_differs_only_by_the_rounding_of_its_scale(name: str) -> None:
    latent = torch.randn(4, 24)
    torch.testing.assert_close(quantizer(name, 24)(latent), quantizer(name)(latent), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_groups_of_zeros_and_of_huge_latents_keep_two_finite_values(name: str) -> None:
    scale = quantizer(name, 2).decompose(torch.tensor([[0.0, 0.0, 1e9, -1e9]])).scale
    assert scale.tolist() == [[2.0**-14, 65504.0]]


def test_dense_weights_of_groups_have_the_scale_of_their_group() -> None:
    signs = torch.tensor([[1.0, -1.0, 1.0, 1.0]])
    weight = BinaryWeight(signs, torch.tensor([[2.0, 3.0]]))
    assert weight.grouped
    assert weight.dense().tolist() == [[2, -2, 3, 3]]
    assert not BinaryWeight(signs, torch.tensor([[2.0]])).grouped


def test_rows_that_are_no_multiple_of_the_group_are_refused() -> None:
    with pytest.raises(UsageError, match="group"):
        BinaryLinear(100, 3, weight_quantizer=quantizer("xnor", 8))
    with pytest.raises(UsageError, match="group"):
        BinaryConv2d(8, 3, 3, weight_quantizer=quantizer("xnor", 8))


def test_a_net_with_groups_trains_and_does_not_pack_whole() -> None:
    net = nn.Sequential(BinaryLinear(8, 16, weight_quantizer=quantizer("magnitude_aware", 4)), nn.Linear(16, 2))
    data = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32), np.arange(20) % 2
    onebit.fit(net, data, torch.optim.Adam(net.parameters()), epochs=1, batch_size=10)
    assert onebit.evaluate(net, data).count == 20
    assert "group=4" in repr(net[0])
    with pytest.raises(FoldError, match="group"):
        onebit.pack(net, torch.from_numpy(data[0]))
