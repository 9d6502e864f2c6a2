"""Small forms of every model, for tests over the whole table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from onebit.layers import BinaryLayer
from onebit.models import MODELS
from support.covering import DEEPER

CIFAR = {"input_shape": (3, 8, 8), "width": 1 / 8}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("mlp", {"input_shape": (1, 8, 8)}),
    "lenet": ("lenet", {"input_shape": (1, 28, 28)}),
    "lenet on 32 pixels": ("lenet", {"input_shape": (3, 32, 32)}),
    "lrnet_small": ("lrnet_small", CIFAR),
    "lrnet_big": ("lrnet_big", CIFAR),
    "nin": ("nin", CIFAR),
    "vgg_small": ("vgg_small", CIFAR),
    "vgg11": ("vgg11", CIFAR | {"input_shape": (3, 32, 32)}),
    "vgg16": ("vgg16", CIFAR | {"input_shape": (3, 32, 32)}),
    "vgg11 on large images": ("vgg11", {"input_shape": (3, 65, 70), "width": 1 / 16}),
    "alexnet": ("alexnet", CIFAR | {"input_shape": (3, 15, 15)}),
    "alexnet on large images": ("alexnet", {"input_shape": (3, 65, 70), "width": 1 / 16}),
    **{name: (name, CIFAR | {"width": 0.5}) for name in MODELS if name.startswith("resnet")},
    "resnet18": ("resnet18", CIFAR),
    "resnet34": ("resnet34", CIFAR),
    "resnet50": ("resnet50", CIFAR | {"width": 1 / 16}),
    "resnet50 on large images": ("resnet50", {"input_shape": (3, 65, 70), "width": 1 / 16}),
    "resnet18 on large images": ("resnet18", {"input_shape": (3, 65, 70), "width": 1 / 8}),
    "resnet18 bireal": ("resnet18", CIFAR | {"bireal": True}),
    "resnet18 bireal on odd images": ("resnet18", {"input_shape": (1, 67, 13), "width": 1 / 8, "bireal": True}),
    "resnet20 with BatchNorm of the logits": ("resnet20", CIFAR | {"width": 0.5, "last_norm": True}),
    "vgg_small with a bias": ("vgg_small", CIFAR | {"last_norm": False}),
    "unet": ("unet", {"input_shape": (1, 16, 16), "width": 1 / 16}),
    "unet with valid padding": ("unet", {"input_shape": (3, 4, 4), "width": 1 / 32, "padding": "valid"}),
    "unet with BatchNorm of the logits": ("unet", {"input_shape": (1, 9, 16), "width": 1 / 16, "last_norm": True}),
    "nin with a bias": ("nin", CIFAR | {"last_norm": False}),
}
"""What it is -> (name in MODELS, options that make it small)."""
ALIKE = DEEPER | {"lenet on 32 pixels", "lrnet_big", "resnet14", "resnet50 on large images", "vgg_small with a bias"}
"""Forms that differ from another one in numbers alone."""


def images(model: nn.Module, count: int = 6, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape: Any = model.input_shape
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def weight_layers(model: nn.Module) -> list[nn.Module]:
    """Convolutions and dense layers, binary or not, in order."""
    return [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]


def quantizes_inputs(layer: nn.Module) -> bool:
    return isinstance(layer, BinaryLayer) and layer.input_quantizer is not None
