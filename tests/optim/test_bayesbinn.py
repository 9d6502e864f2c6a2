"""BayesBiNN and its quantizer against the formulas of the paper and the authors' code, written again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import onebit
from onebit.data import load_dataset
from onebit.layers import BinaryLinear, binary_layers
from onebit.optim import BayesBiNN, latent_groups
from onebit.quantizers import ConcreteSign, sign
from onebit.quantizers.bayesbinn import _uniform
from support.latent_training import bayesbinn, net, train

COUNT = 1000
RATE = 1e-5


def loss_of(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(nn.functional.linear(x, weight), y)


def data(step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(32, 12, dtype=dtype, generator=generator)
    return x, torch.randint(5, (32,), generator=generator)


def rederived(
    latent: Tensor, *, steps: int, temperature: float, momentum: float, samples: int, prior: Any, lagged: bool = False
) -> Tensor:
    """The authors' loop with tanh²λ of the current λ; `lagged`: as in their code, of the previous step."""
    mean = torch.zeros_like(latent)
    before = latent
    for step in range(1, steps + 1):
        total = torch.zeros_like(latent)
        generator = torch.Generator().manual_seed(step)
        for _ in range(samples):
            u = _uniform(latent, generator)
            weight = torch.tanh((latent + 0.5 * torch.log(u / (1 - u))) / temperature).requires_grad_()
            x, y = data(step, latent.dtype)
            (gradient,) = torch.autograd.grad(loss_of(weight, x, y), weight)
            weight = weight.detach()
            slope = 1 - torch.tanh(before if lagged else latent) ** 2 + 1e-10
            total += (1 - weight**2 + 1e-10) / temperature / slope * gradient
        natural = COUNT * total / samples + latent - prior
        mean = momentum * mean + (1 - momentum) * natural
        before, latent = latent, latent - RATE * mean / (1 - momentum**step)
    return latent


def ours(
    latent: Tensor, *, steps: int, temperature: float, momentum: float, samples: int, prior: Any, lagged: bool = False
) -> Tensor:
    quantizer = ConcreteSign(temperature, generator=torch.Generator())
    layer = BinaryLinear(12, 5, weight_quantizer=quantizer, dtype=latent.dtype)
    groups = latent_groups(layer, lr=RATE)
    optimizer = BayesBiNN(groups, count=COUNT, momentum=momentum, init=None, lagged_mean=lagged)
    with torch.no_grad():
        if isinstance(prior, Tensor):
            layer.weight.copy_(prior)
            optimizer.set_prior_()
        layer.weight.copy_(latent)
    for step in range(1, steps + 1):
        quantizer.generator.manual_seed(step)
        optimizer.zero_grad()
        for _ in range(samples):
            x, y = data(step, latent.dtype)
            (nn.functional.cross_entropy(layer(x), y) / samples).backward()
        optimizer.step()
    return layer.weight.detach()


def small(dtype: torch.dtype, bound: float = 2.0) -> Tensor:
    return (torch.rand(5, 12, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 2 - 1) * bound


PRIOR = small(torch.float64, 1.0)


@pytest.mark.parametrize(
    ("temperature", "momentum", "samples", "prior"),
    [(1.0, 0.0, 1, 0.0), (1e-2, 0.9, 1, PRIOR), (1.0, 0.0, 3, PRIOR), (1e-2, 0.99, 2, 0.0)],
)
def test_twenty_steps_in_float64(temperature: float, momentum: float, samples: int, prior: Any) -> None:
    settings = {"steps": 20, "temperature": temperature, "momentum": momentum, "samples": samples, "prior": prior}
    begin = small(torch.float64)
    found, expected = ours(begin, **settings), rederived(begin, **settings)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert float((found - begin).abs().max()) > 1e-4


def test_twenty_steps_in_float32_at_the_temperature_of_the_paper() -> None:
    settings = {"steps": 20, "temperature": 1e-10, "momentum": 0.9, "samples": 2, "prior": 0.0}
    begin = small(torch.float32, 3.0)
    begin[0] = 10.0
    begin[1, ::2] = -10.0
    found, expected = ours(begin, **settings), rederived(begin, **settings)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert float((found - begin).abs().max()) > 100  # 1/(1 − tanh²(10) + 1e-10) is 1e10 in float32


@pytest.mark.parametrize(("momentum", "samples", "prior"), [(0.0, 1, 0.0), (0.9, 2, PRIOR)])
def test_the_mean_may_be_that_of_the_previous_step(momentum: float, samples: int, prior: Any) -> None:
    settings = {"steps": 20, "temperature": 0.1, "momentum": momentum, "samples": samples, "prior": prior}
    begin = small(torch.float64)
    found, expected = ours(begin, **settings, lagged=True), rederived(begin, **settings, lagged=True)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert float((found - rederived(begin, **settings)).abs().max()) > 1e-5


def test_latents_start_at_plus_and_minus_ten() -> None:
    model = net("concrete_sign")
    bayesbinn(model)
    values, counts = torch.cat([model[0].weight.flatten(), model[4].weight.flatten()]).unique(return_counts=True)
    assert values.tolist() == [-10, 10]
    assert 0.4 < float(counts[0] / counts.sum()) < 0.6
    again = net("concrete_sign")
    bayesbinn(again, init=3.0, generator=torch.Generator().manual_seed(5))
    assert again[4].weight.unique().tolist() == [-3, 3]
    kept = net("concrete_sign")
    bayesbinn(kept, init=None)
    assert torch.equal(kept[4].weight, net("concrete_sign")[4].weight)


def test_added_latents_without_a_rate_take_that_of_the_first() -> None:
    optimizer = BayesBiNN(latent_groups(net("concrete_sign"), lr=0.02), count=100)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))], "latent": True})
    assert optimizer.param_groups[-1]["lr"] == 0.02


def test_without_data_latents_converge_to_the_prior() -> None:
    layer = BinaryLinear(3, 2, weight_quantizer="concrete_sign")
    optimizer = BayesBiNN(latent_groups(layer, lr=0.5), count=10)
    optimizer.set_prior_()
    prior = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.zero_()
    for _ in range(60):
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step()
    assert torch.allclose(layer.weight, prior)


def test_the_prior_and_the_lagged_mean_are_part_of_the_state() -> None:
    model = net("concrete_sign")
    optimizer = bayesbinn(model, lagged_mean=True)
    train(model, optimizer, steps=2)
    optimizer.set_prior_()
    train(model, optimizer, steps=2, seed=2)
    twin = copy.deepcopy(model)
    other = bayesbinn(twin, init=None, lagged_mean=True)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, steps=3, seed=3)
    train(twin, other, steps=3, seed=3)
    assert torch.equal(model[4].weight, twin[4].weight)
    assert torch.equal(optimizer.state[model[0].weight]["prior"], other.state[twin[0].weight]["prior"])


def test_without_momentum_there_is_no_state() -> None:
    model = net("concrete_sign")
    optimizer = bayesbinn(model, momentum=0.0)
    train(model, optimizer, steps=2)
    assert model[0].weight not in optimizer.state or not optimizer.state[model[0].weight]


def test_a_second_fit_continues_from_the_posterior() -> None:
    data = load_dataset("toy")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    trainer = onebit.Trainer(
        nn.Sequential(onebit.InputCoding(), model), "bayesbinn", epochs=4, batch_size=50, precision="fp32"
    )
    trainer.fit(data, verbose=False)
    # other signs than those that the seed draws
    before = [layer.weight.detach().neg_().clone() for _, layer in binary_layers(trainer.model)]
    assert all(latent.abs().mean() > 5 for latent in before)
    trainer.fit(data, epochs=1, verbose=False)
    for latent, (_, layer) in zip(before, binary_layers(trainer.model), strict=True):
        assert (sign(latent) == sign(layer.weight)).float().mean() > 0.75
