"""What every input quantizer of two values promises: values, gradients to inputs and parameters, compiled, bf16."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from onebit.layers import BinaryConv2d, BinaryLinear, binarize_
from onebit.quantizers import INPUT_QUANTIZERS, Quantizer, sign
from support.formulas import swish_slope
from support.tensors import normal

CHANNELS = 3
INFINITY = float("inf")
GRID = torch.tensor([0.0, -0.0, 1e-30, 0.25, 0.5, 1 - 2**-24, 1.0, 1 + 2**-23, 1.7, 1e30, INFINITY])


def triangle(z: Tensor) -> Tensor:
    return torch.where(z.abs() <= 1, 2 - 2 * z.abs(), 0)


# name -> the documented factor on the gradient, of z = x, of z = x − shift, or of z = (x − centre)/distance
FACTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "ste_sign": lambda z: (z.abs() <= 1).to(z.dtype),
    "approx_sign": triangle,
    "swish_sign": lambda z: swish_slope(z, 5.0),
    "irnet": lambda z: 1 - torch.tanh(0.1 * z) ** 2,
    "rsign": triangle,
    "adabin": triangle,
}


def make(name: str) -> Quantizer:
    """A quantizer with parameters that are not where they begin; powers of two, so that no sum is rounded."""
    quantizer = INPUT_QUANTIZERS[name]()
    if hasattr(quantizer, "bind_inputs"):
        quantizer.bind_inputs(CHANNELS)
    values = {"shift": torch.tensor([-0.5, 0.0, 2.0]), "centre": torch.tensor(0.25), "distance": torch.tensor(-2.0)}
    with torch.no_grad():
        for key, parameter in quantizer.named_parameters():
            parameter.copy_(values[key])
    return quantizer


def inside(name: str, quantizer: Quantizer, x: Tensor) -> Tensor:
    """z of a formula for x (N, C, …)."""
    if name == "rsign":
        return x - quantizer.shift.detach().to(x.dtype).view(-1, *[1] * (x.dim() - 2))
    if name == "adabin":
        return (x - quantizer.centre.detach()) / quantizer.distance.detach().abs()
    return x


def grid(dtype: torch.dtype = torch.float32) -> Tensor:
    """(2, C, 11, 2): around 0 and around each point that a parameter moves it to."""
    row = torch.stack([GRID, -GRID], dim=1).to(dtype)
    return torch.stack([row, row + 0.25, row * 2 + 0.25, row - 0.5, row + 2, row * 3]).view(2, CHANNELS, *row.shape)


def incoming(x: Tensor) -> Tensor:
    return normal(*x.shape).to(x.dtype)


SIGNS = [name for name, entry in INPUT_QUANTIZERS.entries().items() if entry.bits == 1]
"""Those of few bits are in test_few_bits.py."""


@pytest.fixture(params=SIGNS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_gradient_of_every_input_quantizer_is_stated_here() -> None:
    assert set(FACTORS) == set(SIGNS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_eval_forward_is_what_the_quantizer_states(name: str, dtype: torch.dtype) -> None:
    quantizer, x = make(name).eval(), grid(dtype)
    stated = quantizer.binary_input()
    shift, scale, centre = (torch.tensor(n) if t is None else t for t, n in zip(stated, (0.0, 1.0, 0.0), strict=True))
    if shift.dim():
        shift = shift.view(-1, 1, 1)
    y = quantizer(x)
    assert torch.equal(y, sign(x - shift) * scale + centre)
    assert torch.equal(stated.upper(y), x - shift >= 0)
    assert bool((scale > 0).all())


def test_the_gradient_to_the_input_is_the_documented_one(name: str) -> None:
    quantizer, x = make(name), grid(torch.float64).requires_grad_()
    g = incoming(x)
    quantizer(x).backward(g)
    factor = FACTORS[name](inside(name, quantizer, x.detach()))
    torch.testing.assert_close(x.grad, g * factor, rtol=1e-6, atol=1e-12)


class All(torch.nn.Module):
    """Every quantizer of the same inputs: compiled at once, which takes a fraction of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.quantizers = torch.nn.ModuleList(map(make, SIGNS))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [quantizer(x * 1) for quantizer in self.quantizers]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler causes some itself
def test_compiled_equals_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEBIT_NATIVE", "0")  # the kernels add in another order
    torch._dynamo.reset()
    model, x = All(), grid().requires_grad_()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for quantizer, y, expected in zip(model.quantizers, compiled(x), model(x), strict=True):
        assert torch.equal(y, expected)
        wanted = [x, *quantizer.parameters()]
        grads = [torch.autograd.grad(one, wanted, incoming(y), retain_graph=True) for one in (y, expected)]
        assert all(torch.equal(found, eager) for found, eager in zip(*grads, strict=True))


def test_under_autocast_values_are_the_same_and_gradients_float32(name: str) -> None:
    quantizer, x = make(name), grid().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = quantizer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y.float(), quantizer(x))  # c ± d are short numbers
    g = incoming(x).bfloat16()
    y.backward(g)
    assert x.grad.dtype == torch.float32
    factor = FACTORS[name](inside(name, quantizer, x.detach().double()))
    torch.testing.assert_close(x.grad.double(), g.double() * factor, rtol=1e-4, atol=1e-4)
    for parameter in quantizer.parameters():
        assert parameter.grad.dtype == torch.float32


def test_any_shape_and_dtype(name: str) -> None:
    for shape in ((0, 3), (2, 3), (2, 3, 4), (2, 3, 4, 5)):
        assert make(name)(normal(*shape)).shape == shape
    for dtype in (torch.bfloat16, torch.float16):
        quantizer, x = make(name), grid().to(dtype).requires_grad_()
        y = quantizer(x)
        y.sum().backward()
        assert x.grad.dtype == dtype
        assert bool(torch.isfinite(x.grad).all())
        assert len(y.unique()) == 2


def test_a_layer_binds_its_quantizer_to_its_channels() -> None:
    conv, linear = BinaryConv2d(5, 4, 3, input_quantizer="rsign"), BinaryLinear(7, 2, input_quantizer="rsign")
    assert list(conv.state_dict()) == ["weight", "input_quantizer.shift"]
    assert [layer.input_quantizer.shift.shape for layer in (conv, linear)] == [(5,), (7,)]
    conv(normal(2, 5, 6, 6)).sum().backward()
    assert conv.input_quantizer.shift.grad.shape == (5,)
    twin = copy.deepcopy(conv)
    assert torch.equal(twin(torch.ones(1, 5, 3, 3)), conv(torch.ones(1, 5, 3, 3)))
    foreign = binarize_(
        torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 2)), input_quantizer="rsign"
    ).model
    assert [key for key in foreign.state_dict() if "shift" in key] == ["1.input_quantizer.shift"]


def test_one_sample_without_a_batch_trains_the_shift() -> None:
    layer = BinaryLinear(8, 4, input_quantizer="rsign")
    x = normal(8).requires_grad_()
    layer(x).sum().backward()
    shift = layer.input_quantizer.shift
    torch.testing.assert_close(shift.grad, -x.grad)
    assert shift.grad.any()
