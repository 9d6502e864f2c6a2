"""Surrogate gradients and draws by native kernels, against formulas in float64 and torch; the memory of activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from onebit.native import RPRELU, SHIFTED_SIGN, ActivationStruct, instruction_set, instruction_sets, run_activation
from onebit.quantizers import ConcreteSign, bayesbinn, surrogates
from onebit.quantizers.bayesbinn import _draw_signs, _uniform
from onebit.quantizers.chunks import CHUNK
from onebit.quantizers.cpu_kernels import backward_kernels
from onebit.quantizers.surrogates import approx, ede, signed, swish
from support.kernel_inputs import DTYPES, way
from support.tensors import seeded

__all__ = ["way"]
pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")
MANY = surrogates.MIN_VALUES
INFINITY = float("inf")


def exact(surrogate: Any, gradient: Tensor, x: Tensor, t: float) -> Tensor:
    gradient, x = gradient.double(), x.double()
    if surrogate is approx:
        return gradient * (2 - 2 * x.abs()).clamp(min=0)
    return gradient * max(1 / t, 1) * t / torch.cosh((t * x).clamp(-300, 300)) ** 2


def through(surrogate: Any, gradient: Tensor, x: Tensor, *parameters: Any) -> Tensor:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    signed(x, surrogate, *parameters).backward(gradient)
    return x.grad


@settings(max_examples=25, deadline=None)
@given(
    surrogate=st.sampled_from([approx, ede]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    count=st.integers(MANY, MANY + 70),
    t=st.sampled_from([0.1, 0.9, 1.0, 3.7, 10.0]),
    scale=st.sampled_from([1e-3, 0.5, 2.0, 30.0]),
)
def test_the_gradient_is_that_of_the_formula(
    surrogate: Any, dtype: torch.dtype, count: int, t: float, scale: float
) -> None:
    generator = torch.Generator().manual_seed(count)
    x = (torch.randn(count, generator=generator) * scale).to(dtype)
    gradient = torch.randn(count, generator=generator).to(dtype)
    found = through(surrogate, gradient, x, *([] if surrogate is approx else [torch.tensor(t)])).double()
    expected = exact(surrogate, gradient, x, torch.tensor(t).item())
    allowed = (2.0**-8 if dtype == torch.bfloat16 else 3e-6 * max(1, t * scale)) * expected.abs() + 3e-7
    assert found.dtype == torch.float64
    assert ((found - expected).abs() <= allowed).all()


@pytest.mark.parametrize("surrogate", [approx, ede])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_at_the_edges(surrogate: Any, dtype: torch.dtype) -> None:
    edges = [0.0, -0.0, 1e-30, -1e-39, 0.5, 1.0, -1.0, 1.0078125, 8.6, 8.8, 1e30, -1e30, INFINITY, -INFINITY]
    x = torch.tensor([*edges, float("nan")] * MANY).to(dtype)
    found = through(surrogate, torch.ones_like(x), x, *([] if surrogate is approx else [10.0]))[
        : len(edges) + 1
    ].double()
    assert found[-1].isnan()
    expected = exact(surrogate, torch.ones(len(edges)), x[: len(edges)], 10.0)
    assert (found[:-1] - expected).abs().max() <= (0.05 if dtype == torch.bfloat16 else 1e-5)
    assert (found[10:14] == 0).all()
    bad = through(surrogate, torch.full_like(x, float("nan")), x, *([] if surrogate is approx else [10.0]))
    assert bad.isnan().all()


def test_layouts_and_what_stays_with_torch() -> None:
    x, gradient = torch.randn(4, 16, 16, 8), torch.randn(4, 16, 16, 8)
    for surrogate in (approx, ede, swish):
        plain = surrogate(gradient, x, *([0.5] if surrogate is ede else []))
        parameters = [0.5] if surrogate is ede else []
        last = torch.channels_last
        for x_format, gradient_format in ((None, None), (last, last), (last, None), (None, last)):
            made = [
                v if f is None else v.contiguous(memory_format=f)
                for v, f in ((x, x_format), (gradient, gradient_format))
            ]
            found = through(surrogate, made[1], made[0], *parameters)
            torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)
            with torch.no_grad():  # as in a backward pass
                fits = backward_kernels("run_surrogate", made[1], made[0]) is not None
            assert fits == (x_format is gradient_format)
    with torch.no_grad():
        assert backward_kernels("run_surrogate", gradient.double(), x.double()) is None
        assert backward_kernels("run_surrogate", gradient[:, ::2], x[:, ::2]) is None
    assert backward_kernels("run_surrogate", gradient, x) is None  # a second derivative may follow


@pytest.mark.parametrize("surrogate", [approx, ede])
def test_many_gradients_at_once(surrogate: Any) -> None:
    x, gradients = torch.randn(MANY, requires_grad=True), torch.randn(2, MANY)
    y = signed(x, surrogate, *([] if surrogate is approx else [0.5]))
    (found,) = torch.autograd.grad(y, x, gradients, is_grads_batched=True, retain_graph=True)
    for value, gradient in zip(found, gradients, strict=True):
        (one,) = torch.autograd.grad(y, x, gradient, retain_graph=True)
        torch.testing.assert_close(value, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [RPRELU, SHIFTED_SIGN])
@pytest.mark.parametrize("bf16", [False, True])
def test_activations_read_and_write_nothing_outside_the_tensors(kind: int, bf16: bool) -> None:
    """NaN around the values would reach a sum, and the memory around the results stays as it was."""
    for rows, channels in ((1, 1), (7, 3), (33, 16), (5, 200), (1025, 31)):
        dtype, size = (np.uint16, rows * channels) if bf16 else (np.uint32, rows * channels)
        nan, one = (0x7FC0, 0x3F80) if bf16 else (0x7FC00000, 0x3F800000)
        given = np.full((2, size + 128), nan, dtype)
        given[:, 64 : 64 + size] = one
        to = np.full(size + 128, 7, dtype)
        numbers, sums = np.zeros((3, channels), np.float32), np.full((3, channels + 2), 5, np.float32)
        numbers[1] = 0.5
        at = lambda array: array.ctypes.data + 64 * array.itemsize  # noqa: E731
        addresses = {"x": at(given[0]), "gradient": at(given[1]), "to": at(to)}
        for name, number, total in zip(("shift", "scale", "offset"), numbers, sums, strict=True):
            addresses |= {name: number.ctypes.data, f"{name}_gradient": total.ctypes.data + 4}
        struct = ActivationStruct(rows=rows, channels=channels, bf16=bf16, kind=kind, **addresses)
        run_activation(instruction_set(), struct)
        assert (sums[:, [0, -1]] == 5).all()
        assert (to[:64] == 7).all()
        assert (to[64 + size :] == 7).all()
        passed = kind == RPRELU  # z = 2 is beyond the triangle
        assert (to[64 : 64 + size] == (one if passed else 0)).all()
        expected = [[-rows], [0], [rows]] if passed else [[0], [rows], [rows]]
        assert (sums[:, 1:-1] == expected).all()


# ---------------------------------------------------------------------------------------------------------------- draws
def slope(latent: torch.Tensor, temperature: float) -> torch.Tensor:
    """s' of a sign."""
    return 1e-10 / temperature / (1 - latent.tanh().square() + 1e-10)


@settings(max_examples=20, deadline=None)
@given(
    count=st.one_of(st.integers(1, 70), st.integers(CHUNK - 20, CHUNK + 90)),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 4.0, 60.0]),
    dtype=st.sampled_from(DTYPES),
)
def test_signs_are_those_of_the_plain_formula(count: int, scale: float, dtype: torch.dtype) -> None:
    latent = torch.randn(count, generator=seeded(count)) * scale
    generator = seeded(1)
    u = torch.cat([_uniform(piece, generator) for piece in latent.split(CHUNK)])
    above = u.double() - torch.sigmoid(-2 * latent.double())
    rounded = above.abs() < 1e-6  # p in float32 may be on the other side
    found = _draw_signs(latent, 1e-10, seeded(1), dtype)
    if found is None:  # one λ in ten millions meets its u to the last bit
        assert rounded.any()
        return
    assert found.dtype == dtype
    assert (found.abs() == 1).all()
    assert (((found > 0) == (above > 0)) | rounded).all()


@pytest.mark.parametrize("index", [0, 7, 40])
def test_a_draw_that_is_not_a_sign_leaves_the_generator(index: int) -> None:
    u = _uniform(torch.empty(41), seeded(0))
    edges = {"tie": -(u.logit() / 2), "nan": torch.full((41,), float("nan"))}
    for name, values in edges.items():
        latent, generator = torch.full((41,), 3.0), seeded(0)
        latent[index] = values[index]
        if name == "tie":  # sigmoid(−2λ) of this λ in float32 may be a unit beside u
            latent[:] = values
        before = generator.get_state()
        assert _draw_signs(latent, 1e-10, generator, torch.float32) is None
        assert torch.equal(generator.get_state(), before)
        weight = ConcreteSign(generator=generator)(latent)
        expected = torch.tanh((latent + 0.5 * u.logit()) / 1e-10)
        assert torch.equal(weight.isnan(), latent.isnan())
        assert torch.equal(weight.nan_to_num(), expected.nan_to_num())


def test_infinite_latents_are_signs() -> None:
    latent = torch.tensor([torch.inf, -torch.inf, 90.0, -90.0, 1e30, -1e30, 44.0, -44.0]).repeat(9)
    found = _draw_signs(latent, 1e-10, seeded(0), torch.float32)
    assert torch.equal(found, latent.sign())


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 100), dtype=st.sampled_from(DTYPES), temperature=st.sampled_from([1e-10, 1e-8]))
def test_the_slope_is_that_of_the_plain_formula(count: int, dtype: torch.dtype, temperature: float) -> None:
    latent = torch.linspace(-13, 13, count)
    latent[0] = torch.inf
    gradient = torch.randn(count, generator=seeded(count)).to(dtype)
    latent.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        ConcreteSign(temperature, generator=seeded(0)).eval()(latent).backward(gradient)
    found, latent = latent.grad, latent.detach()
    step = 2.0**-23 / (1 - latent.tanh().square() + 1e-10)  # two units in the last place of tanh
    ratio = found.double() / (gradient.double() * slope(latent, temperature).double())
    assert bool(((ratio - 1).abs() <= 2 * step + 1e-5).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_training_step_of_a_parameter_is_done_by_kernels(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(bayesbinn, "run_values", lambda *args, _run=bayesbinn.run_values, **kwargs: (
        calls.append(args[1].noise is None), _run(*args, **kwargs))[1])  # fmt: skip
    weight = nn.Parameter(torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = ConcreteSign(generator=seeded(0))(weight)
    assert out.dtype == dtype
    assert out.stride() == weight.stride()
    out.backward(torch.ones_like(out))
    assert calls == [False, True]
    torch.testing.assert_close(weight.grad, slope(weight.detach(), 1e-10), rtol=1e-4, atol=0)


def test_what_stays_with_torch() -> None:
    latent = torch.randn(8, 8)
    assert _draw_signs(latent.double(), 1e-10, None, torch.float64) is None
    assert _draw_signs(latent[:, ::2], 1e-10, None, torch.float32) is None
    assert _draw_signs(latent, 1e-5, None, torch.float32) is None  # |λ + δ| = 2|u − p| is of small numbers only


def test_a_second_derivative() -> None:
    latent = torch.tensor([0.3, -1.0], dtype=torch.float32, requires_grad=True)
    weight = ConcreteSign(generator=seeded(0))(latent)
    incoming = torch.ones(2, requires_grad=True)
    (first,) = torch.autograd.grad(weight, latent, incoming, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), incoming)
    torch.testing.assert_close(second, slope(latent.detach(), 1e-10))
