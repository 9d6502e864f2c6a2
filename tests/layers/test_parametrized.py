"""Recurrent layers and attention with binary weights: torch's own code, keys, copies, compiler and fast paths."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import onebit
from onebit.errors import CheckpointError, UsageError
from onebit.evaluation.health import binary_signs, gradient_health, layer_health
from onebit.evaluation.modes import fixed_weights
from onebit.layers import binarize_, binary_layers, latent_keys
from onebit.models.parts import init_latents_
from onebit.optim import Bop, latent_groups
from onebit.quantizers import Stochastic, sign
from onebit.report.histograms import _model_layers
from onebit.runs.plain_state import plain_state_dict, save_plain
from onebit.train.weights import load_weights, read_weights, save_weights
from onebit.verification.inspection import inspect_file
from support.layer_kinds import First
from support.tensors import normal

CASES: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTM(8, 6, batch_first=True),
    "deep lstm": lambda: nn.LSTM(8, 6, num_layers=2, bidirectional=True, proj_size=3),
    "gru": lambda: nn.GRU(8, 6, num_layers=2, bias=False),
    "rnn": lambda: nn.RNN(8, 6, nonlinearity="relu", bidirectional=True),
    "lstm cell": lambda: nn.LSTMCell(8, 6),
    "gru cell": lambda: nn.GRUCell(8, 6, bias=False),
    "rnn cell": lambda: nn.RNNCell(8, 6),
    "attention": lambda: nn.MultiheadAttention(8, 2, batch_first=True),
    "other widths": lambda: nn.MultiheadAttention(8, 2, batch_first=True, kdim=6, vdim=4, add_bias_kv=True),
    "extra zeros": lambda: nn.MultiheadAttention(8, 2, batch_first=True, bias=False, add_zero_attn=True),
}
X = normal(3, 5, 8)
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")


@pytest.fixture(params=list(CASES))
def plain(request: pytest.FixtureRequest) -> nn.Module:
    """Every kind of layer."""
    torch.manual_seed(0)
    return First(CASES[request.param]())


@pytest.fixture(params=["deep lstm", "other widths"])
def large(request: pytest.FixtureRequest) -> nn.Module:
    """The kinds with the most weights."""
    torch.manual_seed(0)
    return First(CASES[request.param]())


def made_binary(net: nn.Module, quantizer: Any = "sign") -> nn.Module:
    return binarize_(copy.deepcopy(net), weight_quantizer=quantizer).model


def matrices(net: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in net.named_parameters() if p.dim() == 2}


def with_signs(net: nn.Module) -> nn.Module:
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for weight in matrices(twin).values():
            weight.copy_(sign(weight))
    return twin


@pytest.fixture
def lstm() -> nn.Module:
    torch.manual_seed(0)
    return made_binary(First(CASES["deep lstm"]()))


@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_those_of_torch_with_binary_weights(plain: nn.Module, training: bool) -> None:
    net, twin = made_binary(plain).train(training), with_signs(plain).train(training)
    expected = twin(X)
    out = net(X)
    assert torch.equal(out, expected)
    assert not torch.equal(out, plain.train(training)(X))
    incoming = normal(*expected.shape, seed=1)
    expected.backward(incoming)
    out.backward(incoming)
    layers = dict(binary_layers(net))
    assert layers.keys() == matrices(plain).keys()
    for name, weight in matrices(twin).items():
        assert isinstance(layers[name].weight, nn.Parameter)
        torch.testing.assert_close(layers[name].weight.grad, weight.grad)
    with torch.no_grad():  # torch has faster code for this
        torch.testing.assert_close(net(X), twin(X))


class Counted(Stochastic):
    calls = 0

    def forward(self, latent: Tensor) -> Tensor:
        type(self).calls += 1
        return super().forward(latent)


def test_each_weight_is_computed_once_in_a_pass(plain: nn.Module) -> None:
    passes = 2 if isinstance(getattr(plain, "layer", None), nn.RNNCellBase) else 1
    for training in (True, False):
        net = made_binary(plain, Counted).train(training)
        Counted.calls = 0
        net(X)
        assert Counted.calls == passes * len(list(binary_layers(net)))
        assert all(layer.held is None for _, layer in binary_layers(net))  # type: ignore[attr-defined]


def test_draws_come_from_the_generator(large: nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    net = made_binary(large, Stochastic(generator=generator))
    first, second = net(X), net(X)
    assert not torch.equal(first, second)
    generator.manual_seed(3)
    assert torch.equal(net(X), first)


def test_after_an_error_the_next_pass_computes_the_weights_again(lstm: nn.Module) -> None:
    expected = lstm(X)
    with pytest.raises(RuntimeError):
        lstm(X[..., :3])
    for _, layer in binary_layers(lstm):
        assert layer.held is None  # type: ignore[attr-defined]
    assert torch.equal(lstm(X), expected)


def test_a_weight_that_is_read_or_assigned_outside_of_a_pass(lstm: nn.Module) -> None:
    layer = lstm.layer
    part = onebit.layers.binary_parametrizations(layer)["weight_hh_l0"]
    assert part.weight is layer.parametrizations.weight_hh_l0.original
    assert torch.equal(part.binary_weight().signs, part.effective_weight())
    assert set(layer.weight_ih_l0.unique().tolist()) == {-1.0, 1.0}
    layer.weight_ih_l0 = torch.full_like(layer.weight_ih_l0, -0.25)
    assert torch.equal(layer.parametrizations.weight_ih_l0.original.detach(), torch.full((24, 8), -0.25))
    assert torch.equal(layer.weight_ih_l0, -torch.ones(24, 8))


def test_packed_sequences_and_unbatched_ones() -> None:
    torch.manual_seed(0)
    plain = nn.LSTM(8, 6)
    net, twin = made_binary(plain), with_signs(plain)
    packed = nn.utils.rnn.pack_padded_sequence(X.transpose(0, 1), torch.tensor([5, 3, 1]))
    assert torch.equal(net(packed)[0].data, twin(packed)[0].data)
    assert torch.equal(net(X[0])[0], twin(X[0])[0])


def test_keys_are_those_of_torchs_parametrizations_and_plain_ones_load(plain: nn.Module) -> None:
    net = made_binary(plain)
    keys = latent_keys(net)
    assert all(key.endswith(".original") for key in keys)
    assert {latent.plain_key for latent in keys.values()} == matrices(plain).keys()
    other = made_binary(plain)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    state = other.state_dict()
    assert state.keys() == net.state_dict().keys()
    net.load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(net(X), other(X))
    net.load_state_dict(plain.state_dict())  # strict: a real twin starts the training
    for key, (plain_key, _, layer) in latent_keys(net).items():
        assert torch.equal(layer.weight, plain.state_dict()[plain_key]), key
    with pytest.raises(RuntimeError, match="Unexpected key"):
        net.load_state_dict(plain.state_dict() | {"weight_ih_l9": X})


def test_weight_files_hold_the_latents_and_take_plain_keys(large: nn.Module, tmp_path: Path) -> None:
    net = made_binary(large)
    save_weights(tmp_path / "w.safetensors", net, {})
    again = made_binary(large)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    load_weights(again, read_weights(tmp_path / "w.safetensors")[0], source="w")
    assert torch.equal(again(X), net(X))
    load_weights(again, {key: value + 1 for key, value in large.state_dict().items()}, source="plain")
    first = next(iter(latent_keys(again).values()))
    assert torch.equal(first.layer.weight, large.state_dict()[first.plain_key] + 1)
    with pytest.raises(CheckpointError, match="net"):
        load_weights(again, {"other.weight": X}, source="w")
    found = inspect_file(tmp_path / "w.safetensors")
    assert {layer.name for layer in found.layers} == latent_keys(net).keys()


def test_the_plain_export_loads_into_plain_layers_and_is_binary(large: nn.Module, tmp_path: Path) -> None:
    net = made_binary(large, "xnor").eval()
    save_plain(net, tmp_path / "plain.safetensors")
    state = read_weights(tmp_path / "plain.safetensors")[0]
    twin = copy.deepcopy(large).eval()
    twin.load_state_dict(state)
    assert torch.equal(twin(X), net(X))
    found = inspect_file(tmp_path / "plain.safetensors")
    assert {layer.name for layer in found.layers} == matrices(large).keys()
    assert {layer.verdict for layer in found.layers} == {"binary"}


def test_copies_and_other_dtypes(large: nn.Module) -> None:
    net = made_binary(large)
    expected = net(X)
    twin = copy.deepcopy(net)
    twin.load_state_dict({key: value + 1 for key, value in large.state_dict().items()})
    assert torch.equal(net(X), expected), "the copy loads plain keys into itself"
    for plain_key, _, layer in latent_keys(twin).values():
        assert torch.equal(layer.weight, large.state_dict()[plain_key] + 1)
    found = torch.func.functional_call(net, {key: p.detach() for key, p in twin.named_parameters()}, (X,))
    torch.testing.assert_close(found, twin(X))
    assert not torch.equal(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(X).float(), expected, rtol=0.1, atol=0.1)
    wide = copy.deepcopy(net.double())
    assert wide(X.double()).dtype == torch.float64
    torch.testing.assert_close(wide(X.double()).float(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # asked by torch 2.15 itself
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler causes some itself
@pytest.mark.parametrize(("name", "whole"), [("attention", True), ("lstm", False)])
def test_compiled_equals_eager(name: str, whole: bool) -> None:
    """torch does not compile LSTM layers themselves: they run eagerly between two graphs."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    net = made_binary(First(CASES[name]()), "xnor")
    results = []
    for run in (net, torch.compile(net, backend="aot_eager", fullgraph=whole)):
        net.zero_grad()
        out = run(X)
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)])
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(eager, compiled)


def test_a_test_mode_fixes_the_weights(large: nn.Module) -> None:
    net = made_binary(large).eval()
    with fixed_weights(net, "latent"):
        torch.testing.assert_close(net(X), large.eval()(X))
    with fixed_weights(net, "binary"):
        torch.testing.assert_close(net(X), with_signs(large).eval()(X))
    with fixed_weights(net, "sample", generator=torch.Generator().manual_seed(0)):
        drawn = net(X)
        assert torch.equal(net(X), drawn)
    assert not torch.equal(net(X), drawn)


def test_groups_health_and_initialization_use_the_latents(large: nn.Module) -> None:
    net = made_binary(large)
    groups = latent_groups(net, lr=0.1, lr_scale="glorot")
    latents = {id(layer.weight) for _, layer in binary_layers(net)}
    assert {id(p) for group in groups if group["latent"] for p in group["params"]} == latents
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(id(p) for p in net.parameters())
    for _, layer in binary_layers(net):
        init_latents_(layer, "uniform")
    assert 0 < max(float(layer.weight.detach().abs().max()) for _, layer in binary_layers(net)) <= 1
    before = binary_signs(net)
    assert all(measured["saturation"] == 0 for measured in layer_health(net, before, before, {}).values())
    with torch.no_grad():
        for _, layer in binary_layers(net):
            layer.weight.fill_(-1)
    health = layer_health(net, before, binary_signs(net), {})
    assert all(measured["saturation"] == 1 for measured in health.values())
    assert health.keys() == matrices(large).keys()
    assert all(0.1 < measured["flip_ratio"] < 0.9 for measured in health.values())


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = First(CASES["attention"]())
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x + self.attention(x))[0][:, -1])


@pytest.fixture
def classifier() -> nn.Module:
    torch.manual_seed(0)
    return made_binary(Classifier())


def test_gradient_health_and_histograms_have_each_weight_once(classifier: nn.Module) -> None:
    measured = gradient_health(classifier, X, torch.tensor([0, 1, 2]), precision="fp32")
    assert measured.keys() == {name for name, _ in binary_layers(classifier)}
    assert all(0 <= row["zero_gradients"] < 0.5 for row in measured.values())
    shown = {layer.name for layer in _model_layers(classifier)}
    assert shown == {latent.plain_key for latent in latent_keys(classifier).values()}


def test_bop_flips_the_latents(classifier: nn.Module) -> None:
    optimizer = Bop(latent_groups(classifier, lr=1e-3), gamma=1.0)
    latents = [layer.weight for _, layer in binary_layers(classifier)]
    before = [latent.detach().clone() for latent in latents]
    classifier(X).square().sum().backward()
    optimizer.step()
    assert all(bool((latent.abs() == 1).all()) for latent in latents)
    assert not any(map(torch.equal, latents, before))


def test_a_layer_in_two_places_is_made_binary_once() -> None:
    layer = nn.GRU(4, 4)
    net = binarize_(nn.ModuleDict({"a": layer, "b": layer}), weight_quantizer="sign").model
    assert net["a"] is net["b"] is layer
    assert [name for name, _ in binary_layers(net)] == ["a.weight_ih_l0", "a.weight_hh_l0"]
    assert set(plain_state_dict(net)) == set(nn.ModuleDict({"a": nn.GRU(4, 4), "b": nn.GRU(4, 4)}).state_dict())


def test_a_lone_layer_a_scale_and_a_second_call() -> None:
    layer = nn.LSTM(4, 4)
    assert binarize_(layer, weight_quantizer="sign", value="glorot").model is layer
    assert [name for name, _ in binary_layers(layer)] == ["weight_ih_l0", "weight_hh_l0"]
    magnitudes = layer.weight_ih_l0.abs().unique()
    assert magnitudes.tolist() == pytest.approx([(1.5 / (16 + 4)) ** 0.5])
    with pytest.raises(UsageError, match="nothing"):
        binarize_(layer)
