"""What every model of the table promises; a new line of the table needs a small form in `small_models`, no more."""

from __future__ import annotations

import operator
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from onebit.errors import UnknownNameError, UsageError
from onebit.evaluation.counts import summary
from onebit.layers import BinaryLayer, InputCoding, binary_layers
from onebit.models import MLP, MODELS, create_model
from support.covering import covering
from support.small_models import ALIKE, FORMS, images, quantizes_inputs, weight_layers

KINDS = {
    "binary weights": {"weight_quantizer": "sign", "input_quantizer": None},
    "binary weights and inputs": {"weight_quantizer": "ste_sign", "input_quantizer": "ste_sign"},
    "real": {"weight_quantizer": None, "input_quantizer": None},
}
PLAIN = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d)
PLAIN += (nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout, nn.Identity, InputCoding)
each_kind_of_model = pytest.mark.parametrize("form", covering(FORMS, heavy=ALIKE))


def build(form: str, kind: str = "binary weights", **options: Any) -> nn.Module:
    name, small = FORMS[form]
    torch.manual_seed(0)
    return create_model(name, **small, **KINDS[kind], **options)


def settled(form: str, kind: str = "binary weights", **options: Any) -> nn.Module:
    """A model in eval mode whose BatchNorms have seen images: before, deep binary nets overflow."""
    model = build(form, kind, norm_momentum=1.0, **options)
    model(images(model))
    return model.eval()


def test_every_model_has_a_small_form() -> None:
    assert {name for name, _ in FORMS.values()} == MODELS.keys()


@pytest.mark.parametrize(("form", "kind"), covering(product(FORMS, KINDS), heavy=ALIKE))
def test_uint8_images_in_logits_out_and_every_parameter_learns(form: str, kind: str) -> None:
    model = build(form, kind, classes=10)
    assert isinstance(next(m for m in model.modules() if not any(m.children())), InputCoding)
    logits = model(images(model))
    assert logits.shape == (6, *getattr(model, "output_shape", (10,)))
    assert logits.dtype == torch.float32
    logits = logits.reshape(6, 10, -1).sum(dim=2)  # those of all pixels
    F.cross_entropy(logits, torch.arange(6)).backward()
    still = [
        n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all() & p.grad.any())
    ]
    assert still == []


@each_kind_of_model
def test_the_full_precision_twin_is_plain_torch_with_the_same_keys(form: str) -> None:
    twin = build(form, "real")
    assert not any(isinstance(layer, BinaryLayer) for layer in twin.modules())
    shapes = {key: value.shape for key, value in twin.state_dict().items()}
    for kind in KINDS:
        model = build(form, kind)
        assert {key: value.shape for key, value in model.state_dict().items()} == shapes
        assert list(model.state_dict()) == list(shapes)
    # with the signs as its weights the twin computes what the binary net does
    model = settled(form)
    assert {name for name, _ in binary_layers(model)} == {
        name for name, layer in model.named_modules() if layer in weight_layers(model) and not is_real(form, name)
    }
    state = model.state_dict()
    for name, layer in binary_layers(model):
        state[f"{name}.weight"] = layer.effective_weight().detach()
        assert bool((state[f"{name}.weight"].abs() == 1).all())
    twin.load_state_dict(state)
    x = images(model)
    assert torch.equal(twin.eval()(x), model(x))


def is_real(form: str, name: str) -> bool:
    """The shortcuts of Bi-Real net are real."""
    return "bireal" in form and "downsample" in name


@each_kind_of_model
def test_every_input_but_the_first_is_a_sign_of_numbers_of_both_signs(form: str) -> None:
    """A ReLU before a sign would leave +1 alone."""
    model = build(form, "binary weights and inputs")
    seen: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, BinaryLayer):
            layer.register_forward_hook(lambda layer, inputs, _, name=name: seen.__setitem__(name, inputs[0].detach()))
    model(images(model))
    first, *others = weight_layers(model)
    assert not quantizes_inputs(first)
    names = {layer: name for name, layer in model.named_modules()}
    assert all(quantizes_inputs(layer) for layer in others if not is_real(form, names[layer]))
    assert all(float(seen[names[layer]].min()) < 0 for layer in others if quantizes_inputs(layer))


@each_kind_of_model
def test_the_first_and_the_last_layer_can_stay_real(form: str) -> None:
    """The last takes what passed a ReLU, else it and the BatchNorm before it would be one linear map.

    A resnet averages its sums, which stay real.
    """
    model = settled(form, "binary weights and inputs", real_first=True, real_last=True)
    first, *middle, last = weight_layers(model)
    assert type(first) in (nn.Conv2d, nn.Linear)
    assert type(last) in (nn.Conv2d, nn.Linear)
    assert any(isinstance(layer, BinaryLayer) for layer in middle)
    seen: list[Tensor] = []
    last.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    assert model(images(model, 2)).isfinite().all()
    assert (float(seen[0].min()) >= 0) != ("resnet" in form)


@pytest.mark.parametrize(("form", "kind"), covering(product(FORMS, ["binary weights and inputs", "real"]), heavy=ALIKE))
def test_torch_fx_sees_nothing_but_plain_operations(form: str, kind: str) -> None:
    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, name: str) -> bool:
            return isinstance(m, (BinaryLayer, InputCoding)) or super().is_leaf_module(m, name)

    model = settled(form, kind)
    graph = Tracer().trace(model)
    modules = [model.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"]
    assert {type(layer) for layer in modules if not isinstance(layer, PLAIN)} == set()
    functions = {node.target for node in graph.nodes if node.op == "call_function"}
    assert functions <= {operator.add, operator.getitem, F.avg_pool2d, F.pad, torch.cat}
    assert {node.op for node in graph.nodes} <= {"placeholder", "call_module", "call_function", "output"}
    x = images(model, 2)
    assert torch.equal(fx.GraphModule(model, graph)(x), model(x))


@each_kind_of_model
def test_the_summary_counts_every_parameter(form: str) -> None:
    model = build(form)
    table = summary(model)
    total = table.total("binary_weights") + table.total("real_parameters")
    assert total == sum(p.numel() for p in model.parameters())
    assert all(layer.output_shape for layer in table.layers)
    assert table.total("binary_weights") == sum(layer.weight.numel() for _, layer in binary_layers(model))


@each_kind_of_model
def test_settings_of_parts_reach_the_layers(form: str) -> None:
    channels = FORMS[form][1]["input_shape"][0]
    pixels = {"coding": "standardize", "mean": [120.0] * channels, "std": [60.0] * channels}
    norm = {"norm_eps": 1e-4, "norm_momentum": 0.2, "norm_affine": False}
    model = build(form, "binary weights and inputs", **pixels, **norm, padding_value=1, init="uniform", classes=7)
    assert "coding.mean" in model.state_dict()
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert {(norm.eps, norm.momentum, norm.affine) for norm in norms} == {(1e-4, 0.2, False)}
    first, *convs = [layer for layer in weight_layers(model) if isinstance(layer, nn.Conv2d)] or [None]
    # pixels are no ±1: their border stays zero
    assert getattr(first, "padding_value", 0) == 0
    assert {layer.padding_value for layer in convs if quantizes_inputs(layer)} <= {1}
    latents = [layer.weight for _, layer in binary_layers(model)]
    assert all(0.5 < float(latent.detach().abs().max()) <= 1 for latent in latents if latent.numel() > 50)
    logits = model.eval()(images(model, 2))
    assert logits.shape[:2] == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("mlp", "weight_quantizer", "stochastik"),
        ("vgg_small", "init", "unifrom"),
        ("resnet20", "activation", "tanh"),
        ("unet", "width", 0),
        ("lenet", "coding", "intger"),
    ],
)
def test_a_wrong_option_is_named(name: str, option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option.replace("_", " ")), torch.device("meta"):
        create_model(name, **{"weight_quantizer": "sign", option: value})


def test_an_unknown_model_is_refused_and_a_class_is_taken() -> None:
    with pytest.raises(UnknownNameError, match="mlp"):
        create_model("mpl")
    assert isinstance(create_model(MLP, widths=(4, 2)), MLP)
