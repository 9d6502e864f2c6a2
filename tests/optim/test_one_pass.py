"""The update of latents in one pass against torch's own optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from onebit.layers import BinaryConv2d, BinaryLinear
from onebit.native import instruction_set
from onebit.optim import Bop, clip_latents_, latent_groups, one_pass

pytestmark = pytest.mark.skipif(instruction_set() is None, reason="the native library is not installed")
Groups = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def small_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_pass, "MIN_WEIGHTS", 0)


def with_decay(groups: Groups) -> Groups:
    return [{**group, "weight_decay": 0.1} for group in groups]


def clipped(kind: Callable[..., torch.optim.Optimizer], **options: Any) -> Callable[[Groups], torch.optim.Optimizer]:
    return lambda groups: clip_latents_(kind(groups, **options))


OPTIMIZERS: dict[str, Callable[[Groups], torch.optim.Optimizer]] = {
    "adam": clipped(torch.optim.Adam, betas=(0.8, 0.99), eps=1e-3),
    "fused": clipped(torch.optim.Adam, fused=True),
    "adamw": lambda groups: clip_latents_(torch.optim.AdamW(with_decay(groups))),
    "sgd": clipped(torch.optim.SGD),
    "decay": lambda groups: clip_latents_(torch.optim.SGD(with_decay(groups), momentum=0.5)),
    "dampened": clipped(torch.optim.SGD, momentum=0.9, dampening=0.3),
    "nesterov": clipped(torch.optim.SGD, momentum=0.9, nesterov=True),
    "bop": lambda groups: Bop(groups, gamma=0.1, threshold=1e-3),
}
BY_TORCH: dict[str, Callable[[Groups], torch.optim.Optimizer]] = {
    "amsgrad": clipped(torch.optim.Adam, amsgrad=True),
    "maximize": clipped(torch.optim.SGD, maximize=True),
    "adam decay": lambda groups: clip_latents_(torch.optim.Adam(with_decay(groups))),
    "rmsprop": clipped(torch.optim.RMSprop),
}


def net() -> torch.nn.Sequential:
    torch.manual_seed(0)
    convolution = BinaryConv2d(3, 5, 3).to(memory_format=torch.channels_last)
    return torch.nn.Sequential(BinaryLinear(37, 11, True), convolution)


def stepped(
    make: Callable[[Groups], torch.optim.Optimizer], natives: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Tensor], dict[str, Any]]:
    """Parameters and state after steps with the kernel (1) or without (0), on gradients of 0, 1e-30, 1 and 1e8."""
    model = net()
    optimizer = make(latent_groups(model, lr=0.01))
    generator = torch.Generator().manual_seed(1)
    sizes = torch.tensor([0, 1e-30, 1e8, 1.0])
    for native in natives:
        monkeypatch.setenv("ONEBIT_NATIVE", native)
        for p in model.parameters():
            size = sizes[torch.randint(4, p.shape, generator=generator)]
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator) * size)
        optimizer.step()
        assert all(p.grad is not None for p in model.parameters())
    return [p.detach() for p in model.parameters()], optimizer.state_dict()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list of the kinds of kernels that ran."""
    made: list[int] = []
    launch = one_pass.launch
    monkeypatch.setattr(one_pass, "launch", lambda *args, **more: made.append(more["kind"]) or launch(*args, **more))
    return made


def step_of_ones(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """A step with gradients of 1; the parameters before it."""
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    return before


@pytest.mark.parametrize("natives", ["11111", "10110"])
@pytest.mark.parametrize("name", [*OPTIMIZERS, *BY_TORCH])
def test_the_update_is_that_of_torch(monkeypatch: pytest.MonkeyPatch, name: str, natives: str, runs: list[int]) -> None:
    make = {**OPTIMIZERS, **BY_TORCH}[name]
    (ours, state), (theirs, expected) = (stepped(make, each, monkeypatch) for each in (natives, "00000"))
    assert bool(runs) == (name in OPTIMIZERS)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)
    assert state["state"].keys() == expected["state"].keys()
    for key, entries in expected["state"].items():
        assert state["state"][key].keys() == entries.keys()
        for entry, value in entries.items():
            if isinstance(value, Tensor):
                found = state["state"][key][entry]
                torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-7 * float(value.abs().max()))


@pytest.mark.parametrize("name", ["adam", "sgd", "nesterov", "bop"])
def test_a_gradient_that_is_not_a_number_shows_in_its_latent(name: str, runs: list[int]) -> None:
    model = net()
    optimizer = OPTIMIZERS[name](latent_groups(model, lr=0.01))
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[0].weight.grad[1, 2] = torch.nan
    optimizer.step()
    assert runs
    assert model[0].weight.isnan().nonzero().tolist() == [[1, 2]]


def test_a_step_of_a_closure_is_torchs(runs: list[int]) -> None:
    model = net()
    optimizer = OPTIMIZERS["adam"](latent_groups(model, lr=0.01))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model[0](torch.ones(2, 37)).square().sum()
        loss.backward()
        return loss

    first = optimizer.step(closure).item()
    for _ in range(10):
        last = optimizer.step(closure).item()
    assert last < first
    assert not runs


def test_autograd_notices_the_update() -> None:
    layer = BinaryLinear(8, 4, weight_quantizer=None)
    layer.weight_quantizer = BinaryLinear(8, 4).weight_quantizer
    optimizer = OPTIMIZERS["adam"](latent_groups(layer, lr=0.01))
    loss = (layer.weight**2).sum()
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified"):
        loss.backward()


def test_a_later_hook_may_change_gradients(runs: list[int]) -> None:
    model = net()
    optimizer = OPTIMIZERS["sgd"](latent_groups(model, lr=0.1))
    optimizer.register_step_pre_hook(lambda *args: [p.grad.zero_() for p in model.parameters()] and None)
    before = step_of_ones(model, optimizer)
    assert all(map(torch.equal, before, model.parameters()))
    assert not runs


def test_an_earlier_post_hook_sees_the_gradients_and_what_torch_computed(runs: list[int]) -> None:
    model = net()
    optimizer = torch.optim.SGD(latent_groups(model, lr=10.0))
    seen: list[tuple[Tensor, Tensor]] = []
    hook = optimizer.register_step_post_hook(
        lambda *args: seen.extend((p.grad.clone(), p.detach().clone()) for p in model.parameters()) and None
    )
    clip_latents_(optimizer)
    before = step_of_ones(model, optimizer)
    assert not runs
    for old, (gradient, moved), p in zip(before, seen, model.parameters(), strict=True):
        assert torch.equal(gradient, torch.ones_like(p))
        assert torch.equal(moved, old - 10)
    assert torch.equal(model[0].weight, -torch.ones_like(model[0].weight))
    hook.remove()
    optimizer.step()
    assert runs
