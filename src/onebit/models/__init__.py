"""Models from uint8 images (N, C, H, W) to logits (N, classes); their quantizers make them binary."""

from typing import TYPE_CHECKING

from onebit.common.lazy import lazy
from onebit.models.settings import MODELS, ModelEntry

if TYPE_CHECKING:
    from onebit.models.creation import create_model as create_model
    from onebit.models.mlp import MLP as MLP
    from onebit.models.resnet import ResNet as ResNet
    from onebit.models.stack import ConvNet as ConvNet
    from onebit.models.unet import UNet as UNet

__getattr__, __dir__, _HOME = lazy(
    __name__, {"creation": "create_model", "mlp": "MLP", "resnet": "ResNet", "stack": "ConvNet", "unet": "UNet"}
)
__all__ = ["MODELS", "ModelEntry", *_HOME]
