"""Chains of layers: LeNet, Network in Network, the two nets of LR-net, VGG and AlexNet; options as in `Stack`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onebit.models.parts import choose_stem, is_large
from onebit.models.stack import HALVE, ConvNet, Stack, Window

NIN_POOL: Window = (3, 2, 1)
ALEXNET_POOL: Window = (3, 2, 0)
VGG_STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
"""Depth -> number of convolutions of each stage: configurations A and D of the paper."""


def lenet(*, input_shape: Sequence[int] = (1, 28, 28), classes: int = 10, **options: Any) -> ConvNet:
    """LeNet-5 (LeCun et al. 1998) with today's layers: 6C5-MP2-16C5-MP2-120FC-84FC-classes with BatchNorm.

    Images of 28 pixels are padded to the paper's 32.
    """
    stack = Stack(input_shape, classes, **options)
    stack.conv(6, 5, padding=2 if min(input_shape[1:]) <= 28 else 0, pool=HALVE)
    stack.conv(16, 5, pool=HALVE)
    return stack.head(120, 84)


def nin(*, input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, **options: Any) -> ConvNet:
    """Network in Network for CIFAR (arXiv:1312.4400): 1×1 convolutions after each larger one, logits by averaging.

    BatchNorm after every layer in place of its bias, and no ReLU of the logits. The paper has dropout of 0.5 after its
    two poolings: `dropout=0.5`.
    """
    stack = Stack(input_shape, classes, **options)
    stack.conv(192, 5, padding=2)
    stack.conv(160, 1)
    stack.conv(96, 1, pool=NIN_POOL)
    stack.drop()
    stack.conv(192, 5, padding=2)
    stack.conv(192, 1)
    stack.conv(192, 1)
    stack.average(NIN_POOL)
    stack.drop()
    stack.conv(192, 3, padding=1)
    stack.conv(192, 1)
    return stack.average_head()


def add_stages(stack: Stack, counts: Sequence[int], channels: Sequence[int]) -> None:
    """Stages of 3×3 convolutions, with max pooling after each."""
    for count, outputs in zip(counts, channels, strict=True):
        for i in range(count):
            stack.conv(outputs, 3, padding=1, pool=HALVE if i == count - 1 else None)


def lrnet_small(*, input_shape: Sequence[int] = (1, 28, 28), classes: int = 10, **options: Any) -> ConvNet:
    """32C5-MP2-64C5-MP2-512FC-classes, BatchNorm after every layer.

    The MNIST net of LR-net (arXiv:1710.07739). Convolutions keep the size of the image, as in the authors' code, which
    also has `dropout=0.5` of the hidden units and `real_last=True`.
    """
    stack = Stack(input_shape, classes, **options)
    for channels in (32, 64):
        stack.conv(channels, 5, padding=2, pool=HALVE)
    return stack.head(512)


def vgg_small(*hidden: int, input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, **options: Any) -> ConvNet:
    """2×128C3-MP2-2×256C3-MP2-2×512C3-MP2 and dense layers of `hidden` units, BatchNorm after every layer.

    With two layers of 1024 units the CIFAR-10 net of BinaryConnect (arXiv:1511.00363) and BNN (arXiv:1602.02830), with
    pooling before BatchNorm as in the code of BNN. With one, that of LR-net (arXiv:1710.07739), whose authors' code has
    `dropout=0.5` and `real_last=True`.
    """
    stack = Stack(input_shape, classes, **options)
    add_stages(stack, (2, 2, 2), (128, 256, 512))
    return stack.head(*hidden)


def vgg(depth: int, *, input_shape: Sequence[int] = (3, 224, 224), classes: int = 1000, **options: Any) -> ConvNet:
    """VGG-11 or VGG-16 (arXiv:1409.1556, configurations A and D), BatchNorm after every layer in place of its bias.

    Large images get the paper's two dense layers of 4096 units, small ones (CIFAR) two of 512. The paper has
    `dropout=0.5` of these.

    Args:
        depth: 11 or 16.
    """
    stack = Stack(input_shape, classes, **options)
    add_stages(stack, VGG_STAGES[depth], (64, 128, 256, 512, 512))
    hidden = 4096 if is_large(input_shape) else 512
    return stack.head(hidden, hidden)


def alexnet(
    *, input_shape: Sequence[int] = (3, 224, 224), classes: int = 1000, stem: str | None = None, **options: Any
) -> ConvNet:
    """AlexNet in one column (Krizhevsky 2014, arXiv:1404.5997), BatchNorm after every layer in place of its bias.

    The paper has `dropout=0.5` of the hidden dense units.

    Args:
        stem: "imagenet" is the paper's 11×11 convolution of stride 4, "cifar" a 3×3 one of stride 1, for images of at
            least 15 pixels; None chooses by the size of the image.
    """
    stack = Stack(input_shape, classes, **options)
    if choose_stem(stem, input_shape) == "imagenet":
        stack.conv(64, 11, stride=4, padding=2, pool=ALEXNET_POOL)
    else:
        stack.conv(64, 3, padding=1, pool=ALEXNET_POOL)
    stack.conv(192, 5, padding=2, pool=ALEXNET_POOL)
    stack.conv(384, 3, padding=1)
    stack.conv(256, 3, padding=1)
    stack.conv(256, 3, padding=1, pool=ALEXNET_POOL)
    return stack.head(4096, 4096)
