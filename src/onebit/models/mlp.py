"""Fully connected nets: BinaryConnect's MNIST net, BNN's, and their full-precision twin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from onebit.errors import UsageError
from onebit.models.stack import ConvNet, Stack


class MLP(ConvNet):
    """uint8 image -> coding -> flatten -> (linear -> BatchNorm -> ReLU)* -> linear -> BatchNorm -> logits.

    With an `input_quantizer`, the sign of the next layer or an integer quantizer replaces the ReLU. With
    `weight_quantizer=None` and `input_quantizer=None` it is the full-precision twin, with the same state_dict keys.

    Args:
        widths: units per layer, input and classes included; two hidden layers of 512 when None.
        input_shape: (C, H, W); (1, s, s) with s² = widths[0] when None, 1×28×28 without widths.
        classes: number of logits; widths[-1] when None, 10 without widths.
        input_dropout: probability of zeroing an input; the option `dropout` is that of a hidden unit.
        init: see `Parts`.
        options: see `Stack`.

    Shapes:
        x: uint8 (N, C, H, W) -> (N, classes).

    Raises:
        UsageError: widths that do not fit the input or the classes, or dropout before a sign.
    """

    def __init__(
        self,
        widths: Sequence[int] | None = None,
        *,
        input_shape: Sequence[int] | None = None,
        classes: int | None = None,
        input_dropout: float = 0.0,
        init: str = "uniform",
        **options: Any,
    ) -> None:
        if widths is None:
            widths = (math.prod(input_shape or (1, 28, 28)), 512, 512, classes or 10)
        if input_shape is None:
            side = math.isqrt(widths[0])
            input_shape = (1, side, side) if side * side == widths[0] else (1, 1, widths[0])
        ends = math.prod(input_shape), widths[-1] if classes is None else classes
        if ends != (widths[0], widths[-1]) or len(widths) < 2:
            raise UsageError(f"got widths {widths}, expected {ends[0]} inputs and {ends[1]} classes at its ends")
        super().__init__()
        stack = Stack(input_shape, widths[-1], net=self, init=init, **options)
        if input_dropout:
            self.add_module("input_dropout", nn.Dropout(input_dropout))
        stack.head(*widths[1:-1])
