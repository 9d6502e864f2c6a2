"""Fully connected nets: BinaryConnect's MNIST net, BNN's, and their full-precision twin."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from onebit.errors import UsageError
from onebit.layers import BinaryLinear, InputCoding, InputQuantizer, WeightQuantizer, linear


class MLP(nn.Sequential):
    """uint8 image -> coding -> flatten -> (linear -> BatchNorm -> ReLU)* -> linear -> BatchNorm -> logits.

    With an `input_quantizer` the sign of the next layer takes the place of the ReLU. With `weight_quantizer=None` and
    `input_quantizer=None` it is the full-precision twin, with the same state_dict keys.

    Args:
        widths: units per layer, input and classes included.
        weight_quantizer: name or object; None keeps real weights.
        input_quantizer: name or object for every layer but the first; None keeps real activations.
        value: the two weight values are ±value, a number or "glorot".
        real_last: keep real weights in the last layer.
        dropout, input_dropout: probability of zeroing a hidden unit (not with an input quantizer), an input.
        norm_eps, norm_momentum, norm_affine: BatchNorm's; momentum 0.15 means 15 % of the newest batch.
        init: "uniform" draws latents uniformly from ±value (binary layers), "default" is torch's.
        input_shape: (C, H, W); (1, s, s) with s² = widths[0] when None.
        coding, mean, std: see `InputCoding`.

    Shapes:
        x: uint8 (N, C, H, W) -> (N, widths[-1]).
    """

    def __init__(
        self,
        widths: Sequence[int] = (784, 512, 512, 10),
        *,
        weight_quantizer: WeightQuantizer = "sign",
        input_quantizer: InputQuantizer = None,
        value: float | str = 1.0,
        real_last: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        norm_affine: bool = True,
        init: str = "uniform",
        input_shape: tuple[int, int, int] | None = None,
        coding: str = "integer",
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise UsageError(f"widths needs at least input and output, all positive, got {list(widths)}")
        if dropout and input_quantizer is not None:
            raise UsageError("dropout zeroes a unit before its sign, and sign(0) = +1: use it without input_quantizer")
        if init not in ("uniform", "default"):
            raise UsageError(f"init must be 'uniform' or 'default', got {init!r}")
        if input_shape is None:
            side = math.isqrt(widths[0])
            input_shape = (1, side, side) if side * side == widths[0] else (1, 1, widths[0])
        if math.prod(input_shape) != widths[0]:
            raise UsageError(
                f"the first width is {widths[0]}, but an input of shape {tuple(input_shape)} "
                f"has {math.prod(input_shape)} values"
            )
        self.input_shape = tuple(input_shape)
        self.coding = InputCoding(coding, mean=mean, std=std)
        self.flatten = nn.Flatten()
        if input_dropout:
            self.input_dropout = nn.Dropout(input_dropout)
        last = len(widths) - 1
        for i in range(1, last + 1):
            layer = linear(
                widths[i - 1],
                widths[i],
                weight_quantizer=None if real_last and i == last else weight_quantizer,
                input_quantizer=None if i == 1 else input_quantizer,
                value=value,
            )
            if init == "uniform" and isinstance(layer, BinaryLinear) and layer.weight_quantizer is not None:
                bound = layer.weight_quantizer.latent_bound or 1.0
                nn.init.uniform_(layer.weight, -bound, bound)
            self.add_module(f"linear{i}", layer)
            self.add_module(
                f"norm{i}", nn.BatchNorm1d(widths[i], eps=norm_eps, momentum=norm_momentum, affine=norm_affine)
            )
            if i < last:
                if input_quantizer is None:
                    self.add_module(f"relu{i}", nn.ReLU())
                if dropout:
                    self.add_module(f"dropout{i}", nn.Dropout(dropout))
