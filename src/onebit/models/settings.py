"""All models by name, with their settings, which build them. Imports no torch: recipes and `--help` have them, too."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from onebit.common.custom_names import is_custom
from onebit.common.entries import Entry, Table, load
from onebit.common.fields import Bound, Checked, Positive, PositiveShare, Share, checked, within

MAX_LAYERS = 1_000
Widths = Annotated[
    tuple[int, ...],
    Bound(
        f"two or more positive numbers, at most {MAX_LAYERS:,} of at most 10 million",
        lambda widths: 2 <= len(widths) <= MAX_LAYERS and min(widths) >= 1 and max(widths) <= 10**7,
    ),
]


@checked(frozen=True)
class Model(Checked):
    """The settings of all models; null takes the model's default.

    Args:
        name: see `onebit list models`
        weight_quantizer: see `onebit list quantizers`, or a custom one, FILE.py:Class; null keeps real weights
        input_quantizer: signs, or integers of few bits, as inputs of all layers except the first; null keeps real ones
        weight_options: arguments of the weight quantizer, e.g. {temperature: 1e-10}
        input_options: arguments of the input quantizer, e.g. {range: pact}
        value: weights are ±value, a number or glorot
        real_first: keep real weights in the first layer
        real_last: keep real weights in the last layer
        norm_eps: BatchNorm's epsilon
        norm_momentum: BatchNorm's momentum, the share of the newest batch
        dense_norm_momentum: momentum of BatchNorm after dense layers; null takes norm_momentum
        norm_affine: BatchNorm with learnable scale and shift
        activation: relu, which a quantizer replaces; rprelu (ReActNet) and hardtanh are kept before one
        init: initial weights, uniform (latents uniform in ±value) or default (torch's)
        coding: input coding, integer (2x − 255) or standardize
        width: factor on the number of channels
        last_norm: BatchNorm of the logits
        padding_value: pads ±1 inputs of convolutions, 0, 1 or -1
    """

    PART: ClassVar[str] = "model"

    name: str = "mlp"
    weight_quantizer: str | None = "sign"
    input_quantizer: str | None = None
    weight_options: dict[str, Any] | None = None
    input_options: dict[str, Any] | None = None
    value: Positive | Literal["glorot"] = 1.0
    real_first: bool = False
    real_last: bool = False
    norm_eps: Positive = 1e-5
    norm_momentum: PositiveShare = 0.1
    dense_norm_momentum: PositiveShare | None = None
    norm_affine: bool = True
    activation: Literal["relu", "rprelu", "hardtanh"] = "relu"
    init: Literal["uniform", "default"] = "uniform"
    coding: Literal["integer", "standardize", "auto", "none"] = "integer"
    width: Annotated[float, within("(0, 64]")] | None = None
    last_norm: bool | None = None
    padding_value: Annotated[float, Bound("0, 1 or -1", lambda value: value in (0, 1, -1))] | None = None

    def code(self) -> dict[str, str]:
        """Flag -> name of the custom code of the model and its quantizers."""
        names = {name: getattr(self, name) for name in ("name", "weight_quantizer", "input_quantizer")}
        return {f"model.{field}": name for field, name in names.items() if name is not None and is_custom(name)}

    def likely_data(self, side: int) -> tuple[tuple[int, int, int], int]:
        """(C, H, W) and number of classes of data of unknown shape that the net takes, for images of a side."""
        return (3, side, side), 10

    def build(self, *, input_shape: Sequence[int], classes: int, **statistics: Any) -> Any:
        """The torch model for images (C, H, W) and a number of classes; `statistics`: see `onebit.InputCoding`."""
        create_model = load("onebit.models.creation:create_model")
        kept = ("weight_quantizer", "input_quantizer")  # null means real ones
        given = {name: value for name, value in dataclasses.asdict(self).items() if name in kept or value is not None}
        return create_model(given.pop("name"), input_shape=tuple(input_shape), classes=classes, **given, **statistics)


@checked(frozen=True)
class Custom(Model):
    """A model by its code, FILE.py:Class or package.module:Class.

    Args:
        arguments: by the names in its signature
    """

    arguments: dict[str, object] | None = None

    @classmethod
    def like(cls, model: Model, **changes: Any) -> Custom:
        """Custom code with the settings of a model."""
        return cls(**{item.name: getattr(model, item.name) for item in dataclasses.fields(Model)} | changes)


@checked(frozen=True)
class Dropout(Model):
    """A model with dropout.

    Args:
        dropout: probability of zeroing a hidden unit; in a U-Net, a channel
    """

    dropout: Share | None = None


@checked(frozen=True)
class Mlp(Dropout):
    """A fully connected net.

    Args:
        widths: units per layer, input and classes included
        input_dropout: probability of zeroing an input
    """

    widths: Widths | None = None
    input_dropout: Share | None = None

    def likely_data(self, side: int) -> tuple[tuple[int, int, int], int]:
        return super().likely_data(side) if self.widths is None else ((1, 1, self.widths[0]), self.widths[-1])


@checked(frozen=True)
class Stem(Model):
    """A model whose first layers depend on the size of images.

    Args:
        stem: first layers, cifar or imagenet; null chooses by the size of images
    """

    stem: Literal["cifar", "imagenet"] | None = None


@checked(frozen=True)
class AlexNet(Stem, Dropout):
    """AlexNet."""


@checked(frozen=True)
class CifarResNet(Model):
    """A ResNet for small images.

    Args:
        bireal: a shortcut around each convolution, in nets without bottlenecks
    """

    bireal: bool | None = None


@checked(frozen=True)
class ImageNetResNet(CifarResNet, Stem):
    """A ResNet for images of any size."""


@checked(frozen=True)
class UNet(Dropout):
    """A U-Net.

    Args:
        padding: of the convolutions, same, or valid as in the paper
    """

    padding: Literal["same", "valid"] | None = None


@dataclass(frozen=True, eq=False)
class ModelEntry(Entry):
    """A model and the class of its settings, which are its arguments."""

    settings: type[Model] = Model


_chain = partial(ModelEntry, settings=Dropout)
_cifar = partial(ModelEntry, "onebit.models.resnet:cifar_resnet", settings=CifarResNet)
_imagenet = partial(ModelEntry, "onebit.models.resnet:imagenet_resnet", settings=ImageNetResNet)

MODELS = Table(
    ModelEntry,
    {
        "mlp": ModelEntry("onebit.models.mlp:MLP", settings=Mlp),
        "lenet": _chain("onebit.models.chains:lenet"),
        "lrnet_small": _chain("onebit.models.chains:lrnet_small"),
        "lrnet_big": _chain("onebit.models.chains:vgg_small", (1024,)),
        "nin": _chain("onebit.models.chains:nin"),
        "vgg_small": _chain("onebit.models.chains:vgg_small", (1024, 1024)),
        "vgg11": _chain("onebit.models.chains:vgg", (11,)),
        "vgg16": _chain("onebit.models.chains:vgg", (16,)),
        "alexnet": ModelEntry("onebit.models.chains:alexnet", settings=AlexNet),
        **{f"resnet{depth}": _cifar((depth,)) for depth in (14, 20, 32, 44, 56, 110)},
        **{f"resnet{depth}": _imagenet((depth,)) for depth in (18, 34, 50)},
        "unet": ModelEntry("onebit.models.unet:UNet", settings=UNet),
    },
)
"""Models by name."""
