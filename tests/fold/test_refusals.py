"""Models that cannot be packed are refused in one line that names the reason and a way out."""

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
from onebit.fold.packed_layers import packed_layers_
from onebit.layers import BinaryConv2d, BinaryLinear, InputCoding, binarize_
from onebit.packed import Affine, Dense, Hardtanh, RealDense, Relu, Sign, dumps
from onebit.quantizers import BinaryWeight, Quantizer, Sign as SignQuantizer
from onebit.runtime import run
from support.fold_nets import (
    SHAPE,
    assert_agrees,
    images_of,
    kinds,
    make_mlp,
    torch_logits,
)


class Net(nn.Module):
    """InputCoding, Flatten, a binary layer, then `body`."""

    def __init__(self, body: Callable[[Tensor], Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.coding, self.fc, self.body = InputCoding(), BinaryLinear(12, 6), body
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.body(self.fc(self.coding(x).flatten(1)))


def unused(x: Tensor) -> Tensor:
    F.relu(x, inplace=True)
    return x


class UnusedLayer(nn.Module):
    """Computes a branch that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        self.branch(x).sum()
        return x


def view_and_relu(x: Tensor) -> Tensor:
    y = x.view(len(x), 2, 3).relu_()
    return x + y.flatten(1)


def add_to_alias(x: Tensor) -> Tensor:
    y = x * 2
    z = y
    y += 1
    return F.relu(z)


def divide_viewed(x: Tensor) -> Tensor:
    y = x * 2
    z = y.view(len(y), 2, 3)
    y /= 4
    return z.flatten(1)


class Counter(nn.Module):
    """Its outputs depend on how often it was called."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class Answer(NamedTuple):
    """A named tuple, which a packed net does not return."""

    logits: Tensor
    features: Tensor


@dataclasses.dataclass
class Pair:
    """A dataclass, as the answers of transformers are."""

    logits: Tensor
    features: Tensor


def read_twice(x: Tensor) -> Tensor:
    y = F.relu(x, inplace=True)
    return y + x


@pytest.mark.parametrize(
    ("body", "noun"),
    [
        (lambda x: F.log_softmax(x, dim=1), "log_softmax"),
        (lambda x: x * F.softmax(x, dim=1), "softmax"),
        (lambda x: x.sigmoid(), "sigmoid"),
        (lambda x: torch.sign(x), "sign"),
        (lambda x: x + torch.randn_like(x), "randn_like"),
        (nn.Softmax(dim=1), r"Softmax \('body'\)"),
        (nn.LayerNorm(6), r"LayerNorm \('body'\)"),
        (nn.GELU(), "GELU"),
        (nn.BatchNorm1d(6, track_running_stats=False), "track_running_stats"),
        (lambda x: F.dropout(x, 0.5), "dropout"),
        (lambda x: x.view(-1, 3), "view"),
        (unused, "overwrites"),
        (lambda x: torch.add(x, 1, out=torch.zeros(2, 6)), "overwrites"),
        (read_twice, "overwrites"),
        (view_and_relu, "overwrites"),
        (add_to_alias, "overwrites"),
        (divide_viewed, "overwrites"),
        (lambda x: (x * 1).unsqueeze_(1).flatten(1), "cannot pack"),
        (lambda x: (x * 1)[:, None].transpose_(1, 2).flatten(1), "overwrites"),
        (lambda x: x / len(x), "7 samples"),
        (lambda x: x if x.shape[0] < 4 else -x, "7 samples"),
        (Counter(), "7 samples"),
        (lambda x: (x, (x, x)), "returns"),
        (lambda x: (x, None), "returns"),
        (lambda x: (x, x.chunk(2, 1)), "returns"),
        (lambda x: {1: x}, "returns"),
        (lambda x: Answer(x, x), "Answer"),
        (lambda x: Pair(x, x), "Pair"),
        (lambda x: (x, torch.ones(3)), "returns"),
        (lambda x: x * torch.rand(6), "random"),
        (lambda x: x + torch.arange(2.0)[:, None], "constant"),
        (lambda x: x / 0, "finite"),
        (lambda x: x.double() * 2, "double"),
        (lambda x: x.to(torch.float64), "float64"),
        (lambda x: F.linear(x, x), "weights"),
        (lambda x: x if x.sum() > 0 else -x, "contents"),
        (lambda x: F.linear(x.new_ones(2, 5), x), "cannot follow"),
    ],
)
def test_what_cannot_be_packed_is_named(body: Callable[[Tensor], Any], noun: str) -> None:
    with pytest.raises((FoldError, NotBinaryError), match=noun) as caught:
        pack(Net(body).eval(), input_shape=SHAPE)
    assert "\n" not in str(caught.value)


@torch.fx.wrap
def relu(x: Tensor) -> Tensor:
    """Another function of that name."""
    return x * 2


def test_a_function_that_is_not_torchs_is_refused_whatever_its_name_is() -> None:
    with pytest.raises(FoldError, match="relu"):
        pack(Net(lambda x: relu(x)).eval(), input_shape=SHAPE)


def test_what_nothing_uses_is_left_out() -> None:
    model = Net(UnusedLayer()).eval()
    assert dumps(pack(model, input_shape=SHAPE)) == dumps(pack(Sliced(model), input_shape=SHAPE))


class Sliced(nn.Module):
    """The layers of a `Net` without its body."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.coding, self.fc = net.coding, net.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.coding(x).flatten(1))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), BinaryLinear(12, 3)),
        nn.Sequential(BinaryLinear(4, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(12, 3), BinaryLinear(3, 3)),
        nn.Sequential(BinaryConv2d(1, 3, 3)),
    ],
)
def test_pixels_that_nothing_converts_are_refused(model: nn.Module) -> None:
    message = "cannot follow"
    with pytest.raises(FoldError, match=message) as caught:
        pack(model, input_shape=SHAPE)
    assert "\n" not in str(caught.value)
    assert pack(model, torch.zeros(1, *SHAPE)).input.dtype == "float32"


@pytest.mark.parametrize(
    "body",
    [lambda x: x * 2, lambda x: x - 255, lambda x: x + x, lambda x: -x, lambda x: torch.clamp(x, 0, 3)],
)
def test_arithmetic_of_uint8_is_refused(body: Callable[[Tensor], Tensor]) -> None:
    class Wraps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = BinaryLinear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(body(x).float().flatten(1))

    with pytest.raises(FoldError, match="uint8"):
        pack(Wraps(), input_shape=SHAPE)


def test_a_coding_of_what_is_no_image_itself_is_refused() -> None:
    model = nn.Sequential(nn.Sequential(nn.Dropout(), InputCoding()), nn.Flatten(), BinaryLinear(12, 3))
    with pytest.raises(FoldError, match="InputCoding"):
        pack(model, input_shape=SHAPE)


def test_only_one_coding_of_the_image() -> None:
    with pytest.raises(FoldError, match="InputCoding"):
        pack(nn.Sequential(InputCoding(), InputCoding(), nn.Flatten(), BinaryLinear(12, 3)), input_shape=SHAPE)


def test_a_layer_whose_forward_was_replaced_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), BinaryLinear(12, 3), nn.ReLU())
    model[2].forward = lambda x: -x
    with pytest.raises(FoldError, match="forward"):
        pack(model, torch.zeros(2, 1, 3, 4))


def test_assignments_in_place_pack_where_no_other_name_reads_the_value() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = BinaryLinear(12, 12), BinaryLinear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x * 1
            x -= 0.5
            y = self.first(x)
            y += x
            y *= 2
            y /= 4
            return self.second(y)

    model, x = Own(), torch.rand(5, 12)
    assert np.allclose(run(pack(model, x), x.numpy()), model(x).detach(), atol=1e-5)


class Twice(nn.Module):
    """Two binary layers, whose outputs `join` makes one."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.join = BinaryLinear(12, 3), BinaryLinear(12, 3), join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self.first(x), self.second(x))


def set_first(a: Tensor) -> None:
    a.__setitem__((slice(None), 0), 7.0)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (set_first, "__setitem__"),
        (lambda a: a.__idiv__(2), "__idiv__"),
        (lambda a: a.__ipow__(2), "ipow"),
        (lambda a: operator.imod(a, 2), "imod"),
        (lambda a: operator.ifloordiv(a, 2), "ifloordiv"),
    ],
)
def test_an_assignment_is_refused_though_its_result_is_not_used(change: Callable[[Tensor], Any], name: str) -> None:
    def assign(a: Tensor, b: Tensor) -> Tensor:
        change(a)
        return a + b

    with pytest.raises(FoldError, match=name):
        pack(Twice(assign), torch.zeros(2, 12))


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


class PassesState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.last = TakesState(), BinaryLinear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(State(x)).x)


def test_layers_whose_values_come_in_containers_are_packed_with_one_bit() -> None:
    model, x = PassesState().eval(), torch.rand(5, 12)
    packed = pack(model, x)
    assert [type(node) for node in packed.nodes] == [Dense, Affine, Dense]
    assert np.allclose(run(packed, x.numpy()), model(x).detach(), atol=1e-4)


def test_hooks_on_a_layer_are_refused_and_on_containers_traced() -> None:
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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("1.1.weight", "latent weights"),
        ("1.1.bias", "1.1"),
        ("1.2.weight", "1.2"),
        ("1.2.bias", "1.2"),
        ("1.2.running_mean", "1.2"),
        ("1.4.weight", "1.4"),
        ("0.mean", "mean"),
    ],
)
def test_parameters_that_are_not_finite_are_refused(path: str, message: str, value: float) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3))
    coding = InputCoding("standardize", mean=[100.0], std=[50.0])
    model = nn.Sequential(coding, binarize_(net, where=lambda name, layer: name == "1").model).eval()
    with torch.no_grad():
        model.state_dict()[path].view(-1)[:2] = value
    with pytest.raises(OnebitError, match=message):
        pack(model, input_shape=SHAPE)


def test_a_norm_whose_folded_values_are_not_finite_is_refused() -> None:
    model = make_mlp((12, 4, 2))
    with torch.no_grad():
        model.get_submodule("norm1").running_var[1] = -1.0
    with pytest.raises(NotBinaryError, match="norm1"):
        pack(model)


def test_signs_other_than_plus_and_minus_one_are_refused() -> None:
    class Ternary(Quantizer):
        def forward(self, latent: Tensor) -> Tensor:
            return latent.round()

        def decompose(self, latent: Tensor) -> BinaryWeight:
            return BinaryWeight(latent.detach().round())

    model = make_mlp((12, 2), weight_quantizer=Ternary())
    with pytest.raises(NotBinaryError, match="linear1"):
        pack(model)


def test_usage_errors() -> None:
    with pytest.raises(NotBinaryError, match="binary layer"):
        pack(make_mlp(weight_quantizer=None))
    foreign = nn.Sequential(InputCoding(), nn.Flatten(), BinaryLinear(12, 3))
    with pytest.raises(UsageError, match="input_shape"):
        pack(foreign)
    with pytest.raises(FoldError, match="cannot follow"):
        pack(foreign, input_shape=(1, 2, 2))
    with pytest.raises(FoldError, match="double"):
        pack(make_mlp().double())


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    model = make_mlp()
    model.kept = model(torch.zeros((1, *SHAPE), dtype=torch.uint8))  # a result of forward, with its graph
    with pytest.raises(RuntimeError, match="deepcopy"):
        pack(model)


def test_real_layers_next_to_binary_ones_are_kept() -> None:
    model = nn.Sequential(InputCoding(), nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), BinaryLinear(9, 3)).eval()
    packed = pack(model, input_shape=SHAPE)
    assert [type(node) for node in packed.nodes[1:]] == [RealDense, Affine, Relu, Dense]
    assert_agrees(model, packed)


def test_every_activation_is_packed() -> None:
    model = nn.Sequential(
        InputCoding("standardize", mean=[100.0], std=[50.0]),
        nn.Flatten(),
        BinaryLinear(12, 9),
        nn.Hardtanh(),
        BinaryLinear(9, 8),
        BinaryLinear(8, 3, input_quantizer="ste_sign"),
    ).eval()
    packed = pack(model, input_shape=SHAPE)
    assert [type(node) for node in packed.nodes[1:]] == [Dense, Hardtanh, Dense, Sign, Dense]
    # some sums of clipped values are 0 up to rounding, where torch's order of additions decides the sign
    different = (run(packed, images_of()) != torch_logits(model, images_of())).any(axis=1)
    assert different.mean() < 0.05


class Standardized(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Halved(BinaryLinear):
    def effective_weight(self) -> Tensor:
        return super().effective_weight() / 2


class Described(BinaryLinear):
    def extra_repr(self) -> str:
        return "mine"


def test_a_subclass_that_computes_something_else_is_refused() -> None:
    for layer in (Standardized(3, 4, 3), nn.Sequential(nn.Flatten(), Halved(48, 4))):
        model = nn.Sequential(layer, nn.Flatten(), BinaryLinear(16 if isinstance(layer, nn.Conv2d) else 4, 2))
        with pytest.raises(FoldError, match=r"(Standardized|Halved)"):
            pack(model.eval(), torch.zeros(2, 3, 4, 4))
    pack(nn.Sequential(nn.Flatten(), Described(48, 4)).eval(), torch.zeros(2, 3, 4, 4))


class Dropping(nn.Dropout):
    def train(self, mode: bool = True) -> Dropping:
        return super().train()


class Counting(nn.BatchNorm1d):
    def train(self, mode: bool = True) -> Counting:
        return super().train()


@pytest.mark.parametrize("layer", [Dropping(), Counting(2)])
def test_a_module_that_stays_in_training_mode_is_refused(layer: nn.Module) -> None:
    with pytest.raises(FoldError, match=r"Dropping|Counting"):
        pack(nn.Sequential(BinaryLinear(6, 2), layer), torch.zeros(2, 6))


@pytest.mark.parametrize(("factor", "fits"), [(3.1, False), (3.0, True), (3, True), ((3.0, 3.1), False)])
def test_only_whole_factors_repeat_pixels(factor: Any, fits: bool) -> None:
    """With 3.1 torch makes 12 of 4 pixels, but of others than with 3."""
    model = nn.Sequential(BinaryConv2d(1, 2, 1), nn.Upsample(scale_factor=factor), BinaryConv2d(2, 2, 1)).eval()
    if fits:
        x = torch.randn(2, 1, 4, 4)
        np.testing.assert_allclose(run(pack(model, x), x.numpy()), model(x).detach().numpy(), atol=1e-5)
    else:
        with pytest.raises(FoldError, match="factors"):
            pack(model, torch.zeros(2, 1, 4, 4))


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("by_size", [True, False])
def test_factors_that_torch_rounds_are_refused(mode: str, by_size: bool) -> None:
    """torch computes indices in float32: of 82 rows made of 2, the first 40 or 42 may come from the first."""
    x, rows = (
        torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[[[0.0] * 2, [1.0] * 2]]]),
    )
    repeating = 0
    for factor in (2, 41, 47, 55, 61):
        size: dict[str, Any] = {"size": (2 * factor, 2)} if by_size else {"scale_factor": (factor, 1)}
        model = nn.Sequential(BinaryConv2d(1, 2, 1), nn.Upsample(mode=mode, **size)).eval()
        if torch.equal(model[1](rows), rows.repeat_interleave(factor, 2)):
            repeating += 1
            np.testing.assert_allclose(run(pack(model, x), x.numpy()), model(x).detach().numpy(), atol=1e-5)
        else:
            with pytest.raises(FoldError, match="factors"):
                pack(model, x)
    assert repeating < 5 or mode != "nearest"
    assert repeating


@pytest.mark.parametrize("quantizer", ["irnet", "adabin"])
def test_scales_that_are_not_finite_are_refused(quantizer: str) -> None:
    layer = BinaryConv2d(6, 6, 1, weight_quantizer=quantizer).eval()
    with torch.no_grad():
        layer.weight.mul_(1e30)
    with pytest.raises(NotBinaryError, match="scale"):
        pack(nn.Sequential(layer), torch.zeros(2, 6, 4, 4))


class SameBits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(torch.int32).float()


class Named(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.mul(input=torch.add(input=x, other=1.5), other=2)


def test_bits_as_another_dtype_are_refused_and_operands_may_be_named() -> None:
    with pytest.raises(FoldError, match="view"):
        pack(nn.Sequential(BinaryLinear(6, 2), SameBits()).eval(), torch.zeros(2, 6))
    model, x = nn.Sequential(BinaryLinear(6, 2), Named()).eval(), torch.randn(3, 6)
    np.testing.assert_allclose(run(pack(model, x), x.numpy()), model(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("ask", [lambda x: isinstance(x, Tensor), torch.is_tensor, lambda x: type(x) is Tensor])
def test_a_forward_that_asks_what_its_input_is_is_refused(ask: Callable[[Any], bool]) -> None:
    """It takes another branch while it is traced."""

    class Asks(nn.Module):
        def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.fc, self.change = BinaryLinear(10, 4), change

        def forward(self, x: Tensor) -> Tensor:
            if ask(x):
                x = self.change(x)
            return self.fc(x)

    x = torch.zeros(2, 10)
    for change in (lambda x: (x - 3) / 2, lambda x: 3 * x):  # zeros alone would not show the second
        model = Asks(change).eval()
        with pytest.raises(FoldError, match="traced"):
            pack(model, x)
        assert "computes something else while it is traced" in onebit.check(model, x).line
    same = Asks(lambda x: x).eval()
    assert onebit.check(same, x).line.endswith("packs whole")


def test_a_weight_quantizer_that_does_not_compute_what_it_says_is_refused() -> None:
    class Scaled(SignQuantizer):
        def forward(self, latent: Tensor) -> Tensor:
            return super().forward(latent) * latent.detach().abs().mean(1, keepdim=True)

    model = nn.Sequential(BinaryLinear(10, 4, weight_quantizer=Scaled())).eval()
    for way in (lambda: pack(model, torch.zeros(2, 10)), lambda: packed_layers_(model)):
        with pytest.raises(FoldError, match="Scaled"):
            way()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("functional", [False, True])
def test_numbers_of_tokens_are_not_to_be_made_real(dtype: torch.dtype, functional: bool) -> None:
    """An embedding takes integers: to convert them, as pixels are, would be wrong."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(9, 8), BinaryLinear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            rows = F.embedding(x, self.table.weight) if functional else self.table(x)
            return self.out(rows.mean(1))

    tokens = torch.zeros((4, 5), dtype=dtype)
    with pytest.raises(OnebitError) as caught:
        onebit.pack(Tokens().eval(), tokens)
    said = [str(caught.value), str(onebit.check(Tokens(), tokens))]
    if dtype is torch.uint8:  # which the embedding does not take
        with pytest.raises(RuntimeError) as refused:
            onebit.evaluate(Tokens(), (tokens, torch.zeros(4, dtype=torch.long)), verbose=False)
        said.append(str(refused.value))
    assert not [text for text in said if "float(" in text or "Coding" in text]


@pytest.mark.parametrize("lazy", [nn.LazyLinear(8), nn.LazyBatchNorm1d()])
def test_weights_that_no_batch_has_initialized(lazy: nn.Module) -> None:
    model = nn.Sequential(lazy, BinaryLinear(8, 4))
    with pytest.raises(FoldError, match="initialized"):
        onebit.pack(model.eval(), torch.rand(2, 8))
