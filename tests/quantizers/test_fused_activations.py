"""RPReLU, RSign and AdaBin's input sign by native kernels, against formulas in float64 and operations of torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from onebit.layers import RPReLU
from onebit.native import instruction_sets
from onebit.quantizers import fused_activations
from onebit.quantizers.input_signs import InputAdaBin, RSign
from support.kernel_inputs import DTYPES, drawn, one_thread
from support.tensors import normal

__all__ = ["one_thread"]
pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")
NAMES = ("rprelu", "rsign", "adabin")
SHAPE = (4, 16, 6, 6)
Tensors = dict[str, Tensor]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A list that grows by one with each pass of the kernel: whether it is a backward pass."""
    calls: list[bool] = []
    run = fused_activations._run
    counted = lambda *args, **tensors: calls.append("gradient" in tensors) or run(*args, **tensors)  # noqa: E731
    monkeypatch.setattr(fused_activations, "_run", counted)
    return calls


def made(name: str, channels: int, scale: float = 1.0) -> Any:
    module = {"rprelu": lambda: RPReLU(channels), "rsign": RSign, "adabin": InputAdaBin}[name]()
    if name == "rsign":
        module.bind_inputs(channels)
    for seed, parameter in enumerate(module.parameters()):
        with torch.no_grad():
            parameter.copy_(drawn(*parameter.shape, seed=7 + seed) * scale)
    return module


def results(module: nn.Module, x: Tensor, gradient: Tensor) -> Tensors:
    """What a forward and a backward pass give."""
    x = x.detach().clone().requires_grad_()
    module.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        y = module(x)
    y.backward(gradient)
    return {"y": y.detach(), "x": x.grad, **{key: p.grad.clone() for key, p in module.named_parameters()}}


def exact(module: Any, x: Tensor, gradient: Tensor) -> Tensors:
    """The same in float64, by the formulas that the modules state, which autograd can follow."""
    x, g = x.double(), gradient.double()
    each = {key: p.double() for key, p in module.named_parameters()}
    channels = (-1, *[1] * (x.dim() - 2))

    def summed(values: Tensor) -> Tensor:
        return values.transpose(0, 1).flatten(1).sum(1)

    if isinstance(module, RPReLU):
        d, slope = x - each["shift_in"].view(channels), each["slope"].view(channels)
        to_x = torch.where(d > 0, g, g * slope)
        found = {"y": torch.where(d > 0, d, d * slope) + each["shift_out"].view(channels), "x": to_x}
        sums = {"shift_in": -summed(to_x), "slope": summed(torch.where(d > 0, 0, g * d)), "shift_out": summed(g)}
        return found | sums
    if isinstance(module, RSign):
        d = x - each["shift"].view(channels)
        to_x = g * (2 - 2 * d.abs()).clamp(min=0)
        return {"y": torch.where(d < 0, -1.0, 1.0).double(), "x": to_x, "shift": -summed(to_x)}
    d, distance = x - each["centre"], each["distance"].abs()
    signs = torch.where(d < 0, -1.0, 1.0).double()
    z = (d / distance).clamp(-1, 1)
    to_x = g * (2 - 2 * z.abs())
    to_distance = (g * signs - z * to_x).sum() * each["distance"].sign()
    return {"y": each["centre"] + distance * signs, "x": to_x, "centre": (g - to_x).sum(), "distance": to_distance}


def assert_exact(module: Any, x: Tensor, gradient: Tensor) -> None:
    with torch.no_grad():
        true = exact(module, x, gradient)
    for key, value in results(module, x, gradient).items():
        torch.testing.assert_close(value.double(), true[key], rtol=1e-4, atol=1e-4)


shapes = st.one_of(
    st.tuples(st.integers(1, 5), st.sampled_from((1, 3, 16, 64, 70)), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 70), st.integers(1, 200)),
    st.just((6, 16, 32, 32)),
    st.just((3, 64, 33, 17)),
    st.just((700, 33)),
    st.just((70_001, 1)),
)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(NAMES), shape=shapes, dtype=st.sampled_from(DTYPES), scale=st.sampled_from((1.0, 0.1, 30.0))
)
def test_values_and_all_gradients_are_those_of_the_formula_in_float64(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, scale: float
) -> None:
    module = made(name, shape[1], scale)
    x, gradient = (drawn(*shape) * scale).to(dtype), drawn(*shape, dtype=dtype, seed=2)
    patch, calls = pytest.MonkeyPatch(), []
    run = fused_activations._run
    patch.setattr(fused_activations, "_run", lambda *args, **tensors: (calls.append(1), run(*args, **tensors)))
    found = results(module, x, gradient)
    patch.undo()
    with torch.no_grad():
        true = exact(module, x, gradient)
    assert len(calls) == 2
    assert found.keys() == true.keys()
    for key, value in found.items():
        values = key in ("y", "x")
        assert value.dtype == (dtype if values else torch.float32)
        each = (2.0**-8 if values and dtype == torch.bfloat16 else 2.0**-20) * true[key].abs()
        # a sum is as exact as its largest terms; next to its kink the triangle is a small difference
        terms = {"y": scale, "x": 1.0}.get(key, (1 + scale) * (x.numel() / true[key].numel()) ** 0.5)
        wrong = (value.double() - true[key]).abs() > each + 3e-6 * terms
        assert not wrong.any(), (key, value[wrong][:4], true[key][wrong][:4])


@pytest.mark.parametrize("name", NAMES)
def test_float32_values_have_the_bits_of_torch(name: str, passes: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    module, x, gradient = made(name, 16), drawn(*SHAPE), drawn(*SHAPE, seed=2)
    y = results(module, x, gradient)["y"]
    assert passes == [False, True]
    monkeypatch.setenv("ONEBIT_NATIVE", "0")
    assert torch.equal(y, results(module, x, gradient)["y"])
    assert len(passes) == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_at_the_kinks(dtype: torch.dtype) -> None:
    """x − shift is 0, −0, and ±1 distance."""
    x = torch.tensor([[0.5], [-0.0], [1.5], [-0.5]]).to(dtype)
    ones = torch.ones_like(x)
    rprelu, rsign, adabin = made("rprelu", 1), made("rsign", 1), made("adabin", 1)
    with torch.no_grad():
        for parameter in (rprelu.shift_in, rsign.shift, adabin.centre):
            parameter.fill_(0.5)
        rprelu.slope.fill_(0.25)
        rprelu.shift_out.fill_(0)
        adabin.distance.fill_(1)
    found = results(rprelu, x, ones)
    assert found["y"].flatten().tolist() == [0, -0.125, 1, -0.25]
    assert found["x"].flatten().tolist() == [0.25, 0.25, 1, 0.25]
    assert found["slope"].item() == -1.5
    found = results(rsign, x, ones)
    assert found["y"].flatten().tolist() == [1, -1, 1, -1]
    assert found["x"].flatten().tolist() == [2, 1, 0, 0]
    found = results(adabin, x, ones)
    assert found["y"].flatten().tolist() == [1.5, -0.5, 1.5, -0.5]
    assert found["x"].flatten().tolist() == [2, 1, 0, 0]
    assert found["centre"].item() == 4 - 3
    assert found["distance"].item() == (1 - 0) + (-1 + 0.5) + 1 - 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("where", ["x", "gradient", 0, 1, 2])
def test_values_that_are_not_finite_are_where_torch_has_them(
    name: str, dtype: torch.dtype, where: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (3, 16, 5, 5)  # 1,200 values: the last ones do not fill a period
    for bad in (float("nan"), float("inf"), -float("inf")):
        module = made(name, 16)
        parameters = list(module.parameters())
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(parameter.bfloat16())  # where torch rounds them, a sign of x − shift may change
        tensors = {"x": drawn(*shape, dtype=dtype), "gradient": drawn(*shape, dtype=dtype, seed=2)}
        if where in tensors:
            tensors[where][-1, 3, -1:, -1] = bad
            tensors[where][1, 5, 2, 2] = bad
        elif where < len(parameters):
            with torch.no_grad():
                parameters[where].view(-1)[-1:].fill_(bad)
        found = results(module, **tensors)
        with monkeypatch.context() as patch:
            patch.setenv("ONEBIT_NATIVE", "0")
            expected = results(module, **tensors)
        for key, value in expected.items():
            assert torch.equal(found[key].isnan(), value.isnan()), key
            assert torch.equal(found[key][value.isinf()], value[value.isinf()]), key
            assert torch.equal(found[key].isinf(), value.isinf()), key


@pytest.mark.parametrize("native", ["0", "1"])
def test_a_distance_of_zero(native: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No NaN, as in torch, also where x is the center."""
    monkeypatch.setenv("ONEBIT_NATIVE", native)
    adabin = made("adabin", 16)
    with torch.no_grad():
        adabin.distance.zero_()
        adabin.centre.zero_()
    x = drawn(*SHAPE)
    x[0] = 0
    found = results(adabin, x, torch.ones_like(x))
    assert all(value.isfinite().all() for value in found.values())
    assert (found["x"][0] == 2).all()
    assert (found["x"][1:] == 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_threads_or_instruction_set(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (41, 24, 33, 33)
    assert 41 * 24 * 33 * 33 >= 4 * (1 << 18)  # enough for four threads
    x, gradient, module = drawn(*shape, dtype=dtype), drawn(*shape, dtype=dtype, seed=2), made(name, 24)
    expected = results(module, x, gradient)
    for isa in instruction_sets():
        monkeypatch.setenv("ONEBIT_ISA", isa)
        for threads in (1, 4):
            torch.set_num_threads(threads)
            found = results(module, x, gradient)
            assert all(torch.equal(found[key], expected[key]) for key in expected), (isa, threads)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_derivative(name: str, passes: list[bool]) -> None:
    """That of the formulas, by autograd."""
    module, g = made(name, 16), drawn(*SHAPE, seed=2)
    x = drawn(*SHAPE).requires_grad_()
    g.requires_grad_()
    parameters = list(module.parameters())
    first = torch.autograd.grad(module(x), (x, *parameters), g, create_graph=True)
    assert passes == [False]
    found = torch.autograd.grad(sum(part.square().sum() for part in first), (x, g, *parameters), allow_unused=True)
    whole = exact(module, x, g)
    formula = [whole["x"], *(whole[key] for key, _ in module.named_parameters())]
    loss = sum(part.square().sum() for part in formula)
    expected = torch.autograd.grad(loss, (x, g, *parameters), allow_unused=True)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_any_memory_format(name: str, passes: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a sum, whose gradient is one number everywhere, and of values in another order; also without the library."""
    module, x = made(name, 16), drawn(*SHAPE)
    for native in ("1", "0"):
        monkeypatch.setenv("ONEBIT_NATIVE", native)
        for gradient in (torch.ones(()).expand(SHAPE), drawn(*SHAPE, seed=2).contiguous()):
            assert_exact(module, x, gradient)
        assert passes == [False, True] * 2


@pytest.mark.parametrize("name", NAMES)
def test_gradients_that_are_not_needed(name: str) -> None:
    module, gradient = made(name, 16), drawn(*SHAPE, seed=2)
    expected = results(module, drawn(*SHAPE), gradient)
    module.zero_grad()
    module(drawn(*SHAPE)).backward(gradient)  # x has none
    for key, parameter in module.named_parameters():
        assert torch.equal(parameter.grad, expected[key])
    frozen = copy.deepcopy(module).requires_grad_(False)
    frozen.zero_grad()
    x = drawn(*SHAPE).requires_grad_()
    frozen(x).backward(gradient)
    assert torch.equal(x.grad, expected["x"])
    assert all(parameter.grad is None for parameter in frozen.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch(name: str, passes: list[bool]) -> None:
    for shape in ((0, 16, 4, 4), (0, 16)):
        found = results(made(name, 16), torch.empty(shape), torch.empty(shape))
        assert found.pop("y").shape == found.pop("x").shape == shape
        assert all((value == 0).all() for value in found.values())
    assert not passes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change",
    [
        lambda module, x: (module.eval(), x),
        lambda module, x: (module, x.contiguous()),
        lambda module, x: (module, x[:, :, ::2]),
        lambda module, x: (module, x.flatten(2)),
        lambda module, x: (module.double(), x.double()),
        lambda module, x: (module.bfloat16(), x.bfloat16()),
        lambda module, x: (module, torch.nn.Parameter(x)),
    ],
    ids=["eval", "nchw", "strided", "3d", "double", "bf16 numbers", "parameter"],
)
def test_torch_runs_where_the_kernel_does_not_fit(
    name: str, change: Callable[..., Any], passes: list[bool], monkeypatch: pytest.MonkeyPatch, request: Any
) -> None:
    module, x = change(made(name, 16), drawn(*SHAPE))
    if name == "adabin" and (x.dim() == 3 or x.is_contiguous()):
        pytest.skip("one number for all values: any dense order fits")
    y = module(x)
    assert passes == []
    monkeypatch.setenv("ONEBIT_NATIVE", "0")
    assert torch.equal(y, module(x))


def test_dense_values_of_any_shape_for_one_number_of_all(passes: list[bool]) -> None:
    module = made("adabin", 16)
    for shape in ((5,), (3, 5, 7), (2, 3, 4, 5), (2, 3, 4, 5, 6)):
        assert_exact(module, normal(*shape), normal(*shape, seed=1))
    assert passes == [False, True] * 4


@pytest.mark.parametrize("name", ["rsign", "adabin"])
def test_the_dtype_is_that_of_the_matrix_product(name: str, passes: list[bool]) -> None:
    """Where it is not that of x, the kernel does not write it."""
    module = made(name, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(drawn(*SHAPE)).dtype == torch.bfloat16
    assert not passes
    expected = torch.float32 if name == "rsign" else torch.bfloat16  # a vector of float32 makes x − shift float32
    assert module(drawn(*SHAPE, dtype=torch.bfloat16)).dtype == expected


@pytest.mark.parametrize("name", NAMES)
def test_transforms_and_traces_see_the_operations_of_torch(name: str, passes: list[bool]) -> None:
    module, x = made(name, 16), drawn(*SHAPE)
    gradient = torch.func.grad(lambda x: module(x).square().sum())(x)
    y = module(x).detach()
    passes.clear()
    torch.testing.assert_close(gradient, exact(module, x, 2 * y)["x"].detach().float(), rtol=1e-4, atol=1e-4)
    if name == "rprelu":
        traced = torch.jit.trace(module, (x,), check_trace=False)
        assert torch.equal(traced(x), y)
        assert torch.func.jvp(module, (x,), (x,))[1].shape == SHAPE
        assert torch.func.vmap(module)(x.unsqueeze(0)).shape == (1, *SHAPE)
    assert not passes


def test_many_gradients_at_once(passes: list[bool]) -> None:
    for name in NAMES:
        module, x = made(name, 16), drawn(*SHAPE).requires_grad_()
        gradients = torch.stack([drawn(*SHAPE, seed=2), drawn(*SHAPE, seed=3)])
        (found,) = torch.autograd.grad(module(x), x, gradients, is_grads_batched=True)
        for value, gradient in zip(found, gradients, strict=True):
            torch.testing.assert_close(
                value, exact(module, x.detach(), gradient)["x"].detach().float(), rtol=1e-4, atol=1e-5
            )
    assert passes == [False] * 3
