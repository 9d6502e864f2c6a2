"""The layers of the models, binary or real by one setting."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from onebit.common.fields import Checked, Positive, checked, read
from onebit.errors import UsageError
from onebit.layers import (
    BINARY_TWINS,
    InputCoding,
    InputQuantizer,
    LatentWeight,
    RPReLU,
    WeightQuantizer,
    make_input_quantizer,
    with_options,
)
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS, Quantizer

LARGE = 64
"""Images with a longer shortest side count as large (ImageNet), others as small (CIFAR)."""


def is_large(input_shape: Sequence[int]) -> bool:
    """Whether images (C, H, W) are as large as ImageNet's rather than CIFAR's."""
    return min(input_shape[1:]) > LARGE


def choose_stem(stem: str | None, input_shape: Sequence[int]) -> str:
    """The name of a stem; None chooses by the size of the image."""
    named = read(stem, Literal["cifar", "imagenet"] | None, name="stem")
    return named or ("imagenet" if is_large(input_shape) else "cifar")


def init_latents_(layer: nn.Module, init: str) -> None:
    """Initialize the latents of a layer with binary weights as `Parts.init` states; other layers stay unchanged."""
    if init == "uniform" and isinstance(layer, LatentWeight) and layer.weight_quantizer is not None:
        bound = layer.weight_quantizer.latent_bound or 1.0
        nn.init.uniform_(layer.weight, -bound, bound)


@checked(frozen=True)
class Parts(Checked):
    """The settings that all models share; makes their layers.

    Args:
        weight_quantizer: name or object; None keeps real weights.
        input_quantizer: name or object for every layer but the first; None keeps real activations. An integer quantizer
            is part of the activation, so that shortcuts take the same integers.
        weight_options, input_options: arguments of the quantizers that are given by name.
        value: the two weight values are ±value, a number or "glorot".
        padding_value: what binary convolutions are padded with: 0, 1 or -1.
        norm_eps, norm_momentum, norm_affine: BatchNorm's; momentum 0.15 means 15 % of the newest batch.
        dense_norm_momentum: that of BatchNorm after dense layers; None takes `norm_momentum`.
        activation: "relu", which signs and integers from 0 replace; "rprelu" of ReActNet or "hardtanh" stay before
            either.
        init: "uniform" draws latents of binary layers uniformly from ±value, "default" is torch's.
        width: factor on the channels, and on the units of hidden dense layers.
        real_first, real_last: keep real weights in the first layer; real weights and inputs in the last.
        last_norm: BatchNorm of the logits, which gives ±1 weights of the last layer a scale.
        coding, mean, std: see `InputCoding`; mean and std of pixels 0–255.
    """

    weight_quantizer: WeightQuantizer = "sign"
    input_quantizer: InputQuantizer = None
    weight_options: Mapping[str, Any] | None = None
    input_options: Mapping[str, Any] | None = None
    value: float | str = 1.0
    padding_value: float = 0.0
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    dense_norm_momentum: float | None = None
    norm_affine: bool = True
    activation: Literal["relu", "rprelu", "hardtanh"] = "relu"
    init: Literal["uniform", "default"] = "default"
    width: Positive = 1.0
    real_first: bool = False
    real_last: bool = False
    last_norm: bool = False
    coding: str = "integer"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def widened(self, channels: int) -> int:
        """`channels` times `width`, rounded, at least 1."""
        return max(1, round(self.width * channels))

    def image_coding(self) -> InputCoding:
        """The first module of a model."""
        return InputCoding(self.coding, mean=self.mean, std=self.std, scale=1)  # images of only 0 and 1 are valid

    def layer(
        self,
        kind: type[nn.Module],
        *sizes: int,
        first: bool = False,
        real: bool = False,
        bias: bool = False,
        **options: Any,
    ) -> Any:
        """A layer of a torch class, or its binary twin if weights or inputs are quantized.

        Args:
            kind: `torch.nn.Conv2d`, `ConvTranspose2d` or `Linear`.
            sizes, options: arguments of the class.
            first: the layer takes pixels, which are not quantized; its weights are real if `real_first`.
            real: keep real weights and real inputs.
        """
        weight = inputs = None
        real = real or (first and self.real_first)
        if not real:
            weight = with_options(
                WEIGHT_QUANTIZERS, self.weight_quantizer, self.weight_options, kind="weight quantizer"
            )
        if not (real or first) and self.takes_signs:
            inputs = self._inputs()
        if weight is None and inputs is None:
            return kind(*sizes, bias=bias, **options)
        if kind is nn.Conv2d and inputs is not None:  # pixels and real activations are padded with zero
            options["padding_value"] = self.padding_value
        options |= {"weight_quantizer": weight, "input_quantizer": inputs, "value": self.value}
        layer = BINARY_TWINS[kind](*sizes, bias=bias, **options)
        init_latents_(layer, self.init)
        return layer

    def dropout(self, share: float, kind: type[nn.Module] = nn.Dropout) -> nn.Module:
        """Dropout of `share` of the values; UsageError before signs."""
        if share and self.takes_signs:
            raise UsageError("dropout before signs drops nothing, since sign(0) = +1: use it without input_quantizer")
        return kind(share) if share else nn.Identity()

    def norm2d(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=self.norm_eps, momentum=self.norm_momentum, affine=self.norm_affine)

    def norm1d(self, channels: int) -> nn.BatchNorm1d:
        momentum = self.norm_momentum if self.dense_norm_momentum is None else self.dense_norm_momentum
        return nn.BatchNorm1d(channels, eps=self.norm_eps, momentum=momentum, affine=self.norm_affine)

    def _inputs(self) -> Any:
        return with_options(INPUT_QUANTIZERS, self.input_quantizer, self.input_options, kind="input quantizer")

    @property
    def takes_signs(self) -> bool:
        """Whether layers take the signs of their inputs; `active` makes integers."""
        return self.input_quantizer is not None and self.integer_quantizer() is None

    def integer_quantizer(self) -> Quantizer | None:
        """A new input quantizer to integers; None without an input quantizer or for signs."""
        made = make_input_quantizer(self._inputs())
        return made if isinstance(made, Quantizer) and made.integer_input() is not None else None

    def active(self, channels: int, *, before_real: bool = False) -> nn.Module:
        """The activation for a number of channels; no ReLU where the sign of the next layer replaces it.

        `before_real`: the next layer keeps real inputs, whatever the settings.
        """
        plain = nn.Hardtanh if self.activation == "hardtanh" else nn.ReLU
        real = RPReLU(channels) if self.activation == "rprelu" else plain()
        if before_real or self.input_quantizer is None:
            return real
        quantizer = self.integer_quantizer()
        if quantizer is None:
            return nn.Identity() if self.activation == "relu" else real
        return quantized(quantizer, real)


def quantized(quantizer: Quantizer, activation: nn.Module | None = None) -> nn.Sequential:
    """An integer quantizer after an activation; clipping at 0 replaces a ReLU."""
    given = quantizer.integer_input()
    assert given is not None
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if activation is not None and not (isinstance(activation, nn.ReLU) and given.least == 0):
        parts["activation"] = activation
    parts["quantizer"] = quantizer
    return nn.Sequential(parts)
