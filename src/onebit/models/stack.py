"""Builds chains of layers, one after the other, and follows the shape of their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from onebit.layers.fused_norm import Chain
from onebit.models.parts import Parts, quantized

Window = tuple[int, int, int]
"""Kernel, stride and padding, in pixels."""
HALVE: Window = (2, 2, 0)


class ConvNet(Chain):
    """A chain of layers that a `Stack` builds: uint8 images (N, C, H, W) -> logits (N, classes)."""

    input_shape: tuple[int, int, int]


class Stack:
    """Builds a chain: coding -> (convolution -> max pooling -> BatchNorm -> ReLU)* -> (dense -> BatchNorm -> ReLU)* ->
    logits.

    Pooling comes right after the convolution, so that the next sign follows BatchNorm, as in BNN (arXiv:1602.02830).
    With an input quantizer that sign replaces the ReLU, but not an RPReLU; an integer quantizer is part of the
    activation. Layers are numbered by the weights: `conv1`, `pool1`, `norm1`, `relu1`, `conv2`, …, `linear7`.

    Args:
        input_shape: (C, H, W); classes: number of logits.
        net: gets the layers; a new net when None.
        dropout: probability of zeroing a unit at the dropout layers of the net; not before a sign.
        last_norm: see `Parts`; without it the last layer has a bias.
        settings: see `Parts`.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        *,
        net: ConvNet | None = None,
        dropout: float = 0.0,
        last_norm: bool = True,
        **settings: Any,
    ) -> None:
        self.parts = Parts(last_norm=last_norm, **settings)
        self.net, self.classes, self.dropout = ConvNet() if net is None else net, classes, dropout
        channels, height, width = input_shape
        self.net.input_shape = self.shape = channels, height, width
        self.net.add_module("coding", self.parts.image_coding())
        self._count = 0
        self._inactive = 0  # channels of a last BatchNorm, whose activation depends on the next layer

    def conv(
        self, channels: int, kernel: int, *, stride: int = 1, padding: int = 0, pool: Window | None = None
    ) -> None:
        """Convolution to `channels` × width, optional max pooling, BatchNorm, and an activation."""
        channels = self.parts.widened(channels)
        self._add_conv(channels, (kernel, stride, padding))
        if pool:
            self._slide(channels, pool)
            self._add("pool", nn.MaxPool2d(*pool))
        self._add("norm", self.parts.norm2d(channels))
        self._inactive = channels

    def average(self, window: Window) -> None:
        """Average pooling after an activation; averages of integers are quantized again."""
        quantizer = self.parts.integer_quantizer()
        self._activate(before_real=quantizer is not None)
        self._slide(self.shape[0], window)
        self._add("pool", nn.AvgPool2d(*window))
        if quantizer is not None:
            self._add("integers", quantized(quantizer))

    def drop(self) -> None:
        """Dropout, if the net has any."""
        self._activate()
        if self.dropout:
            self._add("dropout", self.parts.dropout(self.dropout))

    def head(self, *hidden: int) -> ConvNet:
        """The net with a head of dense layers of `hidden` × width units, each with dropout, and logits."""
        self._activate(before_real=self.parts.real_last and not hidden)
        self.net.add_module("flatten", nn.Flatten())
        units = self.shape[0] * self.shape[1] * self.shape[2]
        for i, outputs in enumerate(hidden, start=1):
            inputs, units = units, self.parts.widened(outputs)
            self._add_linear(inputs, units)
            self._add("norm", self.parts.norm1d(units))
            self._inactive = units
            self._activate(before_real=self.parts.real_last and i == len(hidden))
            self.drop()
        self._add_linear(units, self.classes, real=self.parts.real_last, bias=not self.parts.last_norm)
        return self._finished()

    def average_head(self) -> ConvNet:
        """The net with a head of a 1×1 convolution to `classes` channels, whose averages are the logits."""
        self._activate(before_real=self.parts.real_last)
        self._add_conv(self.classes, (1, 1, 0), real=self.parts.real_last, bias=not self.parts.last_norm)
        self._add("pool", nn.AdaptiveAvgPool2d(1))
        self.net.add_module("flatten", nn.Flatten())
        return self._finished()

    def _finished(self) -> ConvNet:
        if self.parts.last_norm:
            self._add("norm", self.parts.norm1d(self.classes))
        return self.net

    def _add(self, kind: str, layer: nn.Module) -> None:
        self.net.add_module(f"{kind}{self._count}", layer)

    def _add_conv(self, channels: int, window: Window, **options: Any) -> None:
        self._activate()
        self._count += 1
        kernel, stride, padding = window
        options |= {"stride": stride, "padding": padding, "first": self._count == 1}
        layer = self.parts.layer(nn.Conv2d, self.shape[0], channels, kernel, **options)
        self._slide(channels, window)
        self._add("conv", layer)

    def _add_linear(self, inputs: int, outputs: int, **options: bool) -> None:
        self._count += 1
        self._add("linear", self.parts.layer(nn.Linear, inputs, outputs, first=self._count == 1, **options))

    def _activate(self, *, before_real: bool = False) -> None:
        if self._inactive:
            layer = self.parts.active(self._inactive, before_real=before_real)
            if not isinstance(layer, nn.Identity):
                self._add(self.parts.activation, layer)
        self._inactive = 0

    def _slide(self, channels: int, window: Window) -> None:
        """Follow the shape through a convolution or a pooling."""
        kernel, stride, padding = window
        height, width = ((size + 2 * padding - kernel) // stride + 1 for size in self.shape[1:])
        self.shape = channels, height, width
