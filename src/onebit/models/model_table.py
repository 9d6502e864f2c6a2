"""Every model by name, with its options. No torch here: `onebit train --help` prints them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from onebit.common.entries import Entry, Option, Table
from onebit.common.fields import Bound, Share

MOST_LAYERS = 1_000


@dataclass(frozen=True, eq=False)
class ModelEntry(Entry):
    """A model of the table. It also takes the options that all models share (`onebit.recipe.ModelRecipe`).

    Args:
        options: arguments of the model; None stands for the default of the model.
        masks: whether it predicts a class for each pixel, not for each image.
    """

    masks: bool = False


Widths = Annotated[
    tuple[int, ...],
    Bound(
        f"two or more positive numbers, at most {MOST_LAYERS:,} of at most 10 million",
        lambda widths: 2 <= len(widths) <= MOST_LAYERS and min(widths) >= 1 and max(widths) <= 10**7,
    ),
]
DROPOUT = Option("dropout", Share | None, None, "probability of zeroing a hidden unit; in a U-Net, a channel")
MLP = (
    Option("widths", Widths | None, None, "units per layer, input and classes included"),
    DROPOUT,
    Option("input_dropout", Share | None, None, "probability of zeroing an input"),
)
STEM = Option(
    "stem",
    Literal["cifar", "imagenet"] | None,
    None,
    "first layers, cifar or imagenet; null chooses by the size of images",
)
BIREAL = Option("bireal", bool | None, None, "a shortcut around each convolution, in nets without bottlenecks")
PADDING = Option(
    "padding", Literal["same", "valid"] | None, None, "of the convolutions, same, or valid as in the paper"
)

_chain = partial(ModelEntry, options=(DROPOUT,))
_cifar = partial(ModelEntry, "onebit.models.resnet:cifar_resnet", options=(BIREAL,))
_imagenet = partial(ModelEntry, "onebit.models.resnet:imagenet_resnet", options=(BIREAL, STEM))

MODELS = Table(
    ModelEntry,
    {
        "mlp": ModelEntry("onebit.models.mlp:MLP", options=MLP),
        "lenet": _chain("onebit.models.chains:lenet"),
        "lrnet_small": _chain("onebit.models.chains:lrnet_small"),
        "lrnet_big": _chain("onebit.models.chains:vgg_small", (1024,)),
        "nin": _chain("onebit.models.chains:nin"),
        "vgg_small": _chain("onebit.models.chains:vgg_small", (1024, 1024)),
        "vgg11": _chain("onebit.models.chains:vgg", (11,)),
        "vgg16": _chain("onebit.models.chains:vgg", (16,)),
        "alexnet": ModelEntry("onebit.models.chains:alexnet", options=(STEM, DROPOUT)),
        **{f"resnet{depth}": _cifar((depth,)) for depth in (14, 20, 32, 44, 56, 110)},
        **{f"resnet{depth}": _imagenet((depth,)) for depth in (18, 34, 50)},
        "unet": ModelEntry("onebit.models.unet:UNet", options=(DROPOUT, PADDING), masks=True),
    },
)
