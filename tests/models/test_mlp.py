"""The MLP's own settings, and the same net written in torch.nn alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from onebit.errors import UsageError
from onebit.models import MLP, create_model


@pytest.mark.parametrize("value", [1.0, 0.25, "glorot"])
def test_uniform_latents_fill_the_range_of_the_clip(value: float | str) -> None:
    torch.manual_seed(0)
    layer: Any = MLP((64, 400, 4), value=value).linear1
    relative = layer.weight.detach() / layer.weight_quantizer.latent_bound
    assert float(relative.abs().max()) <= 1
    assert float(relative.abs().max()) > 0.99
    assert float(relative.square().mean()) == pytest.approx(1 / 3, rel=0.03)


def test_default_latents_are_those_of_torch() -> None:
    torch.manual_seed(0)
    layer: Any = MLP((64, 24, 4), init="default").linear1
    torch.manual_seed(0)
    assert torch.equal(layer.weight, nn.Linear(64, 24, bias=False).weight)


def test_dropout_stands_after_the_activation_and_on_the_input() -> None:
    names = [name for name, _ in MLP((64, 24, 4), dropout=0.5, input_dropout=0.2).named_children()]
    assert names == [
        "coding", "input_dropout", "flatten", "linear1", "norm1", "relu1", "dropout1", "linear2", "norm2",
    ]  # fmt: skip


@pytest.mark.parametrize(("width", "shape"), [(784, (1, 28, 28)), (64, (1, 8, 8)), (12, (1, 1, 12))])
def test_the_input_shape_follows_from_the_first_width(width: int, shape: tuple[int, int, int]) -> None:
    assert MLP((width, 2)).input_shape == shape


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"widths": (64,)}, "widths"),
        ({"widths": (64, 4), "input_shape": (1, 28, 28)}, "widths"),
        ({"widths": (64, 4), "classes": 10}, "widths"),
        ({"dropout": 0.1, "input_quantizer": "ste_sign"}, "dropout"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=name):
        create_model("mlp", **options)
