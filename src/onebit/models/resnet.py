"""Residual nets of He et al. 2016 (arXiv:1512.03385) for CIFAR and ImageNet, and their Bi-Real form."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import UsageError
from onebit.layers.fused_norm import Chain, are_watched, normalized, normalized_twice
from onebit.models.parts import Parts, choose_stem
from onebit.quantizers.cpu_kernels import is_plain_training


class PaddedShortcut(nn.Module):
    """x at every stride-th pixel, with channels of zeros added, half before and half after: no parameters.

    Option A of He et al. 2016, section 4.2.

    Shapes:
        x: (N, C, H, W) -> (N, C + new_channels, ⌈H/stride⌉, ⌈W/stride⌉).
    """

    def __init__(self, stride: int, new_channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = new_channels

    def forward(self, x: Tensor) -> Tensor:
        before = self.new_channels // 2
        x = F.avg_pool2d(x, 1, self.stride)  # of one pixel: a strided slice whose gradient is cheaper
        return F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))


def shortcut_of(parts: Parts, kind: str, inputs: int, outputs: int, stride: int) -> nn.Module:
    """The shortcut where the shape changes.

    "padded" has no parameters (option A); "projected" is a strided 1×1 convolution, binary like the others, and
    BatchNorm (option B); "averaged" is average pooling, a real 1×1 convolution and BatchNorm, as in Bi-Real net.
    """
    if kind == "padded":
        return PaddedShortcut(stride, outputs - inputs)
    if kind == "projected":
        return Chain(parts.layer(nn.Conv2d, inputs, outputs, 1, stride=stride), parts.norm2d(outputs))
    # rounding up keeps the size of the strided convolution beside it
    pool = nn.AvgPool2d(stride, ceil_mode=True)
    return Chain(pool, parts.layer(nn.Conv2d, inputs, outputs, 1, real=True), parts.norm2d(outputs))


EXPANSION = 4
"""Output channels of a bottleneck per inner channel."""
IMAGENET_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Depth -> blocks of each stage (He et al. 2016, table 1)."""


class Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut; or, in a bottleneck, 1×1 to fewer channels, 3×3, and 1×1 to all.

    With real activations y = relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)). With signs there is no ReLU: every
    convolution takes the sign of its input, and the sum stays real. An RPReLU stays in either case, as in ReActNet. An
    integer quantizer replaces each ReLU: convolution and shortcut take the same integers.

    Args:
        parts: how layers are made.
        inputs, outputs: channels; inside a bottleneck a quarter of `outputs`.
        stride: of the first 3×3 convolution, as in torchvision's nets, and of the shortcut.
        shortcut: a kind of `shortcut_of`, used where the shape changes.
        around_each: a shortcut around each convolution instead of one around both (Bi-Real); not in a bottleneck.
    """

    def __init__(
        self,
        parts: Parts,
        inputs: int,
        outputs: int,
        stride: int,
        *,
        shortcut: str,
        around_each: bool = False,
        bottleneck: bool = False,
    ) -> None:
        super().__init__()
        if around_each and bottleneck:
            raise UsageError("expected a net without bottlenecks for bireal")
        plan = [(outputs, 3, stride), (outputs, 3, 1)]
        if bottleneck:
            plan = [(outputs // EXPANSION, 1, 1), (outputs // EXPANSION, 3, stride), (outputs, 1, 1)]
        same = stride == 1 and inputs == outputs
        before = inputs
        for i, (after, kernel, step) in enumerate(plan, start=1):
            conv = parts.layer(nn.Conv2d, before, after, kernel, stride=step, padding=kernel // 2)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", parts.norm2d(after))
            self.add_module(f"relu{i}", parts.active(after))
            before = after
        self.downsample = nn.Identity() if same else shortcut_of(parts, shortcut, inputs, outputs, stride)
        self.around_each, self.bottleneck = around_each, bottleneck

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_twice(x, x)[0]

    def forward_twice(self, x: Tensor, again: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` of the same values for two uses: see `normalized_twice`."""
        block: Any = self
        if self.bottleneck:
            y = normalized(block.conv1(x), block.bn1, block.relu1)
            y = normalized(block.conv2(y), block.bn2, block.relu2)
            return normalized_twice(block.conv3(y), block.bn3, block.relu3, self.downsample(again))
        shortcut = self.downsample(again)
        if self.around_each and not are_watched(*block.conv2.modules()):
            y, shortcut = normalized_twice(block.conv1(x), block.bn1, block.relu1, shortcut)
        elif self.around_each:
            y = shortcut = normalized(block.conv1(x), block.bn1, block.relu1, shortcut)
        else:
            y = normalized(block.conv1(x), block.bn1, block.relu1)
        return normalized_twice(block.conv2(y), block.bn2, block.relu2, shortcut)


def _runs_twice(stage: Any, x: Any) -> bool:
    """Whether no hook sees the values between the blocks of a stage, so that they can be passed on twice."""
    return (
        type(stage) is nn.Sequential
        and stage.training
        and is_plain_training(x)
        and all(type(block) is Block for block in stage)
        and not are_watched(*stage.modules())
    )


class ResNet(nn.Module):
    """A stem, stages of `Block`s, global average pooling and one dense layer.

    Each stage but the first halves the image. With `weight_quantizer=None` and `input_quantizer=None` it is the
    full-precision twin, with the same state_dict keys, which are those that torchvision uses.

    Args:
        blocks: number of blocks of each stage; channels: of each stage, before `width` and inside its bottlenecks.
        input_shape: (C, H, W); classes: number of logits.
        stem: "cifar" is a 3×3 convolution, "imagenet" a 7×7 one of stride 2 and max pooling.
        shortcut, around_each, bottleneck: see `Block`.
        settings: see `Parts`. With `real_last` the dense layer takes the averages of the last sum; with signs there is
            no ReLU before, as in Bi-Real net.

    Shapes:
        x: uint8 (N, C, H, W) -> (N, classes).
    """

    def __init__(
        self,
        blocks: Sequence[int],
        channels: Sequence[int],
        *,
        input_shape: Sequence[int],
        classes: int,
        stem: str,
        shortcut: str,
        bottleneck: bool = False,
        around_each: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__()
        parts = Parts(**settings)
        self.input_shape = tuple(input_shape)
        channels = list(map(parts.widened, channels))
        inputs = channels[0]
        self.coding = parts.image_coding()
        first = partial(parts.layer, nn.Conv2d, self.input_shape[0], inputs, first=True)
        self.conv1 = first(3, padding=1) if stem == "cifar" else first(7, stride=2, padding=3)
        self.bn1 = parts.norm2d(inputs)
        self.relu = parts.active(inputs)
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, stride=2, padding=1)
        make = partial(Block, parts, shortcut=shortcut, around_each=around_each, bottleneck=bottleneck)
        self.stages = [f"layer{stage}" for stage in range(1, len(blocks) + 1)]
        for name, count, inner in zip(self.stages, blocks, channels, strict=True):
            outputs = inner * EXPANSION if bottleneck else inner
            stage = []
            for i in range(count):
                stride = 2 if name != "layer1" and i == 0 else 1
                stage.append(make(inputs, outputs, stride))
                inputs = outputs
            self.add_module(name, nn.Sequential(*stage))
        halvings = len(blocks) - 1 + (0 if stem == "cifar" else 2)
        height, width = (-(-size // (1 << halvings)) for size in self.input_shape[1:])
        self.pool = nn.AvgPool2d((height, width))  # the whole image; cheaper than an adaptive pool
        self.flatten = nn.Flatten()
        self.fc = parts.layer(nn.Linear, inputs, classes, real=parts.real_last, bias=True)
        self.last_norm = parts.norm1d(classes) if parts.last_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = again = self.maxpool(normalized(self.conv1(self.coding(x)), self.bn1, self.relu))
        for name in self.stages:
            stage: Any = self.get_submodule(name)
            if not _runs_twice(stage, x):
                x = again = stage(x)
                continue
            for block in stage:
                x, again = block.forward_twice(x, again)
        # training may start on smaller images (`Augmentation.first_size`)
        small = self.training and x.shape[2:] != self.pool.kernel_size
        return self.last_norm(self.fc(self.flatten(F.adaptive_avg_pool2d(x, 1) if small else self.pool(x))))


def cifar_resnet(
    depth: int = 20,
    *,
    input_shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    bireal: bool = False,
    **options: Any,
) -> ResNet:
    """The CIFAR ResNet of depth 6n + 2: three stages of n blocks with 16, 32 and 64 channels.

    Depth 20 has 269,722 parameters.

    Args:
        depth: 20, 32, 44, 56, 110 or another 6n + 2.
        bireal: a shortcut around each convolution, as in Bi-Real net (arXiv:1808.00278).
        options: see `ResNet`.
    """
    if depth < 8 or (depth - 2) % 6:
        raise UsageError(f"expected a depth of 6n + 2 (20, 32, 44, 56, 110), got {depth}")
    blocks = [(depth - 2) // 6] * 3
    return ResNet(
        blocks,
        (16, 32, 64),
        input_shape=input_shape,
        classes=classes,
        stem="cifar",
        shortcut="padded",
        around_each=bireal,
        **options,
    )


def imagenet_resnet(
    depth: int = 18,
    *,
    input_shape: Sequence[int] = (3, 224, 224),
    classes: int = 1000,
    stem: str | None = None,
    bireal: bool = False,
    **options: Any,
) -> ResNet:
    """ResNet-18, -34 or -50: four stages with 64 to 512 channels; of depth 50 with bottlenecks and 256 to 2048.

    11,689,512, 21,797,672 and 25,557,032 parameters on ImageNet.

    Args:
        depth: a key of `IMAGENET_DEPTHS`.
        stem: "cifar" or "imagenet"; None chooses by the size of the image.
        bireal: Bi-Real net (arXiv:1808.00278) for ±1 activations: a shortcut around each convolution, with average
            pooling and a real 1×1 convolution where the image is halved. The paper keeps the first and the last layer
            real: `real_first`, `real_last`. Not with bottlenecks.
        options: see `ResNet`.
    """
    return ResNet(
        IMAGENET_DEPTHS[depth],
        (64, 128, 256, 512),
        input_shape=input_shape,
        classes=classes,
        stem=choose_stem(stem, input_shape),
        shortcut="averaged" if bireal else "projected",
        bottleneck=depth >= 50,
        around_each=bireal,
        **options,
    )
