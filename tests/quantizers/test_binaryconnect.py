"""`sign`, `Sign` and `Stochastic`: the one sign of the package, and probabilities that are exact."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from onebit.layers import BinaryLinear
from onebit.quantizers import Sign, SteSign, Stochastic, binaryconnect as module, draw_signs, sign
from support.tensors import seeded


def count_over_all_bytes(monkeypatch: pytest.MonkeyPatch, latents: Tensor, value: float) -> Tensor:
    """For each latent, how many of the 256 possible bytes give +1."""
    words = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.int64).repeat(len(latents))
    monkeypatch.setattr(module.torch, "randint", lambda *args, **kwargs: words.clone())
    drawn = draw_signs(latents[:, None].repeat(1, 256), value=value)
    assert set(drawn.unique().tolist()) <= {-1.0, 1.0}
    return (drawn > 0).sum(dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_sign_has_two_values_and_keeps_the_dtype(dtype: torch.dtype) -> None:
    signs = sign(torch.tensor([-3, -1, 0, 1, 3], dtype=dtype))
    assert signs.tolist() == [-1, -1, 1, 1, 1]
    assert signs.dtype == dtype


def test_sign_at_the_edges() -> None:
    """Both zeros, NaN and subnormal numbers; a parameter gives a plain tensor."""
    assert sign(torch.tensor([0.0, -0.0, math.nan, -math.nan, -1e-45, 1e-45])).tolist() == [1, 1, 1, 1, -1, 1]
    weight = torch.nn.Parameter(torch.tensor([-1.0, 1.0]))
    for signs in (sign(weight), draw_signs(weight)):
        assert signs.tolist() == [-1, 1]
    assert not draw_signs(weight).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_function_has_the_gradient_of_ste_sign(dtype: torch.dtype) -> None:
    x = torch.tensor([-2.0, -1.0, -0.25, -0.0, 0.0, 0.5, 1.0, 1.5], dtype=dtype)
    factor = torch.arange(1.0, 9, dtype=dtype)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    for made, given in ((sign(ours), ours), (SteSign()(theirs), theirs)):
        (made * factor).sum().backward()
        assert made.tolist() == [-1, -1, -1, 1, 1, 1, 1, 1]
        assert given.grad.tolist() == [0, 2, 3, 4, 5, 6, 7, 0]
    with torch.no_grad():
        assert not sign(ours).requires_grad
    assert torch.func.grad(lambda x: (sign(x) * factor).sum())(x).tolist() == [0, 2, 3, 4, 5, 6, 7, 0]


def test_sign_of_every_bfloat16() -> None:
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    for x in (numbers, numbers[::3], numbers.view(4, 64, 16, 16).to(memory_format=torch.channels_last)):
        found = sign(x)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found.float(), 1 - 2 * (x < 0).float())


@pytest.mark.parametrize("value", [1.0, 0.25, 0.043301, 3.0])
def test_the_probability_is_exact_to_one_in_256(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    relative = torch.linspace(-1.5, 1.5, 3001, dtype=torch.float64)
    latents = (relative * value).float()
    counts = count_over_all_bytes(monkeypatch, latents, value)
    p = ((latents.double() / value + 1) / 2).clamp(0, 1)
    assert float((counts / 256 - p).abs().max()) <= 0.5 / 256 + 1e-6
    assert bool((counts.diff() >= 0).all())


def test_steps_of_1_in_128_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = torch.arange(-128, 129) / 128
    assert count_over_all_bytes(monkeypatch, latents, 1.0).tolist() == list(range(257))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_at_and_beyond_the_value_nothing_is_random(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    for value in (1.0, 0.1, 1 / 3, math.sqrt(1.5 / (784 + 2048)), 7.3):
        bound = torch.tensor(value, dtype=dtype)
        outside = torch.stack([bound, torch.nextafter(bound, bound * 2), bound * 1.5, bound * 100, bound * torch.inf])
        assert count_over_all_bytes(monkeypatch, outside, value).tolist() == [256] * 5
        assert count_over_all_bytes(monkeypatch, -outside, value).tolist() == [0] * 5


@pytest.mark.parametrize("latent", [-0.75, 0.0, 0.3])
def test_every_byte_position_of_a_word_is_unbiased(latent: float) -> None:
    """`random_()` without a range never sets the top bit of a word: every eighth weight would be biased."""
    draws = 40_000
    signs = draw_signs(torch.full((draws, 8), latent), generator=seeded(3))
    p = round(128 * latent + 128) / 256
    z = ((signs > 0).double().sum(dim=0) - draws * p) / math.sqrt(draws * p * (1 - p))
    assert float(z.abs().max()) < 5


def test_neighboring_draws_are_independent() -> None:
    draws = draw_signs(torch.zeros(20_000, 16), generator=seeded(5)).double()
    correlation = draws.t() @ draws / len(draws)
    assert float((correlation - torch.eye(16)).abs().max()) < 5 / math.sqrt(len(draws))


def test_a_generator_reproduces_the_draws_and_spares_the_global_stream() -> None:
    latent, quantizer = torch.zeros(50, 50), Stochastic(generator=seeded(4))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = quantizer(latent), quantizer(latent)
    assert 0.45 < float((first == second).double().mean()) < 0.55
    assert torch.equal(first, Stochastic(generator=seeded(4))(latent))
    assert torch.equal(Stochastic().eval()(latent), sign(latent))
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_have_the_memory_format_of_their_latents() -> None:
    latent = torch.rand(4, 6, 3, 3) * 2 - 1
    last = latent.to(memory_format=torch.channels_last)
    torch.manual_seed(5)
    weight = Stochastic()(last)
    torch.manual_seed(5)
    assert torch.equal(weight.permute(0, 2, 3, 1), draw_signs(last.permute(0, 2, 3, 1)))
    assert weight.stride() == last.stride()
    torch.manual_seed(5)
    assert torch.equal(Stochastic()(latent), draw_signs(latent, generator=torch.Generator().manual_seed(5)))


@pytest.mark.parametrize("kind", [Sign, Stochastic])
def test_a_sample_is_a_draw_with_the_scale_that_ships(kind: type[Sign]) -> None:
    quantizer, latent = kind(0.5), torch.zeros(40, 50)
    sample = quantizer.sample(latent, generator=seeded(2))
    again = quantizer.sample(latent, generator=seeded(2))
    assert torch.equal(sample.signs, again.signs)
    assert 900 < int((sample.signs > 0).sum()) < 1100
    assert set(sample.dense().unique().tolist()) == {-0.5, 0.5}
    assert sample.scale.tolist() == [0.5] * 40


@pytest.mark.parametrize("clip_value", [0.5, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_ste_sign_passes_the_gradient_up_to_and_including_its_clip_value(clip_value: float, dtype: torch.dtype) -> None:
    bound = torch.tensor(clip_value, dtype=dtype)
    x = torch.stack([bound, torch.nextafter(bound, bound * 2), -bound, -torch.nextafter(bound, bound * 2)])
    x.requires_grad_()
    SteSign(clip_value)(x).sum().backward()
    assert x.grad.tolist() == [1, 0, 1, 0]


def test_value_one_is_no_scale_and_ste_sign_draws_nothing() -> None:
    assert SteSign().sample(torch.zeros(2, 2)) is None
    assert Sign().decompose(torch.ones(3, 2)).scale is None
    scale = Sign(0.5).decompose(torch.ones(3, 2)).scale
    assert scale.tolist() == [0.5, 0.5, 0.5]


def test_members_of_an_ensemble_draw_their_own_weights() -> None:
    model = BinaryLinear(20, 10, weight_quantizer="stochastic")
    state = {key: torch.zeros(8, *value.shape) for key, value in model.state_dict().items()}
    x = torch.eye(20)
    weights = torch.func.vmap(lambda one: torch.func.functional_call(model, one, (x,)), randomness="different")(state)
    assert bool((weights.abs() == 1).all())
    assert 0.4 < float((weights > 0).float().mean()) < 0.6
    assert all(bool((weights[k] != weights[k + 1]).any()) for k in range(7))
