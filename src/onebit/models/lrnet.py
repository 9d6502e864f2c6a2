"""The two nets of LR-net (Shayer, Levi, Fetaya 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onebit.models.stack import HALVE, ConvNet, Stack
from onebit.models.vgg import add_stages


def lrnet_small(*, input_shape: Sequence[int] = (1, 28, 28), classes: int = 10, **options: Any) -> ConvNet:
    """32C5-MP2-64C5-MP2-512FC-classes, BatchNorm after every layer.

    The MNIST net of LR-net (arXiv:1710.07739). Convolutions keep the size of the image, as in the authors' code, which
    also drops out half of the hidden units and keeps the last layer real: `dropout=0.5`, `real_last=True`.

    Args:
        options: see `Stack`.
    """
    stack = Stack("lrnet_small", input_shape=input_shape, classes=classes, **options)
    for channels in (32, 64):
        stack.conv(channels, 5, padding=2, pool=HALVE)
    return ConvNet(stack.head(512), stack.input_shape)


def lrnet_big(*, input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, **options: Any) -> ConvNet:
    """2×128C3-MP2-2×256C3-MP2-2×512C3-MP2-1024FC-classes, BatchNorm after every layer.

    The CIFAR-10 net of LR-net (arXiv:1710.07739): `vgg_small` with one hidden dense layer. The authors' code drops out
    half of its units and keeps the last layer real: `dropout=0.5`, `real_last=True`.

    Args:
        options: see `Stack`.
    """
    stack = Stack("lrnet_big", input_shape=input_shape, classes=classes, **options)
    add_stages(stack, (2, 2, 2), (128, 256, 512))
    return ConvNet(stack.head(1024), stack.input_shape)
