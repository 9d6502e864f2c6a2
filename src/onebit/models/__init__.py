"""Models: each takes uint8 images (N, C, H, W) and returns logits (N, classes); binary or real by its quantizers."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from onebit.errors import UsageError
from onebit.models.alexnet import alexnet
from onebit.models.lrnet import lrnet_big, lrnet_small
from onebit.models.mlp import MLP
from onebit.models.resnet import IMAGENET_DEPTHS, ResNet, cifar_resnet, imagenet_resnet
from onebit.models.small import lenet, nin
from onebit.models.stack import ConvNet
from onebit.models.unet import UNet
from onebit.models.vgg import vgg, vgg_small
from onebit.recipe.aliases import spelled_out
from onebit.tables import resolve

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "lenet": lenet,
    "lrnet_small": lrnet_small,
    "lrnet_big": lrnet_big,
    "nin": nin,
    "vgg_small": vgg_small,
    "vgg11": partial(vgg, 11),
    "vgg16": partial(vgg, 16),
    "alexnet": alexnet,
    **{f"resnet{depth}": partial(cifar_resnet, depth) for depth in (14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}": partial(imagenet_resnet, depth) for depth in IMAGENET_DEPTHS},
    "unet": UNet,
}


def create_model(name: str | Callable[..., nn.Module], **options: Any) -> nn.Module:
    """Build a model by name.

    Args:
        name: a name of `MODELS`, one of `onebit.recipe.aliases`, or what builds the model.
        options: the model's own arguments.

    Raises:
        UnknownNameError: no such model.
        UsageError: an option that the model does not take, or a value it refuses, such as images too small for it.

    Example:
        >>> create_model("mlp", widths=(784, 512, 10), weight_quantizer="sign")  # doctest: +ELLIPSIS
        MLP(...)
    """
    if isinstance(name, str):
        options = spelled_out({"name": name, **options})
        name = options.pop("name")
    kind = resolve(MODELS, name, kind="model")
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        unknown = re.search(r"(?:unexpected|multiple values for) keyword argument ('\w+')", str(error))
        reason = f"takes no option {unknown[1]}" if unknown else str(error)
        raise UsageError(f"model {name!r}{' ' if unknown else ': '}{reason}") from error


__all__ = ["MLP", "MODELS", "ConvNet", "ResNet", "UNet", "create_model"]
