"""What every model of the table promises, and the MLP's own settings."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from onebit.errors import UnknownNameError, UsageError
from onebit.layers import BinaryLinear, InputCoding, binary_layers
from onebit.models import MLP, MODELS, create_model
from onebit.quantizers import WEIGHT_QUANTIZERS

# model -> options that make it small
SMALL: dict[str, dict] = {"mlp": {"widths": (64, 24, 16, 4)}}


def images(model: nn.Module, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *model.input_shape), dtype=torch.uint8, generator=generator)


def plain_mlp() -> nn.Module:
    """The same net written in torch.nn alone."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (inputs, outputs) in enumerate([(64, 24), (24, 16), (16, 4)], 1):
        layers[f"linear{i}"] = nn.Linear(inputs, outputs, bias=False)
        layers[f"norm{i}"] = nn.BatchNorm1d(outputs)
        if i < 3:
            layers[f"relu{i}"] = nn.ReLU()
    return nn.Sequential(layers)


TWINS = {"mlp": plain_mlp}


def test_every_model_has_its_small_form_and_its_plain_twin_here() -> None:
    assert SMALL.keys() == TWINS.keys() == MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("quantizer", [*WEIGHT_QUANTIZERS, None])
@pytest.mark.parametrize("inputs", ["ste_sign", None])
def test_uint8_images_in_logits_out(name: str, quantizer: str | None, inputs: str | None) -> None:
    model = create_model(name, **SMALL[name], weight_quantizer=quantizer, input_quantizer=inputs)
    assert isinstance(next(m for m in model.modules() if m is not model), InputCoding)
    logits = model(images(model))
    assert logits.shape == (5, 4)
    assert logits.dtype == torch.float32
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("quantizer", [*WEIGHT_QUANTIZERS, None])
@pytest.mark.parametrize("inputs", ["ste_sign", None])
def test_state_dict_keys_are_those_of_the_plain_twin_and_load_both_ways(
    name: str, quantizer: str | None, inputs: str | None
) -> None:
    torch.manual_seed(0)
    model = create_model(name, **SMALL[name], weight_quantizer=quantizer, input_quantizer=inputs)
    twin = TWINS[name]()
    assert list(model.state_dict()) == list(twin.state_dict())
    twin.load_state_dict(model.state_dict())
    back = create_model(name, **SMALL[name], weight_quantizer=quantizer, input_quantizer=inputs)
    back.load_state_dict(twin.state_dict())
    x = images(model)
    assert torch.equal(back.eval()(x), model.eval()(x))


@pytest.mark.parametrize("name", MODELS)
def test_the_real_model_computes_what_the_plain_twin_does(name: str) -> None:
    model, twin = create_model(name, **SMALL[name], weight_quantizer=None).eval(), TWINS[name]().eval()
    twin.load_state_dict(model.state_dict())
    x = images(model)
    assert torch.equal(model(x), twin(2 * x.float() - 255))


@pytest.mark.parametrize("name", MODELS)
def test_the_first_layer_keeps_real_inputs(name: str) -> None:
    model = create_model(name, **SMALL[name], input_quantizer="ste_sign")
    quantized = [layer.input_quantizer is not None for _, layer in binary_layers(model)]
    assert quantized == [False] + [True] * (len(quantized) - 1)


def test_the_same_seed_gives_the_same_model() -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(create_model("mlp", **SMALL["mlp"]).linear1.weight)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("value", [1.0, 0.25, "glorot"])
def test_uniform_latents_fill_the_range_of_the_clip(value: float | str) -> None:
    torch.manual_seed(0)
    model = MLP((64, 400, 4), value=value)
    layer = model.linear1
    bound = layer.weight_quantizer.latent_bound
    relative = layer.weight.detach() / bound
    assert float(relative.abs().max()) <= 1
    assert float(relative.abs().max()) > 0.99
    assert float(relative.square().mean()) == pytest.approx(1 / 3, rel=0.03)


def test_default_latents_are_those_of_torch() -> None:
    torch.manual_seed(0)
    model = MLP((64, 24, 4), init="default")
    torch.manual_seed(0)
    assert torch.equal(model.linear1.weight, nn.Linear(64, 24, bias=False).weight)


def test_real_last_keeps_real_weights_in_the_last_layer_only() -> None:
    model = MLP((64, 24, 4), real_last=True)
    assert [name for name, _ in binary_layers(model)] == ["linear1"]
    real = MLP((64, 24, 4), real_last=True, input_quantizer="ste_sign").linear2
    assert isinstance(real, BinaryLinear)
    assert real.weight_quantizer is None
    assert real.input_quantizer is not None


def test_batch_norm_settings_arrive() -> None:
    model = MLP((64, 24, 4), norm_eps=1e-4, norm_momentum=0.15, norm_affine=False)
    for norm in (model.norm1, model.norm2):
        assert (norm.eps, norm.momentum, norm.affine) == (1e-4, 0.15, False)


def test_dropout_stands_after_the_activation_and_on_the_input() -> None:
    names = [name for name, _ in MLP((64, 24, 4), dropout=0.5, input_dropout=0.2).named_children()]
    assert names == [
        "coding", "flatten", "input_dropout", "linear1", "norm1", "relu1", "dropout1", "linear2", "norm2",
    ]  # fmt: skip


@pytest.mark.parametrize(("width", "shape"), [(784, (1, 28, 28)), (64, (1, 8, 8)), (12, (1, 1, 12))])
def test_the_input_shape_follows_from_the_first_width(width: int, shape: tuple[int, int, int]) -> None:
    assert MLP((width, 2)).input_shape == shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (64,)}, "widths needs at least input and output"),
        ({"widths": (64, 0, 4)}, "all positive"),
        ({"init": "unifrom"}, "init must be 'uniform' or 'default', got 'unifrom'"),
        ({"widths": (64, 4), "input_shape": (1, 28, 28)}, "the first width is 64, but an input of shape (1, 28, 28)"),
        ({"weight_quantizer": "stochastik"}, "did you mean 'stochastic'?"),
        ({"coding": "intger"}, "did you mean 'integer'?"),
        ({"dropout": 1.5}, "model 'mlp': dropout probability has to be between 0 and 1"),
        ({"width": (64, 4)}, "model 'mlp'"),
        ({"dropout": 0.1, "input_quantizer": "ste_sign"}, "dropout zeroes a unit before its sign"),
    ],
)
def test_wrong_options_are_one_clear_line(options: dict, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        create_model("mlp", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_model_is_refused_and_a_class_is_taken() -> None:
    with pytest.raises(UnknownNameError, match="unknown model 'mpl'; did you mean 'mlp'"):
        create_model("mpl")
    assert isinstance(create_model(MLP, widths=(4, 2)), MLP)
