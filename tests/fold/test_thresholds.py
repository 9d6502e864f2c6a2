"""Integer thresholds give the signs of the trained modules on every possible integer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from onebit.fold import FOLDS, pack
from onebit.fold.chain import FoldedOp, sums_are_exact
from onebit.layers import BinaryLinear, InputCoding
from onebit.packed import OPS, Node, Threshold, Value
from onebit.quantizers import SteSign
from onebit.runtime import run
from support.fold_nets import INT32, SHAPE, assert_agrees, images_of, kinds, make_mlp, make_nasty, node_of, torch_logits


def signs_of(node: Threshold, integers: np.ndarray) -> np.ndarray:
    """(n, C) ±1 by the rule of the format."""
    up, down = integers[:, None] >= node.threshold, integers[:, None] <= node.threshold
    return np.where(np.where(node.direction > 0, up, down), 1, -1)


def possible_sums(inputs: int, most: int) -> np.ndarray:
    """All possible sums of `inputs` odd numbers up to ±most."""
    return np.arange(-inputs * most, inputs * most + 1, 2)


@torch.no_grad()
def signs_of_modules(norm: nn.Module, integers: np.ndarray, channels: int) -> np.ndarray:
    """(n, C) ±1 of the trained modules, for the same integer in every channel."""
    x = torch.from_numpy(integers).float()[:, None].repeat(1, channels)
    return SteSign()(norm(x)).numpy()


@pytest.mark.parametrize(("nasty", "value"), [(0, 1.0), (1, 1.0), (0, 0.25)])
def test_signs_equal_torch_on_every_possible_integer_of_nasty_nets(nasty: int, value: float) -> None:
    model = make_mlp(input_quantizer="ste_sign", nasty=nasty, value=value)
    packed = pack(model)
    assert kinds(packed) == ["Flatten", "Dense", "Threshold", "Dense", "Threshold", "Dense", "Affine"]
    for index, (inputs, most) in enumerate(((12, 255), (31, 1))):
        node, norm = node_of(packed, Threshold, index), model.get_submodule(f"norm{index + 1}")
        integers = possible_sums(inputs, most)
        expected = signs_of_modules(norm, integers * value, len(node.threshold))
        np.testing.assert_array_equal(signs_of(node, integers), expected)
    assert_agrees(model, packed)


@settings(max_examples=20, deadline=None)
@given(data=st.data(), inputs=st.integers(1, 70), outputs=st.integers(1, 9))
def test_signs_equal_torch_for_drawn_parameters(data: st.DataObject, inputs: int, outputs: int) -> None:
    def draw(**limits: Any) -> Tensor:
        number = st.one_of(
            st.integers(-inputs, inputs).map(float), st.floats(width=32, allow_subnormal=False, **limits)
        )
        return torch.tensor(data.draw(st.lists(number, min_size=outputs, max_size=outputs)))

    middle = BinaryLinear(inputs, outputs, input_quantizer="ste_sign")
    norm = nn.BatchNorm1d(outputs)
    with torch.no_grad():
        norm.running_mean.copy_(draw(min_value=-1e6, max_value=1e6))
        norm.running_var.copy_(draw(min_value=0, max_value=2.0**40).abs())
        norm.weight.copy_(draw(min_value=-1e3, max_value=1e3))
        norm.bias.copy_(draw(min_value=-1e3, max_value=1e3))
    last = BinaryLinear(outputs, 2, input_quantizer="ste_sign")
    first = nn.Sequential(InputCoding(), nn.Flatten(), BinaryLinear(3, inputs))
    model = nn.Sequential(first, middle, norm, nn.Dropout(0.3), last).eval()
    packed = pack(model, input_shape=(3, 1, 1))
    node = node_of(packed, Threshold, 1)
    integers = possible_sums(inputs, 1)
    np.testing.assert_array_equal(signs_of(node, integers), signs_of_modules(norm, integers, outputs))
    np.testing.assert_array_equal(run(packed, images_of(30, (3, 1, 1))), torch_logits(model, images_of(30, (3, 1, 1))))


def test_directions_and_constants() -> None:
    model = make_mlp((12, 4, 2), input_quantizer="ste_sign", nasty=None)
    norm = model.get_submodule("norm1")
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -1.0, 0.0, 0.0]))
        norm.bias.copy_(torch.tensor([0.0, 0.0, -0.5, 0.5]))
        norm.running_mean.copy_(torch.tensor([9.0, 9.0, 9.0, 9.0]))
    node = node_of(pack(model), Threshold)
    assert node.direction[:2].tolist() == [1, -1]
    assert set(node.threshold[:2]) <= {8, 10}
    assert node.threshold[2:].tolist() == [INT32.max, INT32.min]
    assert node.direction[2:].tolist() == [1, 1]


def test_clips_and_two_norms_before_a_sign_are_one_threshold() -> None:
    torch.manual_seed(0)
    model = make_nasty(
        nn.Sequential(
            InputCoding(),
            nn.Flatten(),
            BinaryLinear(12, 33),
            nn.BatchNorm1d(33),
            nn.Hardtanh(),
            nn.BatchNorm1d(33),
            nn.Identity(),
            BinaryLinear(33, 20, input_quantizer="ste_sign"),
            nn.ReLU(),
            BinaryLinear(20, 4, input_quantizer="ste_sign"),
        )
    )
    packed = pack(model, input_shape=SHAPE)
    assert kinds(packed) == ["Flatten", "Dense", "Threshold", "Dense", "Threshold", "Dense"]
    integers = possible_sums(12, 255)
    expected = signs_of_modules(nn.Sequential(*model[3:6]), integers, 33)
    np.testing.assert_array_equal(signs_of(packed.nodes[2], integers), expected)
    assert (packed.nodes[4].threshold == INT32.min).all()  # relu(x) >= 0: always +1
    np.testing.assert_array_equal(run(packed, images_of()), torch_logits(model, images_of()))


@dataclass(frozen=True, eq=False, kw_only=True)
class AbsoluteNode(Node):
    """|x|."""

    def infer(self, *inputs: Value) -> Value:
        return Value(inputs[0].shape, "real")

    def compute(self, dtype: Any, *arrays: Any) -> np.ndarray:
        return np.abs(arrays[0].astype(dtype))


class Absolute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


def test_no_threshold_replaces_an_operation_that_is_not_monotonic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, "absolute", AbsoluteNode)
    monkeypatch.setitem(
        FOLDS, Absolute, lambda folder, call, x: x.then(FoldedOp(call.name, torch.abs, kind=AbsoluteNode))
    )
    torch.manual_seed(0)
    layers = [BinaryLinear(12, 33), Absolute(), nn.BatchNorm1d(33), BinaryLinear(33, 4, input_quantizer="ste_sign")]
    model = nn.Sequential(InputCoding(), nn.Flatten(), *layers).eval()
    with torch.no_grad():
        model[4].running_mean.fill_(300)
    packed = pack(model, input_shape=SHAPE)
    assert "Threshold" not in kinds(packed)
    np.testing.assert_array_equal(run(packed, images_of()), torch_logits(model, images_of()))


def test_float32_sums_are_exact_below_2_to_24_units_with_their_bias() -> None:
    for unit in (1.0, 0.5, 0.25):  # the last digit of the bias
        most, bias = int(2**24 * unit), torch.tensor([unit])
        assert sums_are_exact(most - 1, bias) is (unit < 1)
        assert sums_are_exact(most - 2, bias)
        assert not sums_are_exact(most, bias)
    assert sums_are_exact(2**22, torch.tensor([2.0, 0.5]))
    for shift in (2.0**24, 0.1):
        assert not sums_are_exact(10, torch.tensor([shift]))
