"""A training step on the GPU: every method on every kind of layer agrees with the CPU, and no step waits for it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onebit.layers import binarize_, binary_layers
from onebit.recipe import Recipe, methods
from support.layer_kinds import LAYERS, First
from support.method_steps import NETS, Steps, recipe_of, steps, whole_net

# warnings that only a torch with CUDA has are shown, and fail nothing
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

PRECISIONS = {"fp32": 0.01, "bf16": 0.05}
"""The largest relative difference of first losses: binary activations near 0 turn with the last bit of a sum."""


def layer_net(recipe: Recipe, kind: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A net around a binary layer of a kind, and a batch."""
    torch.manual_seed(0)
    build, shape = LAYERS[kind]
    x = torch.randn(shape)
    layer = First(build())
    size = layer(x).reshape(-1).numel()
    quantizer = recipe.model.weight_quantizer
    if quantizer is not None:
        binarize_(layer, weight_quantizer=quantizer, input_quantizer=recipe.model.input_quantizer)
    # the batch of a sequence is not its first axis: the whole output is one sample, twice
    return nn.Sequential(layer, Doubled(size), nn.Linear(size, 4)), x, torch.tensor([1, 3])


class Doubled(nn.Module):
    """A tensor as two samples: itself, and its negative."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(1, self.size)
        return torch.cat([flat, -flat])


def draws(model: nn.Module) -> bool:
    return any(layer.weight_quantizer.random for _, layer in binary_layers(model))  # type: ignore[union-attr]


def turned(found: Any, expected: Any, start: Any) -> int:
    """The numbers of a state_dict that differ by more than a tenth of the largest step of their tensor."""
    count = 0
    for name, there in expected.items():
        size = float((there - start[name]).abs().max())
        count += int(((found[name].cpu() - there).abs() > 0.1 * size + 1e-6).sum())
    return count


def rounded(steps: Steps, seed: int) -> dict[str, Any]:
    """The weights after two steps from latents that differ by as much as float32 rounds."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in steps.training.model.parameters():
            parameter.mul_(1 + 3e-7 * torch.randn(parameter.shape, generator=generator))
    steps.take(2, "fp32")
    return steps.training.model.state_dict()


def assert_agree(on_gpu: Steps, on_cpu: Steps, nudged: Callable[[], Steps], *, precision: str) -> None:
    """Two steps on both devices: losses agree, and in float32 the weights, but for some that rounding turned.

    Args:
        nudged: makes another net, on the CPU. AdaBin's turns half of its numbers where latents differ by 3e-7, Bop's a
            sixth where one of its weights flips in the first step.
    """
    net = on_cpu.training.model
    start = copy.deepcopy(net.state_dict())
    losses, expected = on_gpu.take(2, precision), on_cpu.take(2, precision)
    assert all(map(math.isfinite, losses))
    found = on_gpu.training.model.state_dict()
    assert all(here.device == on_gpu.x.device for here in found.values())
    assert any((here.cpu() != start[name]).any() for name, here in found.items())
    if draws(net):  # another generator has other draws
        return
    assert losses[0] == pytest.approx(expected[0], rel=PRECISIONS[precision])
    if precision == "fp32":
        assert losses[1] == pytest.approx(expected[1], rel=0.05, abs=0.02)
        binary_inputs = any(layer.input_quantizer is not None for _, layer in binary_layers(net))
        most = (0.1 if binary_inputs else 0.02) * sum(x.numel() for x in start.values())
        if (count := turned(found, net.state_dict(), start)) > most:
            assert count <= max(turned(rounded(nudged(), seed), net.state_dict(), start) for seed in range(4))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("method", methods())
def test_every_method_trains_every_kind_of_layer_as_on_the_cpu(
    method: str, kind: str, precision: str, gpu: torch.device
) -> None:
    if gpu.type != "cuda" and kind.startswith(("lstm", "gru")):
        pytest.skip("the kernels of these layers are for CUDA")
    recipe = recipe_of(method)
    net = layer_net(recipe, kind)
    both: Any = [steps(recipe, *net, device) for device in (gpu, torch.device("cpu"))]
    assert_agree(*both, lambda: steps(recipe, *net, torch.device("cpu")), precision=precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", methods())
def test_whole_nets_train_as_on_the_cpu(method: str, net: str, precision: str, gpu: torch.device) -> None:
    recipe = recipe_of(method, net)
    made = whole_net(recipe, net)
    both: Any = [steps(recipe, *made, device) for device in (gpu, torch.device("cpu"))]
    assert_agree(*both, lambda: steps(recipe, *made, torch.device("cpu")), precision=precision)


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("method", methods())
def test_no_step_waits_for_the_gpu(method: str, net: str, cuda: torch.device) -> None:
    recipe = recipe_of(method, net)
    trained = steps(recipe, *whole_net(recipe, net), cuda)
    trained.take(1, "bf16")  # the first one makes the state of the optimizer
    with no_waiting():
        trained.step("bf16")


def test_every_optimizer_has_a_state_on_the_gpu(gpu: torch.device) -> None:
    for method in ("binaryconnect", "irnet", "bop", "bayesbinn"):
        recipe = recipe_of(method)
        trained = steps(recipe, *whole_net(recipe, "mlp"), gpu)
        trained.take(1, "fp32")
        for parameter, state in trained.training.optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.dim():
                    assert value.device == parameter.device, name
