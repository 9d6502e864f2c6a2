"""`BinaryLinear`, and what all binary layers share."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from onebit.errors import UsageError
from onebit.layers import BINARY_TWINS, BinaryLinear, binary_layers
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS, Sign, SteSign, sign
from support.covering import covering
from support.tensors import normal

QUANTIZERS = [
    *((weight, None, False) for weight in (*WEIGHT_QUANTIZERS, None)),
    *(("sign", inputs, True) for inputs in (*INPUT_QUANTIZERS, None)),
]


@pytest.mark.parametrize(("weight", "inputs", "bias"), QUANTIZERS)
def test_forward_is_a_product_with_the_weight_that_ships(weight: str | None, inputs: str | None, bias: bool) -> None:
    layer = BinaryLinear(7, 5, bias, weight_quantizer=weight, input_quantizer=inputs).eval()
    x = normal(3, 7)
    few_bits = inputs is not None and INPUT_QUANTIZERS.entry(inputs).bits > 1
    quantized = INPUT_QUANTIZERS[inputs]().eval() if few_bits else sign
    shipped = layer.weight if weight is None else layer.binary_weight().dense()
    x = x if inputs is None else quantized(x)
    binary = None if weight is None else layer.binary_weight()
    if binary is None or not binary.by_rows:
        assert torch.equal(layer(normal(3, 7)), F.linear(x, shipped, layer.bias))
        return
    expected = F.linear(x, binary.signs) * binary.scale
    assert torch.equal(layer(normal(3, 7)), expected if layer.bias is None else expected + layer.bias)


def test_a_scale_for_all_inputs_of_a_row_may_be_a_group() -> None:
    layer = BinaryLinear(128, 5, weight_quantizer=WEIGHT_QUANTIZERS["magnitude_aware"](group=128)).eval()
    x = normal(3, 128)
    torch.testing.assert_close(layer(x), F.linear(x, layer.binary_weight().dense(), layer.bias))


@pytest.mark.parametrize("twin", BINARY_TWINS.values())
@pytest.mark.parametrize("gradients", [False, True])
def test_sums_of_signs_are_exact_behind_a_scale(twin: type, gradients: bool) -> None:
    """As a packed net has them: a sum of ±a that is 0 stays 0 and ties as there, with the gradients of the product."""
    layer = twin(6, 4, *() if twin is BinaryLinear else (3,), bias=True, weight_quantizer="xnor").eval()
    x = sign(normal(5, 6, *(7,) * layer.axes))
    binary, channels = layer.binary_weight(), (4, *(1,) * layer.axes)
    with torch.set_grad_enabled(gradients):
        y = layer(x)
    sums = twin.product(layer, x, layer.own_layout(binary.signs), None)
    assert torch.equal(sums, sums.round())
    assert (sums == 0).any()
    assert torch.equal(y, sums * binary.scale.view(channels) + layer.bias.view(channels))
    if gradients:
        direction = torch.sin(torch.arange(y.numel())).view_as(y)
        weight = layer.own_layout(layer.weight_quantizer(layer.latent()))
        (expected,) = torch.autograd.grad((twin.product(layer, x, weight, None) * direction).sum(), layer.weight)
        (gradient,) = torch.autograd.grad((y * direction).sum(), layer.weight)
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("plain", "twin"), BINARY_TWINS.items())
def test_a_signature_has_the_arguments_of_torch_and_the_quantizers(plain: type, twin: type) -> None:
    torchs, ours = (list(inspect.signature(kind).parameters) for kind in (plain, twin))
    left_out = {"padding_mode"} if plain in (nn.ConvTranspose1d, nn.ConvTranspose2d) else set()
    assert [name for name in ours if name in torchs] == [name for name in torchs if name not in left_out]
    assert {"weight_quantizer", "input_quantizer", "value"} < set(ours)


def test_the_fixed_weight_of_a_test_mode_takes_the_place_of_the_quantizer() -> None:
    layer = BinaryLinear(3, 2)
    layer.fixed_weight = torch.full((2, 3), 0.25)
    assert layer(torch.ones(1, 3)).tolist() == [[0.75, 0.75]]
    assert list(layer.state_dict()) == ["weight"]


@pytest.mark.parametrize("value", [0.5, "glorot"])
@pytest.mark.parametrize("name", ["sign", "stochastic"])
def test_value_sets_the_two_values_and_the_bound(name: str, value: float | str) -> None:
    layer = BinaryLinear(9, 4, weight_quantizer=name, value=value).eval()
    number = math.sqrt(1.5 / 13) if value == "glorot" else 0.5
    weight = layer.effective_weight()
    assert torch.equal(weight.abs(), torch.full((4, 9), number))
    assert layer.weight_quantizer.latent_bound == pytest.approx(number)


def test_a_quantizer_is_a_name_a_class_or_an_object() -> None:
    for quantizer in ("sign", Sign, Sign()):
        layer = BinaryLinear(3, 2, weight_quantizer=quantizer)
        assert type(layer.weight_quantizer) is Sign
        assert torch.equal(layer(torch.eye(3)).t(), sign(layer.weight))
    for inputs in ("ste_sign", SteSign, SteSign()):
        assert type(BinaryLinear(3, 2, input_quantizer=inputs).input_quantizer) is SteSign


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_quantizer": "sgn"}, "weight quantizer"),
        ({"input_quantizer": "stochastic"}, "input quantizer"),
        ({"value": "glorto"}, "value"),
        ({"value": 0.0}, "value"),
        ({"value": math.nan}, "value"),
        ({"weight_quantizer": Sign(), "value": 0.5}, "value"),
        ({"weight_quantizer": nn.Tanh()}, "Quantizer"),
        ({"weight_quantizer": nn.Tanh}, "Quantizer"),
        ({"weight_quantizer": "tanh"}, "docs/own-quantizers.md"),
        ({"input_quantizer": "tanh"}, "docs/own-quantizers.md"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BinaryLinear(3, 2, **options)


def test_pruned_weights_are_refused() -> None:
    layer = BinaryLinear(4, 2)
    prune.random_unstructured(layer, "weight", amount=0.5)
    for use in (lambda: layer(torch.ones(1, 4)), layer.binary_weight):
        with pytest.raises(UsageError, match="pruned"):
            use()
    real = BinaryLinear(4, 2, weight_quantizer=None)
    prune.random_unstructured(real, "weight", amount=0.5)
    assert (real(torch.eye(4)) == 0).sum() == 4
    assert list(binary_layers(real)) == []


SHAPES = [(7,), (2, 7), (2, 5, 7), (2, 7, 7), (2, 3, 4, 7), (0, 5, 7)]


@pytest.mark.parametrize(("name", "shape"), covering(product(INPUT_QUANTIZERS, SHAPES)))
def test_inputs_of_more_axes_have_their_channels_last(name: str, shape: tuple[int, ...]) -> None:
    layer = BinaryLinear(7, 4, input_quantizer=name)
    with torch.no_grad():
        for parameter in layer.input_quantizer.parameters():  # type: ignore[union-attr]
            parameter.copy_(torch.linspace(-0.8, 0.9, parameter.numel()).view_as(parameter))
    x = normal(*shape).requires_grad_()
    flat = x.detach().reshape(-1, 7).requires_grad_()
    y, rows = layer(x), layer(flat)
    assert y.shape == (*shape[:-1], 4)
    assert torch.equal(y.reshape(-1, 4), rows)
    wanted = [x, *layer.parameters()], [flat, *layer.parameters()]
    incoming = normal(*rows.shape, seed=1)
    found = torch.autograd.grad(y, wanted[0], incoming.view_as(y))
    expected = torch.autograd.grad(rows, wanted[1], incoming)
    if INPUT_QUANTIZERS.entry(name).bits > 1 and x.dim() > 2:  # the gradient of a range is over √(values of a sample)
        found = (*found[:-1], found[-1] * math.prod(shape[1:-1]) ** 0.5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.reshape(other.shape), other)


def test_quantizing_a_sequence_copies_nothing() -> None:
    layer = BinaryLinear(6, 4, input_quantizer="rsign")
    assert layer.quantized_input(normal(2, 5, 6)).is_contiguous()


@pytest.mark.parametrize(
    ("inputs", "dtype"), covering(product(INPUT_QUANTIZERS, [torch.bfloat16, torch.float16, torch.float64]))
)
def test_input_quantizers_have_the_dtype_of_the_layer(inputs: str, dtype: torch.dtype) -> None:
    layer = BinaryLinear(7, 5, input_quantizer=inputs, dtype=dtype)
    y = layer(normal(3, 7).to(dtype))
    y.sum().backward()
    assert y.dtype == dtype
    assert all(p.dtype == p.grad.dtype == dtype for p in layer.parameters())


def test_a_copy_does_not_keep_the_weight_of_a_test_mode() -> None:
    layer = BinaryLinear(3, 2)
    layer.fixed_weight = torch.full((2, 3), 0.25)
    for made in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(made.effective_weight(), sign(layer.weight))
    assert layer.fixed_weight is not None


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("inputs", [*INPUT_QUANTIZERS])
def test_gradients_per_sample_work_under_vmap(inputs: str) -> None:
    layer, x = BinaryLinear(7, 5, input_quantizer=inputs), normal(3, 7)
    layer(x)  # sets the range of few bits
    layer.eval()
    given = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (x[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(given, x)
    layer(x).square().sum().backward()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(found[name].sum(0), p.grad.reshape(p.shape), rtol=1e-4, atol=1e-4)
