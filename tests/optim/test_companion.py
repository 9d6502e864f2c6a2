"""Optimizers with a rule for latents work as ordinary torch optimizers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onebit.errors import UsageError
from onebit.layers import BinaryLinear
from onebit.optim import clip_latents_, latent_groups
from onebit.train.precision import lay_out_state_
from support.latent_training import OPTIMIZERS, net, same, through_a_file, train


@pytest.fixture(params=OPTIMIZERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def pair(name: str, **options: Any) -> tuple[nn.Sequential, Any]:
    quantizer, make = OPTIMIZERS[name]
    model = net(quantizer)
    return model, make(model, **options)


def test_real_parameters_move_as_adam_moves_them(name: str) -> None:
    model, optimizer = pair(name)
    twin = copy.deepcopy(model)
    adam = torch.optim.Adam([p for group in latent_groups(twin, lr=0.01)[1:] for p in group["params"]], lr=0.01)
    own = [p for group in optimizer.param_groups if not group.get("latent") for p in group["params"]]
    assert len(own) == 7
    for step in range(3):
        train(model, optimizer, steps=1, seed=step)
        for mine, theirs in zip(own, adam.param_groups[0]["params"], strict=True):
            theirs.grad = mine.grad.clone()
        adam.step()
        for mine, theirs in zip(own, adam.param_groups[0]["params"], strict=True):
            assert torch.allclose(mine, theirs, atol=1e-7)


def test_another_companion_may_be_given(name: str) -> None:
    model, optimizer = pair(name, companion=lambda groups: torch.optim.SGD(groups, lr=0.5))
    before = model[7].weight.detach().clone()
    train(model, optimizer, steps=1)
    assert torch.allclose(model[7].weight, before - 0.01 * model[7].weight.grad)  # at the rate of the group


def test_a_net_without_real_parameters(name: str) -> None:
    quantizer, make = OPTIMIZERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(*list(net(quantizer).children())[:1], nn.Flatten())
    optimizer = make(model)
    assert optimizer.companion is None
    model(torch.randn(4, 2, 5, 5)).square().sum().backward()
    optimizer.step()
    assert same(copy.deepcopy(model), model)


def test_schedulers_move_the_rates_of_both(name: str) -> None:
    model, optimizer = pair(name)
    first = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, [lambda step, g=group: 0.5**step if g.get("latent") else 0.0 for group in optimizer.param_groups]
    )
    before = model[7].weight.detach().clone()
    train(model, optimizer, steps=1)
    schedule.step()
    assert torch.equal(model[7].weight, before)  # a companion with copies of the groups would have moved it
    rates = [
        0.5 * rate if group.get("latent") else 0 for rate, group in zip(first, optimizer.param_groups, strict=True)
    ]
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert optimizer.companion.param_groups[0] is optimizer.param_groups[1]


def test_hooks_clips_and_closures_work_as_in_torch(name: str) -> None:
    model, optimizer = pair(name)
    optimizer.param_groups[0]["latent_clip"] = 0.5
    clip_latents_(optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.randn(16, 2, 5, 5)).square().mean()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) > 0
    assert float(model[0].weight.detach().abs().max()) == 0.5


def test_state_has_the_memory_format_of_latents(name: str) -> None:
    model, optimizer = pair(name)
    last, last_optimizer = pair(name)
    train(last.to(memory_format=torch.channels_last), last_optimizer, steps=3)
    state = last_optimizer.state[last[0].weight]
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    assert tensors
    assert all(tensor.stride() == last[0].weight.stride() for tensor in tensors)
    train(model, optimizer, steps=3)
    model.to(memory_format=torch.channels_last)
    lay_out_state_(optimizer)  # as `fit` does after it has laid out the model
    for key, value in optimizer.state[model[0].weight].items():
        if isinstance(value, Tensor):
            assert value.stride() == model[0].weight.stride(), key


def test_the_memory_format_changes_no_bit_of_an_update(name: str) -> None:
    model, optimizer = pair(name)
    twins = [copy.deepcopy((model, optimizer)) for _ in range(3)]
    gradients = [torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    found = []
    for (twin, own), (latent_format, format) in zip(
        twins, [(torch.contiguous_format,) * 2, (torch.channels_last,) * 2, (torch.channels_last, None)], strict=True
    ):
        twin.to(memory_format=latent_format)
        for gradient in gradients:
            own.zero_grad()
            twin[0].weight.grad = gradient.clone() if format is None else gradient.contiguous(memory_format=format)
            own.step()
        found.append(twin[0].weight.detach())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("problem", ["real", "decay"])
def test_real_nets_and_weight_decay_of_latents_are_refused(name: str, problem: str) -> None:
    make = OPTIMIZERS[name][1]
    if problem == "real":
        with pytest.raises(UsageError, match="binary weights"):
            make(nn.Sequential(nn.Linear(3, 3)))
        return
    kind = type(pair(name)[1])
    groups = latent_groups(net(), lr=0.1, weight_decay=0.1, decay_latents=True)
    with pytest.raises(UsageError, match="decay"):
        kind(groups, **({"count": 10} if name == "bayesbinn" else {}))


def test_groups_added_later_are_trained(name: str) -> None:
    model, optimizer = pair(name)
    train(model, optimizer, steps=1)
    head, tail = nn.Linear(3, 3), BinaryLinear(3, 3, weight_quantizer=OPTIMIZERS[name][0])
    grown = nn.Sequential(*model, head, tail)

    def add(optimizer: torch.optim.Optimizer, head: nn.Module, tail: nn.Module) -> None:
        optimizer.add_param_group({"params": head.parameters()})
        optimizer.add_param_group({"params": [tail.weight], "latent": True, "latent_clip": 9.0})

    add(optimizer, head, tail)
    own = optimizer.param_groups[-1]
    assert own.keys() <= optimizer.param_groups[0].keys() | {"latent_clip"}
    assert own["lr"] == optimizer.param_groups[0]["lr"]
    assert tail.weight.abs().unique().tolist() == ([1.0] if name == "bop" else [10.0])
    before = [head.weight.detach().clone(), tail.weight.detach().clone()]
    train(grown, optimizer, steps=5)
    assert not torch.equal(head.weight, before[0])
    assert not torch.equal(tail.weight, before[1])
    assert "exp_avg" in optimizer.state[head.weight]
    twin, fresh = pair(name)
    twin = nn.Sequential(*twin, nn.Linear(3, 3), BinaryLinear(3, 3, weight_quantizer=OPTIMIZERS[name][0]))
    add(fresh, twin[-2], twin[-1])
    twin.load_state_dict(through_a_file(grown.state_dict()))
    fresh.load_state_dict(through_a_file(optimizer.state_dict()))
    train(grown, optimizer, steps=3, seed=2)
    train(twin, fresh, steps=3, seed=2)
    assert same(grown, twin)


def test_the_first_real_group_that_is_added_makes_the_companion(name: str) -> None:
    quantizer, make = OPTIMIZERS[name]
    optimizer = make(nn.Sequential(net(quantizer)[0]), companion=lambda groups: torch.optim.SGD(groups, lr=0.5))
    assert optimizer.companion is None
    head = nn.Linear(2, 1)
    optimizer.add_param_group({"params": head.parameters()})
    before = head.weight.detach().clone()
    head(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert torch.allclose(head.weight, before - 0.5)
    assert same(copy.deepcopy(head), head)
    copy.deepcopy(optimizer).add_param_group({"params": nn.Linear(2, 1).parameters()})
    with pytest.raises(UsageError, match="decay"):
        optimizer.add_param_group({"params": [torch.zeros(2, 2)], "latent": True, "weight_decay": 0.1})
