"""The weights that a compiled update prepares are used where they fit, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from onebit.errors import TrainingError
from onebit.layers import BinaryLinear
from onebit.optim import clip_latents_, compile_update_
from onebit.quantizers import sign
from support.compiled_training import adam, compiled, latents, net, prepared, train, used_weights

# torch.compile uses what torch itself has deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("name", ["sign", "ste_sign", "stochastic"])
def test_the_next_forward_pass_multiplies_with_the_prepared_weights_once(name: str) -> None:
    model = net(name)
    train(model, compiled(model), steps=2)
    written = [one.weight for one in prepared(model)]
    first, second = used_weights(model), used_weights(model)
    assert [w.data_ptr() for w in first] == [w.data_ptr() for w in written]
    for latent, a, b in zip(latents(model), first, second, strict=True):
        assert a.data_ptr() != b.data_ptr()
        assert bool((a.abs() == 1).all())
        if name == "stochastic":
            assert bool((a != b).any())
        else:
            assert torch.equal(a, sign(latent))
            assert torch.equal(a, b)


def _fresh_state(model: nn.Module) -> dict[str, Tensor]:
    return {key: -tensor if key.endswith("weight") else tensor for key, tensor in model.state_dict().items()}


def _initialise(model: nn.Module) -> None:
    for layer in model:
        if isinstance(layer, BinaryLinear):
            nn.init.uniform_(layer.weight, -1, 1)


@torch.no_grad()
def _negate(model: nn.Module) -> None:
    for layer in model:
        if isinstance(layer, BinaryLinear):
            layer.weight.neg_()


def _new_storage(model: nn.Module) -> None:
    for layer in model:
        if isinstance(layer, BinaryLinear):
            layer.weight.data = -layer.weight.data


OUTSIDE_WRITES: dict[str, Callable[[nn.Module], Any]] = {
    "load_state_dict": lambda model: model.load_state_dict(_fresh_state(model)),
    "load_state_dict, assigned": lambda model: model.load_state_dict(_fresh_state(model), assign=True),
    "initialisation": _initialise,
    "in-place edit": _negate,
    "other storage": _new_storage,
}


@pytest.mark.parametrize("write", OUTSIDE_WRITES)
def test_a_latent_written_outside_is_quantized_anew(write: str) -> None:
    model = net()
    train(model, compiled(model), steps=3)
    before = [one.weight.clone() for one in prepared(model)]
    OUTSIDE_WRITES[write](model)
    for latent, weight, stale in zip(latents(model), used_weights(model), before, strict=True):
        assert torch.equal(weight, sign(latent))
        assert not torch.equal(weight, stale)


def test_training_goes_on_as_eager_training_does_after_an_outside_write() -> None:
    eager, fast = net(), net()
    optimizers = clip_latents_(adam(eager)), compiled(fast)
    for model, optimizer in zip((eager, fast), optimizers, strict=True):
        train(model, optimizer, steps=4)
        _negate(model)
        train(model, optimizer, first=4, steps=10)
    for a, b in zip(latents(eager), latents(fast), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_evaluation_never_sees_a_draw() -> None:
    model = net("stochastic")
    train(model, compiled(model), steps=2)
    model.eval()
    for latent, weight in zip(latents(model), used_weights(model), strict=True):
        assert torch.equal(weight, sign(latent))


def test_under_autocast_the_weights_are_bf16_and_another_dtype_is_not_used() -> None:
    model = net()
    optimizer = compile_update_(adam(model), model, dtype=torch.bfloat16, backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(64, 20)).float().square().mean().backward()
    optimizer.step()
    written = prepared(model)
    with torch.autocast("cpu", torch.bfloat16):
        used = used_weights(model)
    for p, weight in zip(written, used, strict=True):
        assert weight.dtype == torch.bfloat16
        assert weight.data_ptr() == p.weight.data_ptr()
    for p in written:
        p.passes = 0
    for latent, weight in zip(latents(model), used_weights(model), strict=True):
        assert weight.dtype == torch.float32
        assert torch.equal(weight, sign(latent))


def test_a_graph_kept_across_a_step_is_refused_and_not_silently_wrong() -> None:
    model = net()
    optimizer = compiled(model)
    train(model, optimizer, steps=1)
    loss = model(torch.randn(8, 20)).square().mean()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_model_in_torch_compile_quantizes_by_itself() -> None:
    model = net()
    optimizer = compiled(model)
    train(model, optimizer, steps=2)
    x = torch.randn(8, 20)
    whole = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(x), model(x))


def checkpointed(model: nn.Module, x: Tensor) -> Tensor:
    return checkpoint(model, x, use_reentrant=False)


def plainly(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


@pytest.mark.parametrize("name", ["sign", "stochastic"])
def test_checkpointing_repeats_a_pass_with_its_prepared_weights(name: str) -> None:
    gradients = []
    for call in (plainly, checkpointed):
        model = net(name)
        optimizer = compiled(model)
        train(model, optimizer, steps=2)
        for step in range(2):  # the draws of the first pass after a step are prepared
            x = torch.randn(16, 20, generator=torch.Generator().manual_seed(step), requires_grad=True)
            optimizer.zero_grad()
            call(model, x).square().sum().backward()
            assert x.grad is not None
            gradients.append(x.grad)
            optimizer.step()
    assert torch.equal(gradients[0], gradients[2])
    assert torch.equal(gradients[1], gradients[3])


def test_checkpointing_of_several_passes_with_random_weights_is_refused() -> None:
    """Only the first of them had the prepared draw, and none knows which it repeats."""
    model = net("stochastic")
    train(model, compiled(model), steps=2)
    x = torch.randn(16, 20, requires_grad=True)
    both = checkpointed(model, x).sum() + checkpointed(model, x).sum()
    with pytest.raises(TrainingError, match="checkpointing repeats one of several forward passes"):
        both.backward()
