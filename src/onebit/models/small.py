"""Small convolutional nets: Network in Network and LeNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onebit.models.stack import HALVE, ConvNet, Stack, Window

OVERLAPPING: Window = (3, 2, 1)


def nin(*, input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, **options: Any) -> ConvNet:
    """Network in Network for CIFAR (arXiv:1312.4400): 1×1 convolutions after each larger one, logits by averaging.

    BatchNorm after every layer in place of its bias, and no ReLU of the logits. The paper drops out half of what its
    two poolings give: `dropout=0.5`.

    Args:
        options: see `Stack`.
    """
    stack = Stack("nin", input_shape=input_shape, classes=classes, **options)
    stack.conv(192, 5, padding=2)
    stack.conv(160, 1)
    stack.conv(96, 1, pool=OVERLAPPING)
    stack.drop()
    stack.conv(192, 5, padding=2)
    stack.conv(192, 1)
    stack.conv(192, 1)
    stack.average(OVERLAPPING)
    stack.drop()
    stack.conv(192, 3, padding=1)
    stack.conv(192, 1)
    return ConvNet(stack.average_head(), stack.input_shape)


def lenet(*, input_shape: Sequence[int] = (1, 28, 28), classes: int = 10, **options: Any) -> ConvNet:
    """LeNet-5 (LeCun et al. 1998) as it is built today: 6C5-MP2-16C5-MP2-120FC-84FC-classes with BatchNorm.

    Images of 28 pixels are padded to the paper's 32.

    Args:
        options: see `Stack`.
    """
    stack = Stack("lenet", input_shape=input_shape, classes=classes, **options)
    stack.conv(6, 5, padding=2 if min(stack.input_shape[1:]) <= 28 else 0, pool=HALVE)
    stack.conv(16, 5, pool=HALVE)
    return ConvNet(stack.head(120, 84), stack.input_shape)
