"""What cannot be packed raises an error that names the operation; what only looks similar packs."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import onebit
from onebit.errors import FoldError, NotBinaryError, OnebitError, UsageError
from onebit.fold import pack
from onebit.layers import BinaryConv2d, BinaryLinear, InputCoding, binarize_
from onebit.modules.packed_layers import packed_layers_
from onebit.packed import Affine, Dense, dumps
from onebit.quantizers import BinaryWeight, Quantizer, Sign as SignQuantizer, sign
from support.fold_nets import SHAPE, Model, assert_agrees, assert_answers, kinds, make_mlp


def pixel_net(body: Callable[[Tensor], Any]) -> nn.Module:
    """InputCoding, Flatten, a binary layer, then `body`."""
    function = lambda m, x: m.body(m.fc(m.coding(x).flatten(1)))  # noqa: E731
    return Model(function, coding=InputCoding(), fc=BinaryLinear(12, 6), body=body).eval()


def unused(x: Tensor) -> Tensor:
    F.relu(x, inplace=True)
    return x


def read_twice(x: Tensor) -> Tensor:
    y = F.relu(x, inplace=True)
    return y + x


def view_and_relu(x: Tensor) -> Tensor:
    y = x.view(len(x), 2, 3).relu_()
    return x + y.flatten(1)


def add_to_alias(x: Tensor) -> Tensor:
    y = x * 2
    z = y
    y += 1
    return F.relu(z)


def assigned(change: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """An in-place assignment whose result is unused."""

    def body(x: Tensor) -> Tensor:
        change(x)
        return x * 1

    return body


class CallCounter(nn.Module):
    """Its outputs depend on how often it was called."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class AlwaysTraining(nn.Sequential):
    def train(self, mode: bool = True) -> AlwaysTraining:
        return super().train()


class Answer(NamedTuple):
    """A named tuple, which a packed net does not return."""

    logits: Tensor
    features: Tensor


@pytest.mark.parametrize(
    ("body", "noun"),
    [
        (lambda x: x * F.softmax(x, dim=0), "softmax"),
        (lambda x: x.sign(), r"SteSign\(\)"),
        (torch.sign, r"SteSign\(\)"),
        (torch.sgn, r"SteSign\(\)"),
        (lambda x: torch.heaviside(x, torch.ones(())), r"SteSign\(\)"),
        (lambda x: onebit.sign(x, 1.0), "threshold"),
        (nn.CELU(), r"CELU \('body'\)"),
        (nn.BatchNorm1d(6, track_running_stats=False), "statistics"),
        (AlwaysTraining(nn.BatchNorm1d(6)), "training mode"),
        (lambda x: F.dropout(x, 0.5), "dropout"),
        (lambda x: x.view(-1, 3), "samples"),
        (lambda x: x.view(torch.int32).float(), "view"),
        (unused, "overwrites"),
        (lambda x: torch.add(x, 1, out=torch.zeros(2, 6)), "overwrites"),
        (read_twice, "overwrites"),
        (view_and_relu, "overwrites"),
        (add_to_alias, "overwrites"),
        (lambda x: (x * 1)[:, None].transpose_(1, 2).flatten(1), "overwrites"),
        (assigned(lambda a: a.__setitem__((slice(None), 0), 7.0)), "__setitem__"),
        (assigned(lambda a: operator.ipow(a, 2)), "ipow"),
        (assigned(lambda a: operator.imod(a, 2)), "imod"),
        (assigned(lambda a: operator.ifloordiv(a, 2)), "ifloordiv"),
        (lambda x: x / len(x), "7 samples"),
        (CallCounter(), "7 samples"),
        (lambda x: (x, (x, x)), "returns"),
        (lambda x: (x, None), "returns"),
        (lambda x: (x, x.chunk(2, 1)), "returns"),
        (lambda x: {1: x}, "returns"),
        (lambda x: Answer(x, x), "Answer"),
        (lambda x: (x, torch.ones(3)), "returns"),
        (lambda x: x * torch.rand(6), "random"),
        (lambda x: x + torch.arange(2.0)[:, None], "constant"),
        (lambda x: x / 0, "finite"),
        (lambda x: x.to(torch.float64), "float64"),
        (lambda x: x.expand(3, *x.shape), "batch"),
        (lambda x: F.linear(x, x), "weights"),
        (lambda x: x if x.sum() > 0 else -x, "contents"),
        (lambda x: F.linear(x.new_ones(2, 5), x), "cannot follow"),
    ],
)
def test_an_operation_that_cannot_be_packed_is_named(body: Callable[[Tensor], Any], noun: str) -> None:
    with pytest.raises((FoldError, NotBinaryError), match=noun) as caught:
        pack(pixel_net(body), input_shape=SHAPE)
    assert "\n" not in str(caught.value)


def test_operations_whose_result_is_unused_are_left_out() -> None:
    def branch(m: Any, x: Tensor) -> Tensor:
        m.branch(x).sum()
        return m.fc(x)

    model = Model(branch, fc=BinaryLinear(12, 6), branch=nn.Linear(12, 6)).eval()
    x = torch.zeros(2, 12)
    assert dumps(pack(model, x)) == dumps(pack(Model(lambda m, x: m.fc(x), fc=model.fc), x))


@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.Flatten(), BinaryLinear(12, 3)), nn.Sequential(BinaryConv2d(1, 3, 3))]
)
def test_pixels_must_be_converted_to_float(model: nn.Module) -> None:
    with pytest.raises(FoldError, match="cannot follow"):
        pack(model, input_shape=SHAPE)
    assert pack(model, torch.zeros(1, *SHAPE)).input.dtype == "float32"


@pytest.mark.parametrize(
    ("first", "noun"),
    [
        (lambda x: (x * 2).float(), "uint8"),
        (lambda x: torch.clamp(x, 0, 3).float(), "uint8"),
        (nn.Sequential(nn.Dropout(), InputCoding()), "InputCoding"),
        (nn.Sequential(InputCoding(), InputCoding()), "InputCoding"),
    ],
)
def test_pixels_are_converted_before_arithmetic_and_coded_once(first: Callable[[Tensor], Tensor], noun: str) -> None:
    model = Model(lambda m, x: m.fc(m.begin(x).flatten(1)), begin=first, fc=BinaryLinear(12, 3))
    with pytest.raises(FoldError, match=noun):
        pack(model, input_shape=SHAPE)


def test_a_replaced_forward_method_is_refused() -> None:
    model = nn.Sequential(BinaryLinear(12, 3), nn.ReLU())
    model[1].forward = lambda x: -x
    with pytest.raises(FoldError, match="forward"):
        pack(model, torch.zeros(2, 12))


def test_in_place_assignments_pack_if_no_other_name_reads_the_value() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = x * 1
        x -= 0.5
        y = m.first(x)
        y += x
        y *= 2
        y /= 4
        return m.second(y)

    model, x = Model(forward, first=BinaryLinear(12, 12), second=BinaryLinear(12, 3)), np.float32(np.random.rand(5, 12))
    assert_answers(model, pack(model, x), x)


@dataclasses.dataclass
class State:
    x: Tensor


class TakesState(nn.Module):
    """Its layers get values in a container that `torch.fx` does not look into."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = BinaryLinear(12, 6), nn.BatchNorm1d(6)

    def forward(self, state: State) -> State:
        return State(self.norm(self.first(state.x)))


def test_modules_may_pass_values_in_containers() -> None:
    model = Model(lambda m, x: m.last(m.block(State(x)).x), block=TakesState(), last=BinaryLinear(6, 3)).eval()
    x = torch.rand(5, 12).numpy()
    packed = pack(model, x)
    assert [type(node) for node in packed.nodes] == [Dense, Affine, Dense]
    assert_answers(model, packed, x)


def test_hooks_are_refused_on_layers_and_traced_on_containers() -> None:
    inner = nn.Sequential(nn.Flatten(), BinaryLinear(12, 3, input_quantizer=None))
    model = nn.Sequential(InputCoding(), inner)
    handle = inner.register_forward_hook(lambda module, inputs, output: torch.relu(output))
    packed = pack(model, input_shape=SHAPE)
    assert kinds(packed) == ["Flatten", "Dense", "Relu"]
    assert_agrees(model, packed)
    handle.remove()
    for layer in (inner[1], inner[1].weight_quantizer):
        handle = layer.register_forward_hook(lambda module, inputs, output: -output)
        with pytest.raises(FoldError, match="hooks"):
            pack(model, input_shape=SHAPE)
        handle.remove()
    assert kinds(pack(model, input_shape=SHAPE)) == ["Flatten", "Dense"]


@pytest.mark.parametrize(
    ("path", "value", "noun"),
    [
        ("1.1.weight", "nan", "latent weights"),
        ("1.1.weight", "inf", "latent weights"),
        ("1.1.bias", "-inf", "1.1"),
        ("1.2.weight", "nan", "1.2"),
        ("1.2.bias", "inf", "1.2"),
        ("1.2.running_mean", "nan", "1.2"),
        ("1.4.weight", "nan", "1.4"),
        ("0.mean", "inf", "mean"),
    ],
)
def test_parameters_that_are_not_finite_are_refused(path: str, value: str, noun: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3))
    coding = InputCoding("standardize", mean=[100.0], std=[50.0])
    model = nn.Sequential(coding, binarize_(net, where=lambda name, layer: name == "1").model).eval()
    with torch.no_grad():
        model.state_dict()[path].view(-1)[:2] = float(value)
    with pytest.raises(OnebitError, match=noun):
        pack(model, input_shape=SHAPE)


def test_a_norm_of_negative_variance_and_a_scale_that_overflows_are_refused() -> None:
    model = make_mlp((12, 4, 2))
    scaled = BinaryConv2d(6, 6, 1, weight_quantizer="irnet").eval()
    with torch.no_grad():
        model.get_submodule("norm1").running_var[1] = -1.0
        scaled.weight.mul_(1e30)
    with pytest.raises(NotBinaryError, match="norm1"):
        pack(model)
    with pytest.raises(NotBinaryError, match="scale"):
        pack(nn.Sequential(scaled), torch.zeros(2, 6, 4, 4))


class Ternary(Quantizer):
    def forward(self, latent: Tensor) -> Tensor:
        return latent.round()

    def decompose(self, latent: Tensor) -> BinaryWeight:
        return BinaryWeight(latent.detach().round())


class Scaled(SignQuantizer):
    """Its forward has a scale, its `decompose` has none."""

    def forward(self, latent: Tensor) -> Tensor:
        return super().forward(latent) * latent.detach().abs().mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("quantizer", "error", "noun"), [(Ternary(), NotBinaryError, "'0'"), (Scaled(), FoldError, "Scaled")]
)
def test_weight_quantizers_must_decompose_into_what_they_compute(
    quantizer: Quantizer, error: type[Exception], noun: str
) -> None:
    model = nn.Sequential(BinaryLinear(10, 4, weight_quantizer=quantizer)).eval()
    for way in (lambda: pack(model, torch.zeros(2, 10)), lambda: packed_layers_(model)):
        with pytest.raises(error, match=noun):
            way()


class Columns(Quantizer):
    """Its scales and centers are columns, (O, 1)."""

    def forward(self, latent: Tensor) -> Tensor:
        return self.decompose(latent).dense()

    def decompose(self, latent: Tensor) -> BinaryWeight:
        latent = latent.detach()
        return BinaryWeight(sign(latent), latent.abs().mean(1, keepdim=True), latent.mean(1, keepdim=True))


def test_scales_may_be_columns() -> None:
    model = nn.Sequential(BinaryLinear(10, 4, weight_quantizer=Columns()), nn.BatchNorm1d(4)).eval()
    x = torch.rand(5, 10).numpy()
    assert_answers(model, pack(model, x), x)


def test_usage_errors() -> None:
    with pytest.raises(NotBinaryError, match="binary layer"):
        pack(make_mlp(weight_quantizer=None))
    foreign = nn.Sequential(InputCoding(), nn.Flatten(), BinaryLinear(12, 3))
    with pytest.raises(UsageError, match="input_shape"):
        pack(foreign)
    with pytest.raises(FoldError, match="shapes") as wrong:
        pack(foreign, input_shape=(1, 2, 2))
    assert "packed_layers_" not in str(wrong.value)
    with pytest.raises(FoldError, match="double"):
        pack(make_mlp().double())
    with pytest.raises(FoldError, match="initialized"):
        pack(nn.Sequential(nn.LazyLinear(8), BinaryLinear(8, 4)).eval(), torch.rand(2, 8))


class Doubled(BinaryLinear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Described(BinaryLinear):
    def extra_repr(self) -> str:
        return "mine"


class Dropping(nn.Dropout):
    def train(self, mode: bool = True) -> Dropping:
        return super().train()


@pytest.mark.parametrize("layer", [Doubled(4, 4), Dropping()])
def test_subclasses_that_compute_something_else_are_refused(layer: nn.Module) -> None:
    with pytest.raises(FoldError, match=type(layer).__name__):
        pack(nn.Sequential(BinaryConv2d(3, 3, 1), layer).eval(), torch.zeros(2, 3, 4, 4))


def test_subclasses_that_compute_the_same_are_packed() -> None:
    pack(nn.Sequential(nn.Flatten(), Described(48, 4)).eval(), torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_upsampling_that_rounds_indices_packs(mode: str) -> None:
    """torch computes indices in float32: of 82 rows made of 2, the first 40 or 42 may come from the first."""
    x, rows = torch.randn(2, 1, 2, 2), torch.tensor([[[[0.0] * 2, [1.0] * 2]]])
    found = set()
    for factor in (2, 3.1, 41, 61):
        for options in ({"size": (int(2 * factor), 2)}, {"scale_factor": (factor, 1)}):
            upsample = nn.Upsample(mode=mode, **options)
            model = nn.Sequential(BinaryConv2d(1, 2, 1), upsample, BinaryConv2d(2, 2, 1)).eval()
            found.add(torch.equal(upsample(rows), rows.repeat_interleave(int(factor), 2)))
            assert_answers(model, pack(model, x), x.numpy())
    assert found >= {True, mode != "nearest"}


def test_a_forward_that_asks_what_its_input_is_is_refused() -> None:
    """It takes another branch while it is traced."""
    x = torch.zeros(2, 10)
    for change in (lambda x: (x - 3) / 2, lambda x: 3 * x):  # zeros alone would not show the second
        model = Model(lambda m, x, f=change: m.fc(f(x) if isinstance(x, Tensor) else x), fc=BinaryLinear(10, 4)).eval()
        with pytest.raises(FoldError, match="traced"):
            pack(model, x)
        assert "traced" in onebit.check(model, x).line
    same = Model(lambda m, x: m.fc(x.clone() if isinstance(x, Tensor) else x), fc=BinaryLinear(10, 4)).eval()
    assert onebit.check(same, x).whole
