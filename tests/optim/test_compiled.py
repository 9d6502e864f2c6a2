"""The compiled update: equal to eager training, and what it does not know stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import UsageError
from onebit.layers import BinaryConv2d, BinaryLinear, binary_layers
from onebit.optim import clip_latents_, compile_update_, latent_groups, prox_latents_
from onebit.optim.compiled import QUANTIZERS
from onebit.quantizers import WEIGHT_QUANTIZERS, Quantizer, Sign, SteSign, Stochastic, sign
from onebit.recipe import ModelRecipe, OptimizerRecipe, Recipe
from onebit.runs.optimizer import build_optimizer
from onebit.train.precision import lay_out_state_
from support.compiled_training import DETERMINISTIC, adam, assert_same_training, compiled, latents, net, prepared, train
from support.covering import covering

# torch.compile uses what torch itself has deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


# ------------------------------------------------------------------------------------------------- the same as eager
@pytest.mark.parametrize(("quantizer", "backend"), covering(product(DETERMINISTIC, ["eager", "aot_eager"])))
def test_it_equals_eager_training(quantizer: str, backend: str) -> None:
    assert_same_training(quantizer, backend=backend)


def test_it_equals_eager_training_with_other_values_clips_and_rates() -> None:
    assert_same_training("sign", backend="eager", value=0.25)
    assert_same_training("sign", backend="eager", latent_clip=0.05)
    assert_same_training("sign", backend="eager", latent_clip=None)
    assert_same_training("sign", backend="eager", lr_scale="glorot", lr=1e-3)


@pytest.mark.nightly
@pytest.mark.parametrize("quantizer", DETERMINISTIC)
def test_it_equals_eager_training_when_really_compiled(quantizer: str) -> None:
    assert_same_training(quantizer, backend="inductor")


@pytest.mark.nightly
def test_compiled_draws_are_those_of_the_same_function_run_eagerly() -> None:
    slow, fast = net("stochastic"), net("stochastic")
    for model, backend in ((slow, "eager"), (fast, "inductor")):
        optimizer = compiled(model, backend=backend)
        torch.manual_seed(1)
        train(model, optimizer, steps=1)
    for a, b in zip(prepared(slow), prepared(fast), strict=True):
        # a rounding of the latent moves a draw once in millions
        assert int((a.weight != b.weight).sum()) == 0


@pytest.mark.parametrize("quantizer", [name for name, kind in WEIGHT_QUANTIZERS.items() if kind in QUANTIZERS])
def test_convolutions_keep_the_memory_format_that_they_get_later(quantizer: str) -> None:
    def conv_net() -> nn.Sequential:
        torch.manual_seed(0)
        layers = [BinaryConv2d(i, o, 3, weight_quantizer=quantizer) for i, o in ((3, 8), (8, 5))]
        return nn.Sequential(layers[0], nn.BatchNorm2d(8), layers[1], nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def train_images(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        generator = torch.Generator().manual_seed(1)
        for step in range(6):
            if step == 2:
                model.to(memory_format=torch.channels_last)
                lay_out_state_(optimizer)
            x = torch.randn(8, 3, 6, 6, generator=generator)
            F.cross_entropy(model(x), x[:, 0, 0, :5].argmax(dim=1)).backward()
            optimizer.step()
            optimizer.zero_grad()

    eager, fast = conv_net(), conv_net()
    train_images(eager, clip_latents_(adam(eager)))
    train_images(fast, compiled(fast))
    for latent, other, one in zip(latents(fast), latents(eager), prepared(fast), strict=True):
        weight = one.weight
        assert weight.stride() == latent.stride()
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert bool((weight.abs() == 1).all())
        if quantizer in DETERMINISTIC:
            assert torch.equal(weight, sign(latent))
            torch.testing.assert_close(latent, other, rtol=0, atol=1e-6)


def test_a_latent_with_gaps_in_memory_is_updated_too() -> None:
    dense, gaps = BinaryLinear(6, 4), BinaryLinear(6, 4)
    gaps.weight = nn.Parameter(dense.weight.detach().repeat_interleave(2, dim=1)[:, ::2])
    for layer in (dense, gaps):
        optimizer = compiled(layer)
        for step in range(3):
            layer(torch.full((2, 6), 1.0 + step)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not gaps.weight.is_contiguous()
    torch.testing.assert_close(gaps.weight, dense.weight, rtol=0, atol=1e-6)


def test_the_clip_holds_and_is_reached() -> None:
    model = net()
    train(model, compiled(model, lr=2.0), steps=3)
    assert all(float(latent.abs().max()) == 1 for latent in latents(model))


def test_a_schedule_compiles_nothing_anew() -> None:
    graphs = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    model = net()
    optimizer = compiled(model, backend=counting)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
    for step in range(5):
        train(model, optimizer, first=step, steps=1)
        schedule.step()
    assert len(graphs) == 1


def test_the_twelfth_net_of_a_process_is_compiled_too() -> None:
    graphs = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    for width in range(2, 14):
        layer = BinaryLinear(3, width)
        optimizer = compiled(layer, backend=counting)
        layer.weight.grad = torch.ones_like(layer.weight)
        optimizer.step()
    assert len(graphs) == 12


# ------------------------------------------------------------------------------------------- what stays as it was
class Rounded(Quantizer):
    """A quantizer that the compiled update does not know."""

    def forward(self, latent: Tensor) -> Tensor:
        return latent + (sign(latent) - latent).detach()


def test_quantizers_it_does_not_know_train_eagerly_beside_it() -> None:
    def mixed() -> nn.Sequential:
        model = net()
        model[3].weight_quantizer = Rounded()
        return model

    eager, fast = mixed(), mixed()
    train(eager, clip_latents_(adam(eager)))
    train(fast, compiled(fast))
    for a, b in zip(latents(eager), latents(fast), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert [one is None for one in prepared(fast)] == [False, True, False]


def test_a_draw_is_no_weight_of_a_sign_layer_with_the_same_latent() -> None:
    drawn, fixed = BinaryLinear(20, 20, weight_quantizer="stochastic"), BinaryLinear(20, 20)
    fixed.weight = drawn.weight
    model = nn.Sequential(drawn, fixed)
    train(model, compiled(model), steps=2)
    assert torch.equal(fixed.effective_weight(), sign(fixed.weight))


def test_a_shared_quantizer_and_a_tied_latent_are_right_if_not_fast() -> None:
    def shared() -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(*(BinaryLinear(20, 20, weight_quantizer="sign") for _ in range(4)))
        model[1].weight_quantizer = model[0].weight_quantizer
        model[3].weight = model[2].weight
        return model

    eager, fast = shared(), shared()
    train(eager, clip_latents_(adam(eager)), steps=5)
    train(fast, compiled(fast), steps=5)
    for a, b in zip(latents(eager), latents(fast), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_step_with_a_closure_is_torchs_own() -> None:
    eager, fast = net(), net()
    for model, optimizer in ((eager, clip_latents_(adam(eager))), (fast, compiled(fast))):

        def closure(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = model(torch.ones(4, 20) * torch.arange(4.0).unsqueeze(1)).square().mean()
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
    for a, b in zip(latents(eager), latents(fast), strict=True):
        assert torch.equal(a, b)


def test_latents_without_a_gradient_stay() -> None:
    model = net()
    optimizer = compiled(model)
    before = [latent.clone() for latent in latents(model)]
    optimizer.step()
    (model[0].weight.sum() * 2).backward()
    optimizer.step()
    after = latents(model)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert model[0].weight.grad is None


def test_every_quantizer_of_the_package_is_known_to_it() -> None:
    from onebit.optim.compiled import QUANTIZERS

    assert set(QUANTIZERS) == {Sign, SteSign, Stochastic}
    assert set(WEIGHT_QUANTIZERS.values()) >= set(QUANTIZERS)
    assert all(kind.random == drawn for kind, drawn in QUANTIZERS.items())


def test_a_prox_that_comes_later_is_applied() -> None:
    model = net()
    optimizer = compile_update_(torch.optim.Adam(latent_groups(model, lr=0.01)), model, backend="eager")
    prox_latents_(optimizer, growth=1e3)
    model(torch.randn(4, 20)).square().sum().backward()
    optimizer.step()
    assert all(bool((layer.weight.abs() == 1).all()) for _, layer in binary_layers(model))


# --------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize("settings", [{"weight_decay": 0.1}, {"amsgrad": True}, {"maximize": True}])
def test_settings_that_it_does_not_know_train_eagerly(settings: dict[str, Any]) -> None:
    eager, fast = net(), net()
    for model, compile_it in ((eager, clip_latents_), (fast, lambda one, model=fast: compile_update_(one, model))):
        optimizer = torch.optim.Adam(latent_groups(model, lr=0.01))
        for group in optimizer.param_groups:
            group.update(settings)
        train(model, compile_it(optimizer), steps=3)
    assert all(torch.equal(a, b) for a, b in zip(latents(eager), latents(fast), strict=True))


@pytest.mark.parametrize(("optimizer", "count"), [(torch.optim.SGD, 4), (torch.optim.Adam, 0)])
def test_what_cannot_be_compiled_is_told(optimizer: Any, count: int) -> None:
    model = net() if count else nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="compiled update"):
        compile_update_(optimizer(model.parameters(), lr=0.1), model)


def test_a_machine_without_a_compiler_changes_nothing() -> None:
    def failing(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        raise RuntimeError("No working C++ compiler found")

    model = net()
    before = [latent.clone() for latent in latents(model)]
    with pytest.raises(Exception, match=r"No working C\+\+ compiler found"):
        train(model, compiled(model, backend=failing), steps=1)
    assert all(torch.equal(a, b) for a, b in zip(before, latents(model), strict=True))


def test_a_recipe_compiles_only_when_it_says_so() -> None:
    for flag in (False, True):
        recipe = Recipe(model=ModelRecipe(widths=(4, 4, 2)), optimizer=OptimizerRecipe(compile=flag), precision="fp32")
        optimizer = build_optimizer(recipe, net(), count=64, steps_per_epoch=4)
        names = [hook.__qualname__ for hook in optimizer._optimizer_step_pre_hooks.values()]
        assert ("compile_update_.<locals>.update_latents" in names) == flag
    with pytest.raises(UsageError, match="SGD"):
        build_optimizer(Recipe(optimizer=OptimizerRecipe(name="sgd", compile=True)), net(), count=64, steps_per_epoch=4)
