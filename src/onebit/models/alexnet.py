"""AlexNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onebit.models.parts import checked_shape, choose_stem
from onebit.models.stack import ConvNet, Stack, Window

POOL: Window = (3, 2, 0)


def alexnet(
    *, input_shape: Sequence[int] = (3, 224, 224), classes: int = 1000, stem: str | None = None, **options: Any
) -> ConvNet:
    """AlexNet in one column (Krizhevsky 2014, arXiv:1404.5997), BatchNorm after every layer in place of its bias.

    The paper drops out half of the hidden dense units: `dropout=0.5`.

    Args:
        stem: "imagenet" is the paper's 11×11 convolution of stride 4, "cifar" a 3×3 one of stride 1, for images from 15
            pixels on; None chooses by the size of the image.
        options: see `Stack`.
    """
    stack = Stack("alexnet", input_shape=input_shape, classes=classes, **options)
    if choose_stem(stem, checked_shape(input_shape)) == "imagenet":
        stack.conv(64, 11, stride=4, padding=2, pool=POOL)
    else:
        stack.conv(64, 3, padding=1, pool=POOL)
    stack.conv(192, 5, padding=2, pool=POOL)
    stack.conv(384, 3, padding=1)
    stack.conv(256, 3, padding=1)
    stack.conv(256, 3, padding=1, pool=POOL)
    return ConvNet(stack.head(4096, 4096), stack.input_shape)
