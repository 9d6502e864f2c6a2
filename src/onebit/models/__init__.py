"""Models from uint8 images (N, C, H, W) to logits (N, classes); their quantizers make them binary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onebit.common.lazy import lazy
from onebit.models.model_table import MODELS, ModelEntry

if TYPE_CHECKING:
    from onebit.models.creation import create_model as create_model
    from onebit.models.mlp import MLP as MLP
    from onebit.models.resnet import ResNet as ResNet
    from onebit.models.stack import ConvNet as ConvNet
    from onebit.models.unet import UNet as UNet

_MODULES = {
    "mlp": "MLP",
    "stack": "ConvNet",
    "resnet": "ResNet",
    "unet": "UNet",
    "creation": "create_model",
}
__getattr__, __dir__, _NAMES = lazy(__name__, _MODULES)
__all__ = ["MODELS", "ModelEntry", *_NAMES]
