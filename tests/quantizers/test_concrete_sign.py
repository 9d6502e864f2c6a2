"""The relaxed draws of BayesBiNN: what is drawn, how it is relaxed, and what comes back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from onebit.layers import BinaryLinear
from onebit.quantizers import ConcreteSign
from onebit.quantizers.bayesbinn import _uniform
from onebit.quantizers.chunks import CHUNK, in_chunks
from support.tensors import seeded


def uniform(count: int, bound: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(count, generator=seeded(9), dtype=dtype) * 2 - 1) * bound


def by_formula(latent: Tensor, temperature: float, seed: int = 0) -> Tensor:
    u = _uniform(latent, seeded(seed))
    return torch.tanh((latent + 0.5 * torch.log(u / (1 - u))) / temperature)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 1e-2, 1e-5, 1e-10])
def test_the_draw_follows_the_formula_at_every_temperature(temperature: float, dtype: torch.dtype) -> None:
    latent = uniform(20_000, 4, dtype)
    found = ConcreteSign(temperature, generator=seeded())(latent)
    expected = by_formula(latent, temperature)
    assert found.dtype == dtype
    if temperature >= 1e-2:
        assert torch.allclose(found, expected, atol=2e-5 if dtype == torch.float32 else 1e-12)
    else:
        assert int((found != expected).sum()) <= 20_000 * 1e-7 / temperature * 1e-3 + 1
        assert torch.equal(found >= 0, expected >= 0)


def test_at_ten_signs_stay_and_the_slope_in_float32_is_ten_to_the_tenth() -> None:
    latent = torch.tensor([10.0, -10.0, torch.inf, -torch.inf]).repeat(10_000).requires_grad_()
    signs = ConcreteSign(generator=seeded())(latent)
    assert torch.equal(signs, latent.sign())
    signs.sum().backward()
    assert latent.grad[:2].tolist() == pytest.approx([1e10, 1e10], rel=1e-6)


@pytest.mark.parametrize("temperature", [1e-10, 0.1])
def test_the_share_of_plus_ones_is_the_sigmoid(temperature: float) -> None:
    for value in (-2.0, -0.3, 0.0, 0.7, 3.0):
        latent = torch.full((100_000,), value)
        p = 1 / (1 + math.exp(-2 * value))
        margin = 4 * math.sqrt(p * (1 - p) / 100_000)
        assert abs(float((ConcreteSign(temperature, generator=seeded())(latent) > 0).float().mean()) - p) < margin
        drawn = ConcreteSign(temperature).sample(latent, generator=seeded(1))
        assert drawn.signs.abs().unique().tolist() == [1.0]
        assert abs(float((drawn.signs > 0).float().mean()) - p) < margin


def test_u_is_uniform_and_never_0_or_1() -> None:
    u = _uniform(torch.empty(100_001), seeded())
    assert 0 < float(u.min()) < 1e-4
    assert 1 - 1e-4 < float(u.max()) < 1
    counts = torch.histc(u, 100, 0, 1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 150  # chi square of 99 degrees of freedom
    assert abs(float(torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1])) < 0.02


def slope_of(latent: Tensor, weight: Tensor, temperature: float) -> Tensor:
    return (1 - weight**2 + 1e-10) / temperature / (1 - torch.tanh(latent) ** 2 + 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 1e-2, 1e-10])
def test_the_gradient_is_that_of_the_authors_code(temperature: float, dtype: torch.dtype) -> None:
    latent = uniform(5000, 3, dtype).requires_grad_()
    incoming = torch.linspace(-2, 2, 5000, dtype=dtype)
    weight = ConcreteSign(temperature, generator=seeded())(latent)
    weight.backward(incoming)
    expected = incoming * slope_of(latent.detach(), weight.detach(), temperature)
    assert torch.allclose(latent.grad, expected, rtol=2e-4 if dtype == torch.float32 else 1e-12)


def test_the_slope_is_that_of_the_latent_now() -> None:
    """The authors' optimizer keeps tanh λ of the step before."""
    layer = BinaryLinear(3, 2, weight_quantizer=ConcreteSign(1.0, generator=seeded()))
    for value in (0.0, 2.0):
        with torch.no_grad():
            layer.weight.fill_(value)
        layer.weight.grad = None
        layer.weight_quantizer.generator.manual_seed(1)
        weight = layer.effective_weight()
        weight.sum().backward()
        assert torch.allclose(layer.weight.grad, slope_of(layer.weight.detach(), weight.detach(), 1.0), rtol=1e-4)


@pytest.mark.parametrize("count", [1, 3, CHUNK, 2 * CHUNK + 5])
def test_chunks_cover_all_values(count: int) -> None:
    latent = uniform(count, 2)
    assert torch.equal(ConcreteSign(generator=seeded())(latent) > 0, by_formula(latent, 1e-10) > 0)
    assert sum(x.numel() for (x,) in in_chunks(latent)) == count


def test_under_autocast_relaxed_weights_are_rounded_and_their_slope_is_not() -> None:
    latent = uniform(1000, 1).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        weight = ConcreteSign(1.0, generator=seeded())(latent)
    weight.backward(torch.ones_like(weight))
    exact = by_formula(latent.detach(), 1.0)
    assert torch.equal(weight, exact.bfloat16())
    assert torch.allclose(latent.grad, slope_of(latent.detach(), exact, 1.0), rtol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_draws_by_the_formula() -> None:
    torch._dynamo.reset()
    quantizer = ConcreteSign(0.5)
    latent = uniform(64, 1).requires_grad_()
    weight = torch.compile(quantizer, backend="aot_eager")(latent)
    weight.sum().backward()
    assert torch.allclose(latent.grad, slope_of(latent.detach(), weight.detach(), 0.5), rtol=1e-4)


def test_the_mean_of_a_weight() -> None:
    latent = uniform(10, 3)
    assert torch.equal(ConcreteSign().mean(latent), latent.tanh())
