"""Dense layers with scales for groups of inputs: every instruction set has the bits of the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings, strategies as st

import onebit
from onebit.layers import BinaryLinear
from onebit.modules.layers import PackedLinear
from onebit.native import NotPlanned, instruction_sets, make_plan
from onebit.packed import PackedNet
from onebit.quantizers import WEIGHT_QUANTIZERS, BinaryWeight
from support.executors import EXECUTORS, assert_agrees, chosen, reference
from support.kernel_nets import scaled_net


def real_inputs(net: PackedNet, count: int, seed: int) -> np.ndarray:
    """Rows of different sizes, one of them zeros."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, *net.input.shape)) * 10.0 ** rng.integers(-3, 4, (count, 1))
    x[count // 2] = 0
    return x.astype(np.float32)


@given(
    group=st.sampled_from([1, 3, 30, 32, 64, 100, 127, 128]),
    groups=st.integers(2, 7),
    outputs=st.integers(1, 150),
    count=st.integers(1, 35),
    seed=st.integers(0, 99),
)
@example(group=128, groups=2, outputs=600, count=17, seed=0)
@settings(max_examples=40)
def test_every_instruction_set_has_the_bits_of_the_reference(
    group: int, groups: int, outputs: int, count: int, seed: int
) -> None:
    net = scaled_net(group, groups, outputs, seed=seed)
    x = real_inputs(net, count, seed)
    expected = reference(net, x)
    for isa in instruction_sets().values():
        assert assert_agrees(net, x, expected, isa)
        assert assert_agrees(net, x, expected, isa, parts=3)


def test_the_largest_sums_of_a_group_fit() -> None:
    """Every input is the largest number of its grid, and every weight has its sign."""
    net = scaled_net(128, 2, 40)
    largest = np.nextafter(np.float32(1), np.float32(0))
    x = np.where(net.nodes[0].rows[:1] > 0, largest, -largest)  # type: ignore[attr-defined]
    expected = reference(net, x)
    assert expected is not None
    assert expected[0, 0] == pytest.approx(128 * net.nodes[0].scales[0].sum())  # type: ignore[attr-defined]
    for isa in instruction_sets().values():
        assert assert_agrees(net, x, expected, isa)


def test_larger_groups_run_by_numpy() -> None:
    net = scaled_net(256, 2, 3)
    for isa in instruction_sets().values():
        with pytest.raises(NotPlanned):
            make_plan(net, isa)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize(("group", "bias"), [(128, True), (64, False), (256, True)])
def test_packed_layers_compute_the_dense_layer(executor: str, group: int, bias: bool) -> None:
    torch.manual_seed(0)
    quantizer = WEIGHT_QUANTIZERS["magnitude_aware"](group=group)
    net = torch.nn.Sequential(BinaryLinear(512, 48, bias=bias, weight_quantizer=quantizer))
    x = torch.randn(5, 3, 512, requires_grad=True)
    expected = net(x)
    wanted = torch.autograd.grad(expected.square().sum(), x)[0]
    report = onebit.packed_layers_(net)
    with chosen(executor):
        found = net(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), x)[0], wanted, rtol=1e-4, atol=1e-3)
    assert report.packed[0].packed_bytes == 48 * (512 // 8 + 512 // group * 4)


def test_changes_of_the_scales_change_the_answers() -> None:
    layer = PackedLinear(BinaryWeight(torch.ones(3, 256), torch.ones(3, 2)))
    x = torch.ones(1, 256)
    assert layer(x).tolist() == [[256.0] * 3]
    assert layer.scale is not None
    layer.scale[1, 1] = 3
    assert layer(x).tolist() == [[256.0, 512.0, 256.0]]
    layer.scale = torch.full((3, 2), 2.0)
    assert layer(x).tolist() == [[512.0] * 3]
    with torch.inference_mode():
        layer.scale = torch.ones(3, 2)
        layer.scale[0, 0] = 2
        assert layer(x).tolist() == [[384.0, 256.0, 256.0]]
