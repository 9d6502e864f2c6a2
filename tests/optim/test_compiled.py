"""The compiled update: equal to eager training, its weights used only where they fit, its draws fair, resume exact.

Most tests compile with the backend "eager", which runs the same Python function operator by operator.
"""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.data import Dataset, make_toy
from onebit.errors import UsageError
from onebit.layers import BinaryConv2d, BinaryLinear, binary_layers
from onebit.models import create_model
from onebit.optim import clip_latents_, compile_update_, latent_groups
from onebit.optim.compiled import QUANTIZERS
from onebit.precision import lay_out_state_
from onebit.quantizers import WEIGHT_QUANTIZERS, Quantizer, Sign, SteSign, Stochastic, sign
from onebit.recipe import ModelRecipe, OptimizerRecipe, Recipe
from onebit.train.history import EpochLog
from onebit.train.loop import fit
from onebit.train.optimizers import build_optimizer

# torch.compile uses what torch itself has deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

DETERMINISTIC = ("sign", "ste_sign")
STEPS = 30


def net(quantizer: Any = "sign", *, value: float = 1.0) -> nn.Sequential:
    """Three binary layers of several shapes, BatchNorm, and a real layer with a bias at the end."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((20, 33), (33, 48), (48, 16)):
        layer = BinaryLinear(inputs, outputs, weight_quantizer=quantizer, value=value)
        layers += [layer, nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(16, 5))


def adam(model: nn.Module, *, lr: float = 1e-2, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(latent_groups(model, lr=lr, **options), fused=True)


def compiled(model: nn.Module, *, backend: Any = "eager", lr: float = 1e-2, **options: Any) -> torch.optim.Optimizer:
    return compile_update_(adam(model, lr=lr, **options), model, precision="fp32", backend=backend)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, *, first: int = 0, steps: int = STEPS) -> None:
    """Steps whose data depend on their number only; the rate falls, as under a schedule."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(64, 20, generator=generator)
        F.cross_entropy(model(x), x[:, :5].argmax(dim=1)).backward()
        optimizer.step()
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] *= 0.98


def latents(model: nn.Module) -> list[Tensor]:
    return [layer.weight.detach() for _, layer in binary_layers(model)]


def quantizers(model: nn.Module) -> list[Quantizer]:
    return [layer.weight_quantizer for _, layer in binary_layers(model) if layer.weight_quantizer is not None]


def used_weights(model: nn.Module) -> list[Tensor]:
    """The weights that a forward pass multiplies with."""
    found: list[Tensor] = []
    hooks = [q.register_forward_hook(lambda _, __, weight: found.append(weight.detach())) for q in quantizers(model)]
    model(torch.randn(8, 20))
    for hook in hooks:
        hook.remove()
    return found


def assert_same_training(quantizer: str, *, backend: str, value: float = 1.0, **options: Any) -> None:
    eager, fast = net(quantizer, value=value), net(quantizer, value=value)
    train(eager, clip_latents_(adam(eager, **options)))
    train(fast, compiled(fast, backend=backend, **options))
    for (name, a), b in zip(eager.state_dict().items(), fast.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    for a, b in zip(latents(eager), latents(fast), strict=True):
        assert torch.equal(sign(a), sign(b))
    moved = [
        bool((sign(a) != sign(b)).any())
        for a, b in zip(latents(fast), latents(net(quantizer, value=value)), strict=True)
    ]
    assert all(moved)


# ------------------------------------------------------------------------------------------------- the same as eager
@pytest.mark.parametrize("quantizer", DETERMINISTIC)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
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
    for a, b in zip(quantizers(slow), quantizers(fast), strict=True):
        assert a.prepared is not None
        assert b.prepared is not None
        # a rounding of the latent moves a draw once in millions
        assert int((a.prepared.weight != b.prepared.weight).sum()) == 0


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
    for latent, other, layer in zip(latents(fast), latents(eager), quantizers(fast), strict=True):
        assert layer.prepared is not None
        weight = layer.prepared.weight
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


# --------------------------------------------------------------------------------------- the prepared weights are used
@pytest.mark.parametrize("name", ["sign", "ste_sign", "stochastic"])
def test_the_next_forward_pass_multiplies_with_the_prepared_weights_once(name: str) -> None:
    model = net(name)
    train(model, compiled(model), steps=2)
    prepared = [q.prepared.weight for q in quantizers(model) if q.prepared is not None]
    assert len(prepared) == 3
    first, second = used_weights(model), used_weights(model)
    assert [w.data_ptr() for w in first] == [w.data_ptr() for w in prepared]
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
    before = [q.prepared.weight.clone() for q in quantizers(model) if q.prepared is not None]
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
    optimizer = compile_update_(adam(model), model, precision="bf16", backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(64, 20)).float().square().mean().backward()
    optimizer.step()
    prepared = [q.prepared for q in quantizers(model)]
    with torch.autocast("cpu", torch.bfloat16):
        used = used_weights(model)
    for p, weight in zip(prepared, used, strict=True):
        assert p is not None
        assert weight.dtype == torch.bfloat16
        assert weight.data_ptr() == p.weight.data_ptr()
    for quantizer, p in zip(quantizers(model), prepared, strict=True):
        quantizer.prepared = p
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


# ---------------------------------------------------------------------------------------------------------------- draws
@pytest.mark.parametrize("value", [1.0, 0.25])
def test_draws_have_the_probability_of_their_latent(value: float) -> None:
    levels = torch.tensor([-1.0, -0.9, -0.5, 0.0, 0.25, 0.999, 1.0])
    layer = BinaryLinear(1 << 17, len(levels), weight_quantizer="stochastic", value=value)
    with torch.no_grad():
        layer.weight.copy_((levels * value).unsqueeze(1).expand_as(layer.weight))
    optimizer = compiled(layer, lr=1e-20)
    torch.manual_seed(3)
    draws = []
    for _ in range(4):
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step()
        assert layer.weight_quantizer is not None
        assert layer.weight_quantizer.prepared is not None
        draws.append(layer.weight_quantizer.prepared.weight / value)
        assert bool((draws[-1].abs() == 1).all())
        draws[-1] = draws[-1].clone()
    drawn = torch.stack(draws).double()  # (step, level, index)
    p = (levels.double() + 1) / 2
    sigma = (p * (1 - p)).sqrt()
    count = drawn[:, 0].numel()
    assert bool((drawn[:, 0] == -1).all())
    assert bool((drawn[:, -1] == 1).all())
    assert bool(((drawn == 1).double().mean(dim=(0, 2)) - p).abs().le(5 * sigma / math.sqrt(count)).all())
    noise = (drawn[:, 1:-1] - drawn[:, 1:-1].mean(dim=2, keepdim=True)) / (2 * sigma[1:-1, None])
    limit = 5 / math.sqrt(1 << 17)
    for a, b in ((noise[:-1], noise[1:]), (noise[..., :-1], noise[..., 1:]), (noise[..., 64:], noise[..., :-64])):
        assert bool((a * b).mean(dim=-1).abs().lt(limit).all()), "steps or neighbours are correlated"
    assert bool((noise[:, 1:] * noise[:, :-1]).mean(dim=-1).abs().lt(limit).all()), "rows are correlated"


def test_layers_of_one_shape_draw_differently() -> None:
    model = nn.Sequential(*(BinaryLinear(64, 64, weight_quantizer="stochastic") for _ in range(2)))
    with torch.no_grad():
        for layer in model:
            layer.weight.zero_()
    optimizer = compiled(model, lr=1e-20)
    model(torch.zeros(2, 64)).sum().backward()
    optimizer.step()
    a, b = (q.prepared.weight for q in quantizers(model) if q.prepared is not None)
    assert 0.4 < float((a == b).float().mean()) < 0.6


def test_draws_come_from_torchs_generator_or_the_quantizers_own() -> None:
    def draw(*, seed: int, own: int | None) -> Tensor:
        quantizer = Stochastic(generator=None if own is None else torch.Generator().manual_seed(own))
        model = net(quantizer)[:1]
        optimizer = compiled(model)
        torch.manual_seed(seed)
        model[0].weight.grad = torch.zeros_like(model[0].weight)
        optimizer.step()
        assert quantizer.prepared is not None
        return quantizer.prepared.weight

    assert torch.equal(draw(seed=1, own=None), draw(seed=1, own=None))
    assert not torch.equal(draw(seed=1, own=None), draw(seed=2, own=None))
    assert torch.equal(draw(seed=1, own=7), draw(seed=2, own=7))
    assert not torch.equal(draw(seed=1, own=7), draw(seed=1, own=8))


# --------------------------------------------------------------------------------------------------- state and resuming
def assert_resumes(name: str, *, backend: str) -> None:
    one = net(name)
    optimizer = compiled(one, backend=backend)
    torch.manual_seed(5)
    train(one, optimizer, steps=6)
    saved = io.BytesIO()
    torch.save((one.state_dict(), optimizer.state_dict(), torch.get_rng_state()), saved)
    train(one, optimizer, first=6, steps=6)

    two = net(name)
    again = compiled(two, backend=backend)
    saved.seek(0)
    weights, state, rng = torch.load(saved, weights_only=True)
    two.load_state_dict(weights)
    again.load_state_dict(state)
    torch.set_rng_state(rng)
    train(two, again, first=6, steps=6)
    for (key, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("name", ["sign", "ste_sign", "stochastic"])
def test_a_resumed_run_agrees_bit_for_bit(name: str) -> None:
    assert_resumes(name, backend="eager")


@pytest.mark.parametrize("name", ["sign", "stochastic"])
def test_fit_goes_on_bit_for_bit_from_its_checkpoint(name: str, tmp_path: Path) -> None:
    images, held_out = make_toy(160, 32)
    data = Dataset("toy", images[:128], images[128:], held_out, tuple("abcd"))

    def run(folder: str, *, stop_after: int | None = None) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = create_model("mlp", widths=(64, 24, 4), weight_quantizer=name, dropout=0.1)

        def on_epoch(row: EpochLog) -> None:
            if row.epoch == stop_after:
                raise KeyboardInterrupt

        options: dict[str, Any] = {"epochs": 3, "batch_size": 32, "precision": "fp32", "resume": True}
        fit(model, data, compiled(model), folder=tmp_path / folder, on_epoch=on_epoch, **options)
        return model.state_dict()

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop_after=2)
    resumed = run("stopped")
    for key, tensor in whole.items():
        assert torch.equal(tensor, resumed[key]), key


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["sign", "stochastic"])
def test_a_resumed_run_agrees_bit_for_bit_when_really_compiled(name: str) -> None:
    assert_resumes(name, backend="inductor")


@pytest.mark.parametrize("first", ["eager", "compiled"])
def test_state_moves_between_eager_and_compiled_training(first: str) -> None:
    make: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
        "eager": lambda model: clip_latents_(adam(model)),
        "compiled": lambda model: compiled(model),
    }
    one, two, reference = net(), net(), net()
    optimizer = make[first](one)
    train(one, optimizer, steps=5)
    other = make["compiled" if first == "eager" else "eager"](two)
    two.load_state_dict(one.state_dict())
    other.load_state_dict(optimizer.state_dict())
    train(two, other, first=5, steps=5)
    train(reference, clip_latents_(adam(reference)), steps=10)
    for a, b in zip(latents(reference), latents(two), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_the_state_dict_holds_what_an_eager_one_holds() -> None:
    eager, fast = net(), net()
    optimizers = clip_latents_(adam(eager)), compiled(fast)
    for model, optimizer in zip((eager, fast), optimizers, strict=True):
        train(model, optimizer, steps=2)
    a, b = (optimizer.state_dict() for optimizer in optimizers)
    assert a["param_groups"] == b["param_groups"]
    assert [list(s) for s in a["state"].values()] == [list(s) for s in b["state"].values()]
    assert list(eager.state_dict()) == list(fast.state_dict())


def test_copies_start_without_prepared_weights() -> None:
    model = net()
    optimizer = compiled(model)
    train(model, optimizer, steps=2)
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    for twin in (copy.deepcopy(model), torch.load(saved, weights_only=False)):
        assert [q.prepared for q in quantizers(twin)] == [None] * 3
        assert all(torch.equal(a, b) for a, b in zip(latents(model), latents(twin), strict=True))


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
    assert [q.prepared is None for q in quantizers(fast)] == [False, True, False]


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


# --------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: torch.optim.SGD(model.parameters(), lr=0.1), "needs adam or adamw, got SGD"),
        (lambda model: torch.optim.Adam(model.parameters(), amsgrad=True), "knows no amsgrad of latents, got True"),
        (lambda model: torch.optim.AdamW(model.parameters()), "knows no weight_decay of latents, got 0.01"),
        (lambda model: torch.optim.Adam(model[-1].parameters()), "holds no latent"),
    ],
)
def test_what_cannot_be_compiled_is_told(make: Callable[[nn.Module], torch.optim.Optimizer], message: str) -> None:
    model = net()
    with pytest.raises(UsageError, match=message):
        compile_update_(make(model), model, precision="fp32")


def test_a_machine_without_a_compiler_is_told_in_one_line() -> None:
    def failing(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        raise RuntimeError("No working C++ compiler found")

    model = net()
    before = [latent.clone() for latent in latents(model)]
    with pytest.raises(
        UsageError, match=r"No working C\+\+ compiler found.*install g\+\+, or leave compile off"
    ) as caught:
        train(model, compiled(model, backend=failing), steps=1)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, latents(model), strict=True))


def test_a_recipe_compiles_only_when_it_says_so() -> None:
    for flag in (False, True):
        recipe = Recipe(model=ModelRecipe(widths=(4, 4, 2)), optimizer=OptimizerRecipe(compile=flag), precision="fp32")
        optimizer = build_optimizer(recipe, net(), images=64, steps_per_epoch=4)
        names = [hook.__qualname__ for hook in optimizer._optimizer_step_pre_hooks.values()]
        assert names == (["compile_update_.<locals>.update_latents"] if flag else [])
    with pytest.raises(UsageError, match="leave compile off"):
        build_optimizer(
            Recipe(optimizer=OptimizerRecipe(name="sgd", compile=True)), net(), images=64, steps_per_epoch=4
        )
