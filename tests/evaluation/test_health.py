"""Training health: what is measured of each layer, that looking changes nothing, and what is warned of."""

from __future__ import annotations

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from onebit.evaluation.health import (
    CHANCES,
    HealthWatch,
    binary_signs,
    constant_inputs,
    gradient_health,
    layer_health,
    whole_share,
)
from onebit.evaluation.losses import cross_entropy
from onebit.layers import BinaryLinear, InputCoding, binarize_, binary_layers
from onebit.models import MLP, create_model
from onebit.optim import clip_latents_, latent_groups
from onebit.quantizers import SteSign
from onebit.train.loop import fit
from support.toy_training import DATA, Case, build, flat, toy_data

X = torch.from_numpy(DATA.train.images[:32])
Y = torch.from_numpy(DATA.train.labels[:32])


def health(model: nn.Module, x: Tensor = X, y: Tensor = Y) -> dict[str, dict[str, float]]:
    return gradient_health(model, x, y, precision="fp32")


# ----------------------------------------------------------------------------------------------- flips and saturation
def mlp(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return MLP((16, 12, 4), **options)  # type: ignore[arg-type]


def test_signs_are_read_from_what_ships() -> None:
    model = mlp()
    signs = binary_signs(model)
    assert list(signs) == ["linear1", "linear2"]
    assert torch.equal(signs["linear1"], model.linear1.weight >= 0)
    assert binary_signs(mlp(weight_quantizer=None)) == {}


# ------------------------------------------------------------------------------------------------------------ measures
def test_every_layer_of_every_epoch_is_measured() -> None:
    history = build(Case("ste_sign", inputs="ste_sign")).fit(DATA)
    every = {"flip_ratio", "saturation", "zero_gradients"}
    for row in history:
        assert {name: set(measured) for name, measured in row.layers.items()} == {
            "linear1": every,
            "linear2": every | {"input_saturation"},
            "linear3": every | {"input_saturation"},
        }
        assert all(0 <= share <= 1 for measured in row.layers.values() for share in measured.values())
        sizes = [64 * 20, 20 * 12, 12 * 4]
        for measure, total in (("flip_ratio", row.flip_ratio), ("saturation", row.saturation)):
            counts = [size * own[measure] for size, own in zip(sizes, row.layers.values(), strict=True)]
            assert sum(counts) / sum(sizes) == pytest.approx(total)


def test_flips_and_saturation_are_those_of_the_layer() -> None:
    model = build(Case("sign")).model
    before = binary_signs(model)
    with torch.no_grad():
        model.linear1.weight[0, :5] *= -1
        model.linear2.weight[0, :3].sign_()
        model.linear2.weight[1, :3].sign_().mul_(2)
        model.linear3.weight[:, 0] *= -1
    found = layer_health(model, before, binary_signs(model), {"linear1": {"zero_gradients": 0.5}})
    assert found["linear1"] == {"flip_ratio": 5 / 1280, "saturation": 0, "zero_gradients": 0.5}
    assert found["linear2"] == {"flip_ratio": 0, "saturation": 6 / 240}
    assert found["linear3"]["flip_ratio"] == 4 / 48
    # counts are summed over layers, then divided
    assert whole_share(model, found, "flip_ratio") == (5 + 4) / (1280 + 240 + 48)
    assert whole_share(model, found, "saturation") == 6 / (1280 + 240 + 48)
    assert whole_share(mlp(weight_quantizer=None), {}, "flip_ratio") == 0


def test_zero_gradients_and_cut_inputs_are_counted_by_hand() -> None:
    torch.manual_seed(0)
    model = build(Case("ste_sign", inputs="ste_sign")).model
    with torch.no_grad():
        model.linear1.weight[:10] = 1.5  # beyond the cut of the surrogate gradient
    found = health(model)
    twin = copy.deepcopy(model).train()
    seen: dict[str, Tensor] = {}
    for name in ("linear2", "linear3"):
        getattr(twin, name).register_forward_pre_hook(lambda layer, inputs, name=name: seen.update({name: inputs[0]}))
    cross_entropy(twin(X), Y).backward()
    for name, layer in binary_layers(twin):
        assert found[name]["zero_gradients"] == float((layer.weight.grad == 0).float().mean())
    assert found["linear1"]["zero_gradients"] >= 0.5
    for name, x in seen.items():
        assert found[name]["input_saturation"] == pytest.approx(float((x.abs() > 1).float().mean()))


def test_binary_inputs_of_real_weights_are_measured() -> None:
    model = create_model("mlp", widths=(64, 8, 4), weight_quantizer=None, input_quantizer="ste_sign")
    assert set(health(model)) == {"linear2"}
    assert health(build(Case(None)).model) == {}


def test_gradient_health_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(5)
    model = build(Case("stochastic", generator=True, dropout=0.5)).model.eval()
    model.generator = generator
    model.linear1.register_forward_hook(lambda layer, inputs, output: output * (random.random() + np.random.random()))
    numbers = random.getstate(), repr(np.random.get_state())
    before = flat(model.state_dict()), torch.get_rng_state().tolist(), generator.get_state().tolist()
    hooks = [list(module._forward_pre_hooks) for module in model.modules()]
    health(model)
    assert (flat(model.state_dict()), torch.get_rng_state().tolist(), generator.get_state().tolist()) == before
    assert (random.getstate(), repr(np.random.get_state())) == numbers
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [list(module._forward_pre_hooks) for module in model.modules()] == hooks


def test_logits_too_large_for_a_gradient_are_left_out() -> None:
    model = nn.Sequential(InputCoding(), nn.Flatten(), BinaryLinear(64, 4, weight_quantizer="sign"))
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].weight[1:].sub_(1)
    ones = torch.full_like(X, 255)
    assert health(model, ones, torch.zeros_like(Y)) == {}


# ------------------------------------------------------------------------------------------------------------ warnings
def watch(*, lr: float = 0.1, latent_clip: float | str | None = "value", quantizer: str = "ste_sign") -> HealthWatch:
    model = create_model("mlp", widths=(64, 200, 4), weight_quantizer=quantizer, input_quantizer="ste_sign")
    return HealthWatch(model, torch.optim.SGD(latent_groups(model, lr=lr, latent_clip=latent_clip), lr=lr))


def read(watching: HealthWatch, *, steps: int = 100, **measured: float) -> list[str]:
    return watching.read({"linear1": {"flip_ratio": 0.1, **measured}}, epoch=3, steps=steps)


@pytest.mark.parametrize(
    ("measured", "noun"),
    [
        ({"zero_gradients": 0.99, "input_saturation": 0.99, "saturation": 1.0}, None),
        ({"flip_ratio": 0.0}, "sign"),
        ({"zero_gradients": 1.0, "flip_ratio": 0.0}, "all gradients"),
        ({"input_saturation": 1.0}, "surrogate"),
    ],
)
def test_a_dead_layer_gets_one_warning(measured: dict[str, float], noun: str | None) -> None:
    watching = watch()
    if noun is None:
        assert read(watching, **measured) == []
        return
    (text,) = read(watching, **measured)
    assert text.startswith("epoch 3: ")
    assert noun in text
    assert text.endswith(": linear1")
    assert read(watching, **measured) == []


def test_no_flips_are_no_warning_late_without_a_rate_or_by_accident() -> None:
    frozen = watch()
    for group in frozen.optimizer.param_groups:
        group["lr"] = 0.0
    assert read(frozen, flip_ratio=0.0) == []
    few = CHANCES // (64 * 200) or 1
    assert read(watch(), flip_ratio=0.0, steps=0) == []
    assert read(watch(), flip_ratio=0.0, steps=few) != []


def test_a_missing_latent_clip_is_a_warning_once_latents_are_beyond_their_bound() -> None:
    for clip, outside, warned in (("value", True, False), (None, False, False), (None, True, True)):
        watching = watch(latent_clip=clip)
        if outside:
            with torch.no_grad():
                watching.model.get_submodule("linear1").weight[0, 0] = 1.01
        text = "".join(read(watching))
        assert ("beyond ±1" in text) is warned


def test_a_training_warns_of_a_layer_that_gets_no_gradient() -> None:
    torch.manual_seed(0)
    model = create_model("mlp", widths=(64, 20, 4), weight_quantizer="ste_sign")
    with torch.no_grad():
        model.linear1.weight.fill_(1.5)
    optimizer = clip_latents_(torch.optim.SGD(latent_groups(model, lr=0.01, latent_clip=None), lr=0.01))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(model, toy_data(), optimizer, epochs=2, batch_size=32)
    texts = [str(warning.message) for warning in caught]
    assert ["all gradients" in text for text in texts] == [True, False]
    assert texts[1].endswith(": linear1, linear2")
    assert history.rows[1].layers["linear1"]["zero_gradients"] == 1


# ------------------------------------------------------------------------------- binary inputs that are all one sign
def net(between: nn.Module, *, inputs: str = "ste_sign") -> nn.Module:
    """Three dense layers, 64-16-8-4, with BatchNorm and `between` after the first two."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [InputCoding(), nn.Flatten()]
    for wide, narrow in ((64, 16), (16, 8)):
        layers += [nn.Linear(wide, narrow), nn.BatchNorm1d(narrow), copy.deepcopy(between)]
    return binarize_(nn.Sequential(*layers, nn.Linear(8, 4)), input_quantizer=inputs).model


@pytest.mark.parametrize(
    ("between", "inputs", "found"),
    [
        (nn.ReLU(), "ste_sign", ["5", "8"]),
        (nn.Sigmoid(), "rsign", ["5", "8"]),
        (nn.Softplus(), "adabin", ["5", "8"]),
        (nn.Identity(), "ste_sign", []),
        (nn.Hardtanh(), "rsign", []),
    ],
)
def test_constant_signs_of_values_that_are_never_negative(between: nn.Module, inputs: str, found: list[str]) -> None:
    assert constant_inputs(net(between, inputs=inputs), X) == found


def test_the_statistics_of_a_new_net_do_not_count() -> None:
    """All images are dark: without statistics of theirs a unit would have one sign for all of them."""
    model = net(nn.Identity())
    with torch.no_grad():
        model[2].weight.copy_(torch.rand_like(model[2].weight))
    dark = X // 32
    model.eval()
    assert float(model[:4](dark).detach().max()) < 0
    assert constant_inputs(model, dark) == []


def test_a_sign_is_found_as_a_layer_and_nothing_changes() -> None:
    head = [InputCoding(), nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU()]
    model = nn.Sequential(*head, SteSign(), nn.Linear(16, 4)).train()
    before, stream = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert constant_inputs(model, X) == ["5"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert constant_inputs(nn.Sequential(*head, BinaryLinear(16, 4)), X) == []


def test_constant_inputs_of_dicts_of_tensors() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net(nn.ReLU())

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.net(image)

    assert constant_inputs(Named(), {"image": X}) == ["net.5", "net.8"]
    assert constant_inputs(Named(), {"image": X[:1]}) == []
    assert constant_inputs(Named(), {"other": X}) == []
