"""The draws of the compiled update are fair, and a resumed run goes on bit for bit."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onebit.data import Dataset, make_toy
from onebit.layers import BinaryLinear
from onebit.models import create_model
from onebit.optim import clip_latents_
from onebit.quantizers import Stochastic
from onebit.train.history import EpochLog
from onebit.train.loop import fit
from support.compiled_training import adam, compiled, latents, net, prepared, train
from support.covering import covering

# torch.compile uses what torch itself has deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


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
        draws.append(layer.weight.prepared.weight / value)
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
    a, b = (one.weight for one in prepared(model))
    assert 0.4 < float((a == b).float().mean()) < 0.6


def test_draws_come_from_torchs_generator_or_the_quantizers_own() -> None:
    def draw(*, seed: int, own: int | None) -> Tensor:
        quantizer = Stochastic(generator=None if own is None else torch.Generator().manual_seed(own))
        model = net(quantizer)[:1]
        optimizer = compiled(model)
        torch.manual_seed(seed)
        model[0].weight.grad = torch.zeros_like(model[0].weight)
        optimizer.step()
        return model[0].weight.prepared.weight

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


@pytest.mark.parametrize("name", covering(["sign", "ste_sign", "stochastic"], heavy={"sign"}))
def test_a_resumed_run_agrees_bit_for_bit(name: str) -> None:
    assert_resumes(name, backend="eager")


@pytest.mark.parametrize("name", covering(["sign", "stochastic"], heavy={"sign"}))
def test_fit_goes_on_bit_for_bit_from_its_checkpoint(name: str, tmp_path: Path) -> None:
    """Daily the quantizer whose draws must go on as well."""
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
    saved, parameters = io.BytesIO(), io.BytesIO()
    torch.save(model, saved)
    torch.save(dict(model.named_parameters()), parameters)
    saved.seek(0)
    parameters.seek(0)
    assert torch.load(parameters, weights_only=True).keys() == dict(model.named_parameters()).keys()
    for twin in (copy.deepcopy(model), torch.load(saved, weights_only=False)):
        assert not any(prepared(twin))
        assert all(torch.equal(a, b) for a, b in zip(latents(model), latents(twin), strict=True))
