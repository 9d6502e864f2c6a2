"""Names under which other repositories know our models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_REAL = {"weight_quantizer": None, "input_quantizer": None}
_BINARY = {"weight_quantizer": "ste_sign", "input_quantizer": "ste_sign"}

MODEL_ALIASES: dict[str, dict[str, Any]] = {
    "alexnet": {"name": "alexnet", **_REAL},
    "alexnet_binary": {"name": "alexnet", **_BINARY},
    "vgg": {"name": "vgg_small", **_REAL},
    "vgg_cifar10": {"name": "vgg_small", **_REAL},
    "vgg_cifar10_binary": {"name": "vgg_small", **_BINARY},
    "vgg_cifar100": {"name": "vgg_small", **_REAL},
    "vgg_cifar100_binary": {"name": "vgg_small", **_BINARY},
    "resnet": {"name": "resnet14", **_REAL},
    "resnet_binary": {"name": "resnet14", "width": 5.0, **_BINARY},
}
"""Model name of BinaryNet.pytorch -> our model and the settings that make it that net.

There `_binary` means binary weights and activations, and the bare name full precision. AlexNet and VGG have the widths
of the papers; that repository triples most channels of its binary ones, which `width: 3` comes near. Its CIFAR resnets
are called 18 deep but have two blocks a stage, which makes 6·2 + 2 = 14 layers, the binary one five times as wide; ours
have shortcuts without parameters. The number of classes follows the data set.
"""


def spelled_out(model: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model with an alias replaced by what it stands for; settings that are given win over it.

    Example:
        >>> spelled_out({"name": "vgg_cifar10_binary", "input_quantizer": None})
        {'name': 'vgg_small', 'weight_quantizer': 'ste_sign', 'input_quantizer': None}
    """
    alias = MODEL_ALIASES.get(str(model.get("name")))
    return dict(model) if alias is None else {**alias, **model, "name": alias["name"]}
