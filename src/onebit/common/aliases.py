"""Names of our models in other repositories."""

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
"""Model name in BinaryNet.pytorch -> our model and the settings that make it the same net.

There `_binary` means binary weights and activations; the name alone means full precision. Our AlexNet and VGG have the
widths of the papers; that repository triples most channels of its binary nets, and `width: 3` is close to it. Its CIFAR
ResNets are called 18 layers deep but have two blocks a stage, so 6·2 + 2 = 14 layers, five times as wide in the binary
one; ours have shortcuts without parameters. The number of classes is that of the data set.
"""


def spelled_out(model: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model with an alias replaced by our name and its settings; given settings take precedence.

    Example:
        >>> spelled_out({"name": "vgg_cifar10_binary", "input_quantizer": None})
        {'name': 'vgg_small', 'weight_quantizer': 'ste_sign', 'input_quantizer': None}
    """
    alias = MODEL_ALIASES.get(str(model.get("name")))
    return dict(model) if alias is None else {**alias, **model, "name": alias["name"]}
