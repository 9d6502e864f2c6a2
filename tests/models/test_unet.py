"""The U-Net: sizes, layers, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from onebit import pack
from onebit.errors import UsageError
from onebit.layers import BinaryConv2d, BinaryConvTranspose2d
from onebit.models import create_model
from onebit.models.unet import Up
from onebit.runtime import run


def test_unet_has_the_layers_of_the_paper() -> None:
    with torch.device("meta"):
        model = create_model("unet", padding="valid", input_shape=(1, 388, 388), weight_quantizer="sign")
        logits = model.eval()(torch.zeros(1, 1, 572, 572, dtype=torch.uint8))
    assert logits.shape == (1, 2, 388, 388)
    assert (model.input_shape, model.output_shape) == ((1, 572, 572), (2, 388, 388))
    assert [up.margin for up in model.modules() if isinstance(up, Up)] == [4, 16, 40, 88]
    convs = [layer for layer in model.modules() if isinstance(layer, (BinaryConv2d, BinaryConvTranspose2d))]
    assert len(convs) == 23
    assert sum(isinstance(layer, BinaryConvTranspose2d) for layer in convs) == 4
    assert [layer.out_channels for layer in convs if layer.kernel_size == (3, 3)][:10:2] == [64, 128, 256, 512, 1024]


@pytest.mark.parametrize(("padding", "side", "taken", "made"), [
    ("same", 1, 16, 16), ("same", 513, 528, 528), ("valid", 4, 188, 4), ("valid", 512, 700, 516),
])  # fmt: skip
def test_the_input_shape_covers_the_image(padding: str, side: int, taken: int, made: int) -> None:
    with torch.device("meta"):
        model = create_model("unet", padding=padding, input_shape=(3, side, 64), classes=5, width=1 / 64)
    assert model.input_shape[:2] == (3, taken)
    assert model.output_shape[:2] == (5, made)
    with torch.device("meta"):
        assert model.eval()(torch.zeros(1, *model.input_shape, dtype=torch.uint8)).shape[1:] == model.output_shape


@pytest.mark.parametrize(("padding", "depth"), [("same", 1), ("same", 2), ("valid", 1), ("valid", 2)])
def test_shallow_unets_have_the_stated_shapes(padding: str, depth: int) -> None:
    for side in (1, 50):
        model = create_model("unet", padding=padding, depth=depth, input_shape=(1, side, side), width=1 / 64).eval()
        assert model(torch.zeros(1, *model.input_shape, dtype=torch.uint8)).shape[1:] == model.output_shape


def test_an_unknown_padding_is_refused() -> None:
    with pytest.raises(UsageError, match="padding"):
        create_model("unet", padding="full")


def test_dropout_zeroes_channels_that_were_pooled_or_joined_in_training_alone() -> None:
    """Eight places, as in the reproduction of BayesBiNN."""
    options = {"input_shape": (1, 16, 16), "width": 1 / 16, "weight_quantizer": "sign"}
    torch.manual_seed(0)
    model = create_model("unet", dropout=0.5, **options)
    torch.manual_seed(0)
    plain = create_model("unet", **options)
    assert model.state_dict().keys() == plain.state_dict().keys()
    seen: list[torch.Tensor] = []
    for layer in model.modules():
        if isinstance(layer, nn.Dropout2d):
            layer.register_forward_hook(lambda _, inputs, output: seen.append(output))
    x = torch.randint(0, 256, (4, 1, 16, 16), dtype=torch.uint8)
    model(x)
    assert len(seen) == 8
    channels = [(output.flatten(2) == 0).all(dim=2).float().mean() for output in seen]
    assert all(share > 0.2 for share in channels)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(x), plain.eval()(x))
    hookless = create_model("unet", dropout=0.5, **options).eval()
    packed = pack(hookless)
    assert run(packed, x.numpy()).shape == (4, 2, 16, 16)
    with pytest.raises(UsageError, match="dropout"):
        create_model("unet", dropout=0.5, **options | {"input_quantizer": "ste_sign"})
