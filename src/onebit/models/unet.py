"""The U-Net of Ronneberger, Fischer, Brox 2015 (arXiv:1505.04597): a class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from onebit.common.tables import resolve
from onebit.layers.fused_norm import normalized
from onebit.models.parts import Parts

BASE = 64
"""Channels of the first level before `width`; each level below has twice as many."""
PADDINGS = {"valid": 0, "same": 1}
"""Name -> zeros around the image of a 3×3 convolution."""


class DoubleConv(nn.Module):
    """Two 3×3 convolutions, each with BatchNorm, and ReLU where the activations are real.

    Args:
        before_real: the next layer keeps real inputs, whatever the settings.
        first: of the first convolution, see `Parts.layer`.

    Shapes:
        x: (N, inputs, H, W) -> (N, outputs, H − 4, W − 4) with valid padding, else (N, outputs, H, W).
    """

    def __init__(
        self,
        parts: Parts,
        inputs: int,
        outputs: int,
        padding: int,
        *,
        first: bool = False,
        before_real: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = parts.layer(nn.Conv2d, inputs, outputs, 3, padding=padding, first=first)
        self.bn1 = parts.norm2d(outputs)
        self.relu1 = parts.active(outputs)
        self.conv2 = parts.layer(nn.Conv2d, outputs, outputs, 3, padding=padding)
        self.bn2 = parts.norm2d(outputs)
        self.relu2 = parts.active(outputs, before_real=before_real)

    def forward(self, x: Tensor) -> Tensor:
        x = normalized(self.conv1(x), self.bn1, self.relu1)
        return normalized(self.conv2(x), self.bn2, self.relu2)


class Up(nn.Module):
    """A 2×2 transposed convolution of stride 2, concatenated with the cropped skip connection, and a `DoubleConv`.

    Shapes:
        x: (N, 2·outputs, H, W), skip: (N, outputs, 2·H + 2·margin, …) -> (N, outputs, 2·H − 4, …) or (…, 2·H, …).
    """

    def __init__(
        self,
        parts: Parts,
        outputs: int,
        padding: int,
        *,
        margin: int,
        before_real: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.up = parts.layer(nn.ConvTranspose2d, 2 * outputs, outputs, 2, stride=2)
        self.bn = parts.norm2d(outputs)
        self.relu = parts.active(outputs)
        self.margin = margin
        self.drop = parts.dropout(dropout, nn.Dropout2d)
        self.convs = DoubleConv(parts, 2 * outputs, outputs, padding, before_real=before_real)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x, margin = normalized(self.up(x), self.bn, self.relu), self.margin
        cropped = skip[:, :, margin:-margin, margin:-margin] if margin else skip
        return self.convs(self.drop(torch.cat([cropped, x], dim=1)))


class UNet(nn.Module):
    """Levels of two 3×3 convolutions and max pooling, then transposed convolutions with skip connections.

    With the depth of the paper it has 23 layers with weights: 18 3×3 convolutions, 4 transposed ones and a 1×1
    convolution; BatchNorm follows each, which the paper does not have. With `weight_quantizer=None` and
    `input_quantizer=None` it is the full-precision twin, with the same state_dict keys.

    Args:
        input_shape: (C, H, W) of an image whose pixels are classified. The attribute of that name is the input shape of
            the net: the next sides that its pools halve evenly, multiples of 16; with "valid" padding the next 188 +
            16·k whose prediction covers the image, 572 for 388.
        classes: number of logits of a pixel.
        padding: "same", or "valid" as in the paper: 572×572 pixels give the classes of the inner 388×388.
        depth: number of times that the image is halved.
        dropout: probability of zeroing a channel after pooling and after concatenation, as in the reproduction by Garg
            and Singhal (2021; 0.05 there). Not before a sign.
        settings: see `Parts`; `width` is a factor on the channels, which are 64 to 1024.

    Shapes:
        x: uint8 (N, C, H, W) -> (N, classes, H, W), or (N, classes, H − 184, W − 184) with "valid" padding.

    Raises:
        UsageError: an unknown padding, or dropout before a sign.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] = (1, 512, 512),
        classes: int = 2,
        padding: str = "same",
        depth: int = 4,
        dropout: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__()
        parts, border = Parts(**settings), resolve(PADDINGS, padding, kind="padding")
        lost = lost_pixels(padding, depth)
        self.input_shape = (input_shape[0], *(next_side(side + lost, padding, depth) for side in input_shape[1:]))
        self.output_shape = (classes, *(side - lost for side in self.input_shape[1:]))
        channels = [parts.widened(BASE) * 2**level for level in range(depth + 1)]
        self.coding = parts.image_coding()
        self.down = nn.ModuleList(
            DoubleConv(parts, inputs, outputs, border, first=level == 0)
            for level, (inputs, outputs) in enumerate(pairwise([input_shape[0], *channels]))
        )
        self.pool = nn.MaxPool2d(2)
        self.drop = parts.dropout(dropout, nn.Dropout2d)
        self.up = nn.ModuleList(
            Up(
                parts,
                channels[level],
                border,
                margin=lost_pixels(padding, depth - level - 1),
                before_real=parts.real_last and level == 0,
                dropout=dropout,
            )
            for level in range(depth - 1, -1, -1)
        )
        self.conv = parts.layer(nn.Conv2d, channels[0], classes, 1, real=parts.real_last, bias=True)
        self.last_norm = parts.norm2d(classes) if parts.last_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.coding(x)
        skips = []
        for level, convs in enumerate(self.down):
            x = convs(x if level == 0 else self.drop(self.pool(x)))
            skips.append(x)
        for up, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = up(x, skip)
        return self.last_norm(self.conv(x))


def lost_pixels(padding: str, depth: int) -> int:
    """Input pixels minus predicted pixels of a U-Net, per axis: 184 with valid padding and depth 4."""
    # each level loses 4 going down, 4 going up, and twice what the levels below lose
    return 0 if padding == "same" else 12 * 2**depth - 8


def next_side(side: int, padding: str, depth: int) -> int:
    """The smallest side, at least `side`, that a U-Net halves evenly at each level and predicts pixels of."""
    step = 2**depth
    lost = lost_pixels(padding, depth)
    smallest = lost + min(4, step) if lost else step
    return smallest + max(0, -(-(side - smallest) // step)) * step
