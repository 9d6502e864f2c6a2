"""Every model by name, with the options of its own. No torch here: `onebit train --help` prints them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from onebit.common.arguments import need
from onebit.common.entries import Entry, Table

MOST_LAYERS = 1_000


@dataclass(frozen=True, eq=False)
class ModelEntry(Entry):
    """What a model declares. It also takes the options that all models share (`onebit.recipe.ModelRecipe`).

    Args:
        options: dataclass of its own options, which become fields of a recipe and arguments of the model; a model that
            gets no value for one uses its own default.
        masks: it gives a class to each pixel, not to each image.
    """

    options: type | None = None
    masks: bool = False


@dataclass(frozen=True)
class DropoutOptions:
    """Options of nets with dropout.

    Args:
        dropout: probability of zeroing a hidden unit; in a U-Net, a channel
    """

    dropout: float | None = None

    def __post_init__(self) -> None:
        need("model.dropout", self.dropout, 0 <= (self.dropout or 0) < 1, "in [0, 1)")


@dataclass(frozen=True)
class MLPOptions(DropoutOptions):
    """Options of dense nets.

    Args:
        widths: units per layer, input and classes included
        input_dropout: probability of zeroing an input
    """

    widths: tuple[int, ...] | None = None
    input_dropout: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        need("model.input_dropout", self.input_dropout, 0 <= (self.input_dropout or 0) < 1, "in [0, 1)")
        if self.widths is not None:
            fits = 2 <= len(self.widths) <= MOST_LAYERS and min(self.widths) >= 1 and max(self.widths) <= 10**7
            expected = f"two or more positive numbers, at most {MOST_LAYERS:,} of at most 10 million"
            need("model.widths", self.widths, fits, expected)


@dataclass(frozen=True)
class StemOptions:
    """Options of nets that have one stem for small images and one for large ones.

    Args:
        stem: first layers, cifar or imagenet; null chooses by the size of the images
    """

    stem: str | None = None

    def __post_init__(self) -> None:
        need("model.stem", self.stem, self.stem in (None, "cifar", "imagenet"), "cifar or imagenet")


@dataclass(frozen=True)
class AlexNetOptions(StemOptions, DropoutOptions):
    """Options of AlexNet."""

    def __post_init__(self) -> None:
        StemOptions.__post_init__(self)
        DropoutOptions.__post_init__(self)


@dataclass(frozen=True)
class ResNetOptions:
    """Options of residual nets.

    Args:
        bireal: a shortcut around each convolution, in nets without bottlenecks
    """

    bireal: bool | None = None


@dataclass(frozen=True)
class ImageNetResNetOptions(ResNetOptions, StemOptions):
    """Options of the residual nets for ImageNet."""


@dataclass(frozen=True)
class UNetOptions(DropoutOptions):
    """Options of U-Nets.

    Args:
        padding: of the convolutions, same, or valid as in the paper
    """

    padding: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        need("model.padding", self.padding, self.padding in (None, "same", "valid"), "same or valid")


_chain = partial(ModelEntry, options=DropoutOptions)
_cifar = partial(ModelEntry, "onebit.models.resnet:cifar_resnet", options=ResNetOptions)
_imagenet = partial(ModelEntry, "onebit.models.resnet:imagenet_resnet", options=ImageNetResNetOptions)

MODELS = Table(
    ModelEntry,
    {
        "mlp": ModelEntry("onebit.models.mlp:MLP", options=MLPOptions),
        "lenet": _chain("onebit.models.small:lenet"),
        "lrnet_small": _chain("onebit.models.lrnet:lrnet_small"),
        "lrnet_big": _chain("onebit.models.lrnet:lrnet_big"),
        "nin": _chain("onebit.models.small:nin"),
        "vgg_small": _chain("onebit.models.vgg:vgg_small"),
        "vgg11": _chain("onebit.models.vgg:vgg", (11,)),
        "vgg16": _chain("onebit.models.vgg:vgg", (16,)),
        "alexnet": ModelEntry("onebit.models.alexnet:alexnet", options=AlexNetOptions),
        **{f"resnet{depth}": _cifar((depth,)) for depth in (14, 20, 32, 44, 56, 110)},
        **{f"resnet{depth}": _imagenet((depth,)) for depth in (18, 34, 50)},
        "unet": ModelEntry("onebit.models.unet:UNet", options=UNetOptions, masks=True),
    },
)
