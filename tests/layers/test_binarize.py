"""`binarize_` on models of other people."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import onebit
from onebit.errors import UnknownNameError, UsageError
from onebit.layers import BinaryConv2d, BinaryConvTranspose2d, BinaryLinear, binarize_, binary_layers
from onebit.optim import clip_latents_, latent_groups
from onebit.quantizers import WEIGHT_QUANTIZERS, Sign, Stochastic, sign
from support.tensors import normal


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


class Net(nn.Module):
    """Modules inside modules, a BatchNorm and one layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.block = Block()
        self.again = self.block.first
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.again(self.block(self.stem(x)))))


def test_names_weights_keys_and_flags_stay() -> None:
    net = Net().eval()
    net.head.train()
    before, parameters = copy.deepcopy(net.state_dict()), {name: id(p) for name, p in net.named_parameters()}
    assert binarize_(net, weight_quantizer="sign", input_quantizer="ste_sign").model is net
    layers = dict(binary_layers(net))
    assert layers.keys() == {"stem", "block.first", "block.second", "head"}
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert {name: id(p) for name, p in net.named_parameters()} == parameters  # an optimizer made before still holds
    Net().load_state_dict(after)
    assert net.again is net.block.first
    assert isinstance(net.again, BinaryLinear)
    assert [net.stem.training, net.block.first.training, net.head.training] == [False, False, True]
    assert [layer.input_quantizer is not None for layer in layers.values()] == [False, True, True, True]


def test_where_chooses_by_name_and_module() -> None:
    net = binarize_(Net(), where=lambda name, layer: name.startswith("block.") and layer.bias is None).model
    assert [name for name, _ in binary_layers(net)] == ["block.second"]
    assert type(net.stem) is nn.Linear
    shared = nn.Linear(4, 4)
    assert len(binarize_(nn.Sequential(shared, shared), where=lambda name, _: name == "1").binary) == 1


def test_each_layer_gets_a_copy_of_a_quantizer_that_shares_the_generator() -> None:
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False))
    nn.init.zeros_(net[0].weight)
    nn.init.zeros_(net[1].weight)
    binarize_(net, weight_quantizer=Stochastic(0.5, generator=generator))
    quantizers = [layer.weight_quantizer for _, layer in binary_layers(net)]
    assert len({id(quantizer) for quantizer in quantizers}) == 2
    assert all(isinstance(q, Sign) and q.value == 0.5 for q in quantizers)
    first, second = (layer.effective_weight() for _, layer in binary_layers(net))
    assert not torch.equal(first, second)
    generator.manual_seed(0)
    assert torch.equal(net[0].effective_weight(), first)


CHANGES: dict[str, Callable[[Any], object]] = {
    "pruned": lambda net: prune.random_unstructured(net.b, "weight", amount=0.5),
    "held forward": lambda net: setattr(net, "first", net.b.forward),
    "custom forward": lambda net: setattr(net.b, "forward", torch.relu),
    "parametrization": lambda net: parametrize.register_parametrization(net.b, "bias", nn.Identity()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_layers_that_would_keep_real_weights_are_refused(change: str) -> None:
    net = Listed()
    CHANGES[change](net)
    with pytest.raises(UsageError, match="first" if change == "held forward" else "'b'"):
        binarize_(net)
    assert type(net.a) is nn.Linear


def test_no_layer_or_no_quantizer_is_an_error() -> None:
    for model in (nn.Sequential(nn.ReLU()), nn.Linear(2, 2), nn.Sequential(BinaryLinear(2, 2))):
        with pytest.raises(UsageError, match="nothing") as refused:
            binarize_(model)
        assert "where" not in str(refused.value)
    net = Net()
    with pytest.raises(UsageError, match="nothing"):
        binarize_(net, where=lambda name, layer: False)
    for unknown in ({"weight_quantizer": "stochastik"}, {"input_quantizer": "ste_sgn"}):
        with pytest.raises(UnknownNameError):
            binarize_(net, **unknown)
    assert type(net.stem) is nn.Linear


def test_tied_weights_stay_tied_and_are_optimized_once() -> None:
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.ReLU(), nn.Linear(5, 5, bias=False))
    net[2].weight = net[0].weight
    binarize_(net, weight_quantizer="sign")
    assert net[2].weight is net[0].weight
    assert [len(group["params"]) for group in latent_groups(net, lr=0.1)] == [1]


@pytest.mark.parametrize("name", WEIGHT_QUANTIZERS)
def test_a_model_learns_in_a_custom_loop_within_the_latent_clip(name: str) -> None:
    torch.manual_seed(0)
    net = binarize_(
        nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2)),
        weight_quantizer=name,
        where=lambda name, layer: name != "3",
    ).model
    optimizer = clip_latents_(torch.optim.Adam(latent_groups(net, lr=0.05)))
    x = normal(400, 8)
    y = (x @ sign(normal(8, seed=1)) > 0).long()
    for step in range(40):
        onebit.set_progress(net, step / 40)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    bound = net[0].weight_quantizer.latent_bound
    assert bound is None or float(net[0].weight.detach().abs().max()) <= bound
    assert float((net.eval()(x).argmax(1) == y).double().mean()) > 0.9


class ConvNet(nn.Module):
    """A residual block, an encoder and a decoder: every kind of layer that is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding="valid", bias=True)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, dilation=1, bias=False, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(4, 2, 2, stride=2, groups=2, output_padding=1)
        self.head = nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(self.up(x + self.depthwise(x)).mean((2, 3)))


def test_a_convolutional_model_becomes_binary_layer_by_layer() -> None:
    torch.manual_seed(0)
    net, x = ConvNet().eval(), normal(2, 3, 9, 9)
    state = copy.deepcopy(net.state_dict())
    binarize_(net, weight_quantizer="sign", value="glorot")
    bounds = [layer.weight_quantizer.latent_bound for _, layer in binary_layers(net)]  # type: ignore[union-attr]
    scales = [(1.5 / fan) ** 0.5 for fan in (9 * (4 + 3), 9 * (4 + 1), 4 * (2 + 2), 5 + 2)]
    assert bounds == pytest.approx(scales)
    kinds = {name: type(layer) for name, layer in binary_layers(net)}
    convolutions = {"stem": BinaryConv2d, "depthwise": BinaryConv2d, "up": BinaryConvTranspose2d}
    assert kinds == {**convolutions, "head": BinaryLinear}
    twin = ConvNet().eval()
    for name, scale in zip(kinds, scales, strict=True):
        state[f"{name}.weight"] = scale * sign(state[f"{name}.weight"])
    twin.load_state_dict(state)
    torch.testing.assert_close(net(x), twin(x))


def test_hooks_stay_and_their_handles_remove_them() -> None:
    calls: list[str] = []
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    handle = model[0].register_forward_hook(lambda *_: calls.append("after"))
    model[1].register_forward_pre_hook(lambda *_: calls.append("before"), with_kwargs=True)
    model[1].register_full_backward_hook(lambda *_: calls.append("backward"))
    binarize_(model, weight_quantizer="sign")
    model(torch.rand(3, 4)).sum().backward()
    assert calls == ["after", "before", "backward"]
    handle.remove()
    model(torch.rand(3, 4))
    assert calls == ["after", "before", "backward", "before"]


class Listed(nn.Module):
    """Calls layers that it holds in a plain list, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.hidden = [self.a, self.b]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.out(x)


def test_layers_held_outside_of_the_modules_become_binary_as_well() -> None:
    torch.manual_seed(0)
    net, x = Listed(), normal(3, 4)
    closure = lambda y, layer=net.a: layer(y)  # noqa: E731
    binarize_(net, weight_quantizer="sign")
    assert net.hidden[0] is net.a
    hidden = torch.relu(F.linear(x, sign(net.a.weight), net.a.bias))
    torch.testing.assert_close(closure(x).relu(), hidden)
    hidden = torch.relu(F.linear(hidden, sign(net.b.weight), net.b.bias))
    torch.testing.assert_close(net(x), F.linear(hidden, sign(net.out.weight), net.out.bias))


@pytest.mark.parametrize("masked", [False, True])
def test_a_transformer_layer_calls_binary_layers_put_into_it(masked: bool) -> None:
    """In eval mode without gradients torch's fused path would read the latents."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    layer.linear1 = BinaryLinear(8, 16, masked, input_quantizer="ste_sign")
    layer.linear2 = BinaryLinear(16, 8, True)
    layer.eval()
    x = normal(2, 5, 8)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2]) if masked else None
    expected = layer(x, src_key_padding_mask=mask)
    for one in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with torch.no_grad():
            torch.testing.assert_close(one(x, src_key_padding_mask=mask), expected)
    if not masked:
        assert onebit.evaluate(nn.Sequential(layer), (x, expected.detach()), loss="mse").loss < 1e-8


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype stage:UserWarning")
def test_a_transformer_does_not_skip_the_quantizers() -> None:
    torch.manual_seed(0)
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2)
    parts = copy.deepcopy(net)
    binarize_(net, weight_quantizer="sign")
    binarize_(parts, weight_quantizer="sign", where=lambda name, layer: "attn" in name)
    names = {name.partition("self_attn.")[2] for name, _ in binary_layers(parts)}
    assert names == {"out_proj.weight", "in_proj_weight"}
    x, padded = normal(3, 5, 8), torch.tensor([[False] * 5, [False] * 4 + [True], [False] * 5])
    with torch.no_grad():
        for one in (net, parts):
            for mask in (None, padded):
                expected = one.train()(x, src_key_padding_mask=mask)
                torch.testing.assert_close(one.eval()(x, src_key_padding_mask=mask), expected)


def test_other_contents_of_a_layer_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    layer = model[1]
    layer.register_buffer("count", torch.ones(2))
    layer.register_buffer("note", torch.ones(1), persistent=False)
    layer.gain, layer.helper, layer.rank = nn.Parameter(torch.ones(3)), nn.ReLU(), 4
    saved: list[str] = []
    layer.register_state_dict_post_hook(lambda *_: saved.append("saved"))
    layer.register_load_state_dict_pre_hook(lambda *_: saved.append("loaded"))
    keys = list(model.state_dict())
    binarize_(model, input_quantizer="ste_sign")
    assert type(layer) is BinaryLinear
    assert list(model.state_dict()) == keys == ["0.weight", "0.bias", "1.weight", "1.bias", "1.gain", "1.count"]
    model.load_state_dict(model.state_dict())
    assert saved == ["saved"] * 3 + ["loaded"]
    assert layer.rank == 4
    assert layer.note.tolist() == [1]
    assert [name for name, _ in layer.named_children()] == ["helper", "weight_quantizer", "input_quantizer"]
    assert copy.deepcopy(model)(normal(2, 4)).shape == (2, 2)
