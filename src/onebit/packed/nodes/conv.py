"""Convolutions and transposed convolutions, with one-bit or real weights.

A row of weights is the kernel of one output channel in the order (kH, kW, I/groups), input channels fastest: the
weights for the channels of a pixel are contiguous, which kernels without im2col need.
"""

from __future__ import annotations

from math import prod

import numpy as np

from onebit.errors import FormatError
from onebit.packed.nodes.dense import OneBitWeights, RealWeights, Weights
from onebit.packed.nodes.node import (
    Node,
    Value,
    check_size,
    merged,
    operation,
    require_channels,
    require_image,
    signs,
)


@operation()
class Kernel(Node):
    """Base class of operations that slide a kernel over an image.

    Args:
        kernel: (kH, kW).
        stride: (sH, sW).
        padding: (top, bottom, left, right).
        dilation: (dH, dW), the distance between taps of the kernel.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of the dilated kernel: dilation · (kernel − 1) + 1."""
        (height, width), (down, right) = self.kernel, self.dilation
        return down * (height - 1) + 1, right * (width - 1) + 1

    def positions(self, x: Value) -> tuple[int, int]:
        """(H', W'), how many positions the kernel has on the padded image; FormatError if it does not fit."""
        channels, height, width = require_image(x)
        top, bottom, left, right = self.padding
        height, width = height + top + bottom, width + left + right
        check_size("the padded image", (channels, height, width))
        if height < self.extent[0] or width < self.extent[1]:
            raise FormatError(f"a kernel that spans {self.extent} does not fit into an image of ({height}, {width})")
        return (height - self.extent[0]) // self.stride[0] + 1, (width - self.extent[1]) // self.stride[1] + 1


@operation()
class Grouped(Kernel, Weights):
    """Base class of convolutions: an output channel reads only the input channels of its group.

    Args:
        groups: number of groups of channels.
    """

    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.terms % prod(self.kernel) or self.outputs % self.groups:
            rows = f"{self.outputs} rows of {self.terms} weights"
            raise FormatError(f"{rows} do not split into {self.groups} groups and kernels of {prod(self.kernel)}")

    @property
    def group_channels(self) -> int:
        """Input channels per group."""
        return self.terms // prod(self.kernel)


@operation()
class Convolution(Grouped):
    """(I, H, W) -> (O, H', W').

    Args:
        padding_value: 0 (a third value besides ±1), 1 or -1.
    """

    padding_value: int = 0

    def infer(self, x: Value) -> Value:
        shape = self.outputs, *self.positions(x)
        require_channels(x, self.group_channels * self.groups)
        if any(self.padding) and self.padding_value:
            return self.products(merged((x, signs(())), x.shape), shape)
        return self.products(x, shape, zeros=self.group_channels * any(self.padding))

    def kernels(self) -> np.ndarray:
        """(O, I / groups, kH, kW): the rows as torch and ONNX have them."""
        return self.rows.reshape(self.outputs, *self.kernel, self.group_channels).transpose(0, 3, 1, 2)


@operation()
class Transposed(Grouped):
    """(I, H, W) -> (O, H', W'): pixels add their kernels, `stride` apart, and `padding` is cut from the result.

    Args:
        extra: additional (rows, columns) at the bottom and right, torch's `output_padding`.
    """

    extra: tuple[int, int] = (0, 0)

    def infer(self, x: Value) -> Value:
        height, width = self.whole(x)
        require_channels(x, self.group_channels * self.groups)
        top, bottom, left, right = self.padding
        shape = (self.outputs, height - top - bottom, width - left - right)
        if min(shape) < 1:
            raise FormatError(f"a padding of {self.padding} leaves nothing of an image of ({height}, {width})")
        return self.products(x, shape, zeros=self.group_channels)

    def whole(self, x: Value) -> tuple[int, int]:
        """(H', W') before the padding is cut; FormatError if too large."""
        channels, height, width = require_image(x)
        height = (height - 1) * self.stride[0] + self.extent[0] + self.extra[0]
        width = (width - 1) * self.stride[1] + self.extent[1] + self.extra[1]
        # an executor may dilate the image and add a border as wide as the kernel
        check_size("the result", (max(channels, self.outputs), height + self.extent[0], width + self.extent[1]))
        return height, width

    def kernels(self) -> np.ndarray:
        """(I, O / groups, kH, kW): the rows as torch and ONNX have them."""
        rows = self.rows.reshape(self.groups, -1, *self.kernel, self.group_channels).transpose(0, 4, 1, 2, 3)
        return rows.reshape(self.groups * self.group_channels, -1, *self.kernel)

    def macs(self, x: Value, y: Value) -> int:
        return self.outputs * self.terms * prod(x.shape[1:])


@operation("conv")
class Conv(Convolution, OneBitWeights):
    """Convolution with one-bit weights."""


@operation("real_conv")
class RealConv(Convolution, RealWeights):
    """Convolution with real weights."""


@operation("conv_transpose")
class ConvTranspose(Transposed, OneBitWeights):
    """Transposed convolution with one-bit weights."""


@operation("real_conv_transpose")
class RealConvTranspose(Transposed, RealWeights):
    """Transposed convolution with real weights."""
