"""Binary layers, the input coding, and `binarize_` on models of other people."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from onebit.errors import UnknownNameError, UsageError
from onebit.layers import BinaryLinear, InputCoding, binarize_, binary_layers, glorot_bound
from onebit.optim import clip_latents_, latent_groups
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS, Sign, SteSign, Stochastic, sign


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------- BinaryLinear
@pytest.mark.parametrize("weight", [*WEIGHT_QUANTIZERS, None])
@pytest.mark.parametrize("inputs", [*INPUT_QUANTIZERS, None])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_is_a_product_with_the_weight_that_ships(weight: str | None, inputs: str | None, bias: bool) -> None:
    layer = BinaryLinear(7, 5, bias, weight_quantizer=weight, input_quantizer=inputs).eval()
    x = numbers(3, 7)
    shipped = layer.weight if weight is None else layer.binary_weight().dense()
    expected = F.linear(x if inputs is None else sign(x), shipped, layer.bias)
    assert torch.equal(layer(x), expected)


def test_the_fixed_weight_of_a_test_mode_takes_the_place_of_the_quantizer() -> None:
    layer = BinaryLinear(3, 2)
    layer.fixed_weight = torch.full((2, 3), 0.25)
    assert layer(torch.ones(1, 3)).tolist() == [[0.75, 0.75]]
    assert list(layer.state_dict()) == ["weight"]


@pytest.mark.parametrize("shape", [(64, 32), (8, 4, 3, 3)])
def test_glorot_bound_is_the_formula_of_the_reference_code(shape: tuple[int, ...]) -> None:
    fan_out, fan_in = shape[0] * math.prod(shape[2:]), math.prod(shape[1:])
    assert glorot_bound(torch.empty(shape)) == pytest.approx(math.sqrt(1.5 / (fan_in + fan_out)), rel=1e-12)


@pytest.mark.parametrize("value", [0.5, "glorot"])
@pytest.mark.parametrize("name", ["sign", "stochastic"])
def test_value_sets_the_two_values_and_the_bound(name: str, value: float | str) -> None:
    layer = BinaryLinear(9, 4, weight_quantizer=name, value=value).eval()
    number = math.sqrt(1.5 / 13) if value == "glorot" else 0.5
    weight = layer.effective_weight()
    assert torch.equal(weight.abs(), torch.full((4, 9), number))
    assert layer.weight_quantizer is not None
    assert layer.weight_quantizer.latent_bound == pytest.approx(number)


@pytest.mark.parametrize("quantizer", ["sign", Sign, Sign()], ids=["name", "class", "object"])
def test_a_name_a_class_or_an_object_names_a_quantizer(quantizer: str | Sign | type[Sign]) -> None:
    layer = BinaryLinear(3, 2, weight_quantizer=quantizer)
    assert type(layer.weight_quantizer) is Sign
    assert torch.equal(layer(torch.eye(3)).t(), sign(layer.weight))


@pytest.mark.parametrize("quantizer", ["ste_sign", SteSign, SteSign()], ids=["name", "class", "object"])
def test_the_same_holds_for_inputs(quantizer: str | SteSign | type[SteSign]) -> None:
    assert type(BinaryLinear(3, 2, input_quantizer=quantizer).input_quantizer) is SteSign


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_quantizer": "sgn"}, "unknown weight quantizer 'sgn'; did you mean 'sign'?"),
        ({"input_quantizer": "stesign"}, "unknown input quantizer 'stesign'; did you mean 'ste_sign'?"),
        ({"input_quantizer": "stochastic"}, "unknown input quantizer 'stochastic'"),
        ({"value": "glorto"}, "value must be a positive number or 'glorot', got 'glorto'"),
        ({"value": 0.0}, "value must be a positive number or 'glorot', got 0.0"),
        ({"value": math.nan}, "value must be a positive number"),
        ({"weight_quantizer": "ste_sign", "value": 0.5}, "SteSign is ±1 only: leave value at 1, got 0.5"),
        ({"weight_quantizer": Sign(), "value": 0.5}, "value=0.5 goes with the name of a quantizer; Sign"),
    ],
)
def test_wrong_options_are_one_clear_line(options: dict, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        BinaryLinear(3, 2, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_layer_with_real_weights_has_no_binary_weight() -> None:
    layer = BinaryLinear(3, 2, weight_quantizer=None)
    with pytest.raises(UsageError, match="has real weights"):
        layer.binary_weight()
    assert list(binary_layers(nn.Sequential(layer))) == []


@pytest.mark.parametrize("bias", [True, False])
def test_the_state_dict_is_that_of_the_plain_twin(bias: bool) -> None:
    binary, plain = BinaryLinear(4, 3, bias), nn.Linear(4, 3, bias)
    assert list(binary.state_dict()) == list(plain.state_dict())
    binary.load_state_dict(plain.state_dict())
    back = nn.Linear(4, 3, bias)
    back.load_state_dict(binary.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(back.parameters(), plain.parameters(), strict=True))


def test_gradients_reach_latent_bias_and_input() -> None:
    layer, x = BinaryLinear(4, 3, True, weight_quantizer="sign", input_quantizer="ste_sign"), numbers(2, 4) / 4
    x.requires_grad_()
    out = layer(x)
    incoming = numbers(*out.shape, seed=1)
    out.backward(incoming)
    assert layer.weight.grad is not None
    assert x.grad is not None
    torch.testing.assert_close(layer.weight.grad, incoming.t() @ sign(x))
    torch.testing.assert_close(x.grad, incoming @ sign(layer.weight) * (x.detach().abs() <= 1))
    torch.testing.assert_close(layer.bias.grad, incoming.sum(0))


# -------------------------------------------------------------------------------------------------------- InputCoding
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_the_integer_coding_is_exact_and_leaves_its_input_alone(dtype: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.int64).view(1, 1, 16, 16).to(dtype)
    before = pixels.clone()
    coded = InputCoding()(pixels)
    assert coded.flatten().tolist() == [2 * x - 255 for x in range(256)]
    assert torch.equal(coded.bfloat16().float(), coded)  # exact in bf16 too
    assert torch.equal(pixels, before)


def test_standardise_is_per_channel_and_travels_in_the_state_dict() -> None:
    mean, std = [10.0, 128.0], [2.0, 64.0]
    coding = InputCoding("standardise", mean=mean, std=std)
    x = torch.randint(0, 256, (3, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    coded = coding(x)
    for channel in range(2):
        expected = (x[:, channel].double() - mean[channel]) / std[channel]
        torch.testing.assert_close(coded[:, channel].double(), expected)
    assert list(coding.state_dict()) == ["mean", "std"]
    assert list(InputCoding().state_dict()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coding": "standardize"}, "unknown input coding 'standardize'; did you mean 'standardise'?"),
        ({"coding": "standardise"}, "needs mean and positive std"),
        ({"coding": "standardise", "mean": [1.0], "std": [0.0]}, "needs mean and positive std"),
        ({"coding": "standardise", "mean": [1.0], "std": [1.0, 2.0]}, "needs mean and positive std"),
    ],
)
def test_a_wrong_coding_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        InputCoding(**arguments)
    assert message in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- binarize_
class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


class Net(nn.Module):
    """Nested, with a BatchNorm and one layer that stands in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.block = Block()
        self.again = self.block.first
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.again(self.block(self.stem(x)))))


def test_binarize_keeps_names_weights_and_keys() -> None:
    torch.manual_seed(0)
    net = Net()
    before, parameters = copy.deepcopy(net.state_dict()), {name: id(p) for name, p in net.named_parameters()}
    assert binarize_(net, weight_quantizer="sign") is net
    assert {name for name, _ in binary_layers(net)} == {"stem", "block.first", "block.second", "head"}
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert {name: id(p) for name, p in net.named_parameters()} == parameters  # an optimizer made before still holds
    twin = Net()
    twin.load_state_dict(after)


def test_a_shared_layer_stays_one_layer() -> None:
    net = binarize_(Net(), weight_quantizer="sign")
    assert net.again is net.block.first
    assert isinstance(net.again, BinaryLinear)


def test_where_chooses_by_name_and_module() -> None:
    net = binarize_(Net(), where=lambda name, layer: name.startswith("block.") and layer.bias is None)
    assert [name for name, _ in binary_layers(net)] == ["block.second"]
    assert type(net.stem) is nn.Linear


def test_the_first_binarized_layer_keeps_real_inputs() -> None:
    net = binarize_(Net(), input_quantizer="ste_sign")
    assert [layer.input_quantizer is not None for _, layer in binary_layers(net)] == [False, True, True, True]


def test_each_layer_gets_its_own_copy_of_a_quantizer_object() -> None:
    net = binarize_(Net(), weight_quantizer=Sign(0.5))
    quantizers = [layer.weight_quantizer for _, layer in binary_layers(net)]
    assert len({id(quantizer) for quantizer in quantizers}) == 4
    assert all(isinstance(q, Sign) and q.value == 0.5 for q in quantizers)


def test_layers_with_one_generator_draw_different_bytes() -> None:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False))
    nn.init.zeros_(net[0].weight)
    nn.init.zeros_(net[1].weight)
    binarize_(net, weight_quantizer=Stochastic(generator=generator))
    first, second = (layer.effective_weight() for _, layer in binary_layers(net))
    assert not torch.equal(first, second)
    generator.manual_seed(0)
    assert torch.equal(net[0].effective_weight(), first)  # and it is the generator that was passed


def test_binarize_keeps_the_training_flag() -> None:
    net = Net().eval()
    net.head.train()
    binarize_(net)
    assert [net.stem.training, net.block.first.training, net.head.training] == [False, False, True]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.ReLU()), "nothing to binarize"),
        (nn.Linear(2, 2), "wrap a lone layer"),
        (nn.Sequential(BinaryLinear(2, 2)), "nothing to binarize"),
    ],
    ids=["no linear", "lone linear", "binary already"],
)
def test_nothing_to_binarize_is_an_error(model: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        binarize_(model)


def test_a_filter_that_chooses_nothing_is_an_error_and_changes_nothing() -> None:
    net = Net()
    with pytest.raises(UsageError, match="nothing to binarize"):
        binarize_(net, where=lambda name, layer: False)
    assert type(net.stem) is nn.Linear


def test_a_layer_whose_weight_is_computed_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    prune.random_unstructured(net[0], "weight", amount=0.5)
    with pytest.raises(UsageError, match="layer '0': its weight is computed from other parameters"):
        binarize_(net)


def test_tied_weights_stay_tied_and_are_optimized_once() -> None:
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.ReLU(), nn.Linear(5, 5, bias=False))
    net[2].weight = net[0].weight
    binarize_(net, weight_quantizer="sign")
    assert net[2].weight is net[0].weight
    assert [len(group["params"]) for group in latent_groups(net, lr=0.1)] == [1]


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage:UserWarning")
def test_the_fused_path_of_a_transformer_does_not_pass_the_quantizers_by() -> None:
    """In eval mode without gradients torch's encoder layer reads `linear1.weight` itself, the latent one."""
    torch.manual_seed(0)
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2)
    binarize_(net, weight_quantizer="sign")
    x, padded = numbers(3, 5, 8), torch.tensor([[False] * 5, [False] * 4 + [True], [False] * 5])
    with torch.no_grad():
        for mask in (None, padded):
            expected = net.train()(x, src_key_padding_mask=mask)
            torch.testing.assert_close(net.eval()(x, src_key_padding_mask=mask), expected)


@pytest.mark.parametrize("name", WEIGHT_QUANTIZERS)
def test_a_foreign_model_learns_in_its_own_loop_and_stays_in_the_clip(name: str) -> None:
    torch.manual_seed(0)
    net = binarize_(
        nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2)),
        weight_quantizer=name,
        where=lambda name, layer: name != "3",
    )
    optimizer = clip_latents_(torch.optim.Adam(latent_groups(net, lr=0.05)))
    x = numbers(400, 8)
    y = (x @ sign(numbers(8, seed=1)) > 0).long()
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert float(net[0].weight.detach().abs().max()) <= 1
    assert float((net.eval()(x).argmax(1) == y).double().mean()) > 0.9


def test_a_binary_model_can_be_copied_and_moved() -> None:
    net = binarize_(Net(), weight_quantizer="sign").eval()
    twin = copy.deepcopy(net).double()
    x = numbers(3, 4)
    torch.testing.assert_close(twin(x.double()).float(), net(x), atol=1e-4, rtol=1e-4)


def test_unknown_quantizers_are_refused_before_anything_is_replaced() -> None:
    net = Net()
    with pytest.raises(UnknownNameError, match="did you mean 'stochastic'"):
        binarize_(net, weight_quantizer="stochastik")
    assert type(net.stem) is nn.Linear
