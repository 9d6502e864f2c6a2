"""VGG: the CIFAR net of BinaryConnect and BNN, and the nets of Simonyan & Zisserman."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onebit.models.parts import checked_shape, is_large
from onebit.models.stack import HALVE, ConvNet, Stack

STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
"""Depth -> number of convolutions of each stage: configurations A and D of the paper."""


def add_stages(stack: Stack, counts: Sequence[int], channels: Sequence[int]) -> None:
    """Stages of 3×3 convolutions, with max pooling after each."""
    for count, outputs in zip(counts, channels, strict=True):
        for i in range(count):
            stack.conv(outputs, 3, padding=1, pool=HALVE if i == count - 1 else None)


def vgg_small(*, input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, **options: Any) -> ConvNet:
    """2×128C3-MP2-2×256C3-MP2-2×512C3-MP2-2×1024FC-classes, BatchNorm after every layer.

    The CIFAR-10 net of BinaryConnect (arXiv:1511.00363) and BNN (arXiv:1602.02830); pooling before BatchNorm as in the
    latter's code.

    Args:
        options: see `Stack`.
    """
    stack = Stack("vgg_small", input_shape=input_shape, classes=classes, **options)
    add_stages(stack, (2, 2, 2), (128, 256, 512))
    return ConvNet(stack.head(1024, 1024), stack.input_shape)


def vgg(depth: int, *, input_shape: Sequence[int] = (3, 224, 224), classes: int = 1000, **options: Any) -> ConvNet:
    """VGG-11 or VGG-16 (arXiv:1409.1556, configurations A and D), BatchNorm after every layer in place of its bias.

    Large images get the paper's two dense layers of 4096, small ones (CIFAR) two of 512. The paper drops out half of
    these: `dropout=0.5`.

    Args:
        depth: 11 or 16.
        options: see `Stack`.
    """
    stack = Stack(f"vgg{depth}", input_shape=input_shape, classes=classes, **options)
    add_stages(stack, STAGES[depth], (64, 128, 256, 512, 512))
    hidden = 4096 if is_large(checked_shape(input_shape)) else 512
    return ConvNet(stack.head(hidden, hidden), stack.input_shape)
