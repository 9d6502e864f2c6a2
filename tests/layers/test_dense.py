"""`dense_` writes the weights that ship over the latents: the same outputs, also for tools that take `.weight`."""

from __future__ import annotations

import copy
import json
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import onebit
from onebit.errors import UnknownNameError, UsageError
from onebit.quantizers import WEIGHT_QUANTIZERS
from support.covering import covering
from support.language_models import make_model
from support.tensors import normal

MODELS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)), (3, 8)),
    "conv": (nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ConvTranspose2d(5, 2, 3)), (2, 3, 6, 6)),
    "lstm": (nn.LSTM(8, 5, num_layers=2, bidirectional=True), (4, 2, 8)),
    "attention": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
}
COPIED = {**MODELS, "gru": (nn.GRU(8, 5), (4, 2, 8)), "cell": (nn.LSTMCell(8, 5), (2, 8))}


each_model_and_quantizer = pytest.mark.parametrize(("name", "quantizer"), covering(product(MODELS, WEIGHT_QUANTIZERS)))


@each_model_and_quantizer
def test_a_dense_model_is_an_ordinary_one_with_the_same_outputs(name: str, quantizer: str) -> None:
    torch.manual_seed(0)
    model, shape = copy.deepcopy(MODELS[name][0]), MODELS[name][1]
    kinds = [type(module) for module in model.modules()]
    keys = {*model.state_dict()}
    onebit.binarize_(model, weight_quantizer=quantizer)
    x = torch.randn(shape)
    expected = outputs(model.eval(), x)
    model.train()  # in which some quantizers draw
    assert onebit.dense_(model) is model
    assert not [*onebit.layers.binary_layers(model)]
    assert [type(module) for module in model.modules()] == kinds
    assert {*model.state_dict()} == keys
    torch.testing.assert_close(outputs(model.eval(), x), expected)
    copied = copy.deepcopy(MODELS[name][0]).eval()
    copied.load_state_dict(model.state_dict())
    torch.testing.assert_close(outputs(copied, x), expected)


@torch.no_grad()
def outputs(model: nn.Module, x: torch.Tensor) -> Any:
    return model(x)


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("name", COPIED)
def test_a_copy_and_its_original_do_not_share_what_becomes_dense(name: str, averaged: bool) -> None:
    """In both directions; `AveragedModel` keeps a copy too."""
    torch.manual_seed(0)
    model, shape = copy.deepcopy(COPIED[name][0]), COPIED[name][1]
    onebit.binarize_(model, weight_quantizer="xnor").model.eval()
    x = torch.randn(shape)
    expected = outputs(model, x)
    for copy_is_dense in (True, False):
        original = copy.deepcopy(model)
        copied = torch.optim.swa_utils.AveragedModel(original) if averaged else copy.deepcopy(original)
        dense, binary = (copied, original) if copy_is_dense else (original, copied)
        latents = [latent.layer.weight.clone() for latent in onebit.layers.latent_keys(binary).values()]
        onebit.dense_(dense)
        assert not [*onebit.layers.binary_layers(dense)]
        layers = [layer for _, layer in onebit.layers.binary_layers(binary)]
        assert all(torch.equal(layer.weight, latent) for layer, latent in zip(layers, latents, strict=True))
        for one in (dense, binary):
            torch.testing.assert_close(outputs(one, x), expected)
        first_of(binary.train()(x))[..., 0].sum().backward()
        assert bool(layers[0].weight.grad.any())


def first_of(output: Any) -> torch.Tensor:
    """The output itself, or the first part of what a recurrent layer gives."""
    return output if isinstance(output, torch.Tensor) else output[0]


def test_a_copy_with_a_parametrization_of_its_user_becomes_binary_alone() -> None:
    model = nn.LSTM(8, 5)
    nn.utils.parametrize.register_parametrization(model, "bias_ih_l0", nn.Identity())
    copied = copy.deepcopy(model)
    x = torch.randn(4, 2, 8)
    expected = outputs(model, x)
    onebit.binarize_(copied, weight_quantizer="sign")
    torch.testing.assert_close(outputs(model, x), expected)
    assert not torch.equal(outputs(copied, x)[0], expected[0])


def test_layers_with_more_than_weights_stay_binary_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        onebit.BinaryConv2d(2, 4, 3, padding=1, padding_value=1.0),
        onebit.BinaryConv2d(4, 4, 3, weight_quantizer="xnor", input_quantizer="ste_sign"),
    ).eval()
    x = torch.randn(2, 2, 6, 6)
    expected = outputs(model, x)
    onebit.dense_(model)
    assert [type(module) for module in model] == [onebit.BinaryConv2d] * 2
    assert model[0].weight.abs().unique().tolist() == [1.0]
    torch.testing.assert_close(outputs(model, x), expected)


def test_a_dense_layer_may_become_binary_again() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    for _ in range(2):
        onebit.binarize_(model, weight_quantizer="xnor")
        assert isinstance(model[0], onebit.BinaryLinear)
        onebit.dense_(model)
        assert type(model[0]) is nn.Linear


def test_the_quantizers_of_a_model_are_noted_by_name() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    onebit.binarize_(model, weight_quantizer="xnor", where=lambda name, _: name == "0")
    quantizer = WEIGHT_QUANTIZERS["ste_sign"](2.0)
    onebit.binarize_(model, weight_quantizer=quantizer, where=lambda name, _: name == "1")
    onebit.binarize_(model, weight_quantizer=quantizer, input_quantizer="ste_sign")
    none = {"quantizer": None, "options": {}}
    xnor, wide, narrow = (
        {"quantizer": name, "options": options}
        for name, options in (("xnor", {}), ("ste_sign", {"clip_value": 2.0}), ("ste_sign", {"clip_value": 1.0}))
    )
    groups = [(xnor, none), (wide, none), (wide, narrow)]
    assert onebit.quantizer_config(model) == {
        "quant_method": "onebit",
        "quantizers": [{"weights": w, "inputs": i, "layers": [str(n)]} for n, (w, i) in enumerate(groups)],
    }


@each_model_and_quantizer
def test_a_model_is_made_again_from_its_configuration(name: str, quantizer: str) -> None:
    """With the options of the quantizers, and quantized inputs also in the first layer, and where weights are dense."""
    original, shape = MODELS[name]
    model = copy.deepcopy(original)
    options = {"ste_sign": {"clip_value": 2.0}, "sign": {"value": 0.25}, "irnet": {"t_end": 3.0}}.get(quantizer, {})
    inputs = onebit.quantizers.INPUT_QUANTIZERS["int4"]("pact")
    onebit.binarize_(model, weight_quantizer=WEIGHT_QUANTIZERS[quantizer](**options), input_quantizer=inputs)
    x = torch.randn(shape)
    outputs(model.train(), x)  # begins the ranges of inputs
    for dense in (False, True):
        model = onebit.dense_(model) if dense else model
        config = json.loads(json.dumps(onebit.quantizer_config(model)))
        again = copy.deepcopy(original)
        assert onebit.binarize_from_config_(again, config) is again
        again.load_state_dict(model.state_dict())
        assert onebit.quantizer_config(again) == config
        torch.testing.assert_close(outputs(again.eval(), x), outputs(model.eval(), x), rtol=0, atol=0)


def test_a_configuration_of_another_model_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    onebit.binarize_(model, input_quantizer="int8")
    config = onebit.quantizer_config(model)
    for other in (nn.Sequential(nn.Linear(8, 8)), model, nn.Sequential(nn.Linear(8, 8), nn.ReLU())):
        with pytest.raises(UsageError, match=r"'[01]'"):
            onebit.binarize_from_config_(other, config)
    config["quantizers"][0]["weights"]["quantizer"] = "own.py:Mine"
    with pytest.raises(UnknownNameError):
        onebit.binarize_from_config_(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), config)


# ---------------------------------------------------------------------------------------------- tools that take .weight
class Adapted(nn.Module):
    """A layer with an adapter, in the layout of `peft.tuners.lora.Linear`."""

    adapter_layer_names = ("lora_A", "lora_B")

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))

    @torch.no_grad()
    def merged(self) -> nn.Module:
        self.base_layer.weight += self.lora_B["default"].weight @ self.lora_A["default"].weight
        return self.base_layer


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Adapted(nn.Linear(8, 6)), nn.ReLU(), Adapted(nn.Linear(6, 4))).eval()


def test_adapters_stay_real(net: nn.Module) -> None:
    report = onebit.binarize_(net, weight_quantizer="xnor", input_quantizer="ste_sign")
    assert [row.name for row in report.binary] == ["0.base_layer", "2.base_layer"]
    assert [row.name for row in report.real if "lora" in row.name and row.reason == "left real"] == [
        f"{layer}.lora_{part}.default" for layer in "02" for part in "AB"
    ]


def test_adapters_are_merged_into_what_dense_makes(net: nn.Module) -> None:
    onebit.binarize_(net, weight_quantizer="xnor")
    x = normal(5, 8)
    expected = net(x)
    assert not torch.allclose(nn.Sequential(*map(merged, copy.deepcopy(net)))(x), expected, atol=0.1)
    torch.testing.assert_close(nn.Sequential(*map(merged, onebit.dense_(copy.deepcopy(net))))(x), expected)
    onebit.packed_layers_(net)
    torch.testing.assert_close(net(x), expected)
    with pytest.raises(AttributeError, match="dense_"):
        net[0].merged()
    assert not hasattr(net[0].base_layer, "weight")


def merged(module: nn.Module) -> nn.Module:
    return module.merged() if isinstance(module, Adapted) else module


@pytest.mark.parametrize("dims", [1, 2])
def test_batch_norm_is_fused_into_what_dense_makes(dims: int) -> None:
    torch.manual_seed(0)
    layer, norm = (nn.Linear(5, 7), nn.BatchNorm1d(7)) if dims == 1 else (nn.Conv2d(5, 7, 3), nn.BatchNorm2d(7))
    x = normal(20, 5, *[4] * (2 * dims - 2))
    net = onebit.binarize_(nn.Sequential(layer, norm), weight_quantizer="xnor").model
    net(x)
    expected = net.eval()(x)
    fuse = fuse_linear_bn_eval if dims == 1 else fuse_conv_bn_eval
    torch.testing.assert_close(fuse(onebit.dense_(copy.deepcopy(net[0])), norm)(x), expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------- PEFT itself
@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_of_peft_stay_real_and_are_merged_into_what_dense_makes() -> None:
    peft = pytest.importorskip("peft", reason="make build/language")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = peft.get_peft_model(make_model(), config).eval()
    report = onebit.binarize_(model, weight_quantizer="xnor")
    assert [row.name for row in report.binary if "lora" in row.name] == []
    assert len(report.binary) == 14
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        expected = model(tokens).logits
        merged = onebit.dense_(copy.deepcopy(model)).merge_and_unload()
        found = merged(tokens).logits
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    onebit.packed_layers_(model)
    with pytest.raises(AttributeError, match="dense_"):
        model.merge_and_unload()
