"""Draws and slopes of `concrete_sign` by the native kernels, against the formulas in torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from onebit.native import instruction_sets
from onebit.quantizers import ConcreteSign, bayesbinn
from onebit.quantizers.bayesbinn import _draw_signs, _uniform
from onebit.quantizers.chunks import CHUNK
from support.kernel_inputs import DTYPES, way

__all__ = ["way"]
pytestmark = pytest.mark.skipif(not instruction_sets(), reason="the native library is not installed")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
