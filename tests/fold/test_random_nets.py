"""Random nets of random operations: a packed net answers what torch answers.

They take no signs, because a sign of a sum that is 0 up to rounding has no right answer: `test_operations` has those.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from onebit.fold import pack
from onebit.layers import BinaryConv1d, BinaryConv2d, BinaryLinear
from onebit.packed import dumps, loads
from support.fold_nets import assert_answers, inputs_of

POINTWISE = (
    *("relu", "relu6", "leaky", "hardtanh", "hardsigmoid", "hardswish", "number", "gate", "position", "clamp"),
    *("residual", "product", "norm", "dropout"),
)
MOVES = ("pool", "average", "layer", "tokens", "excite", "cat", "upsample", "crop", "transpose", "view")


class Random(nn.Module):
    """Applies the drawn operations one after the other to (N, C, L) or (N, C, H, W)."""

    def __init__(self, shape: tuple[int, ...], steps: list[str], *, divide: bool) -> None:
        super().__init__()
        self.steps, self.divide = steps, divide
        self.parts = nn.ModuleDict()
        x = torch.randn(4, *shape)
        with torch.no_grad():
            for index, step in enumerate(steps):
                if (part := self._part(step, x)) is not None:
                    self.parts[str(index)] = part
                x = self._step(index, step, x)
            self.head = BinaryLinear(x.flatten(1).shape[1], 3)

    def _part(self, step: str, x: Tensor) -> nn.Module | None:
        channels, signal = x.shape[1], x.dim() == 3
        if step == "layer":
            kind: Any = BinaryConv1d if signal else BinaryConv2d
            return kind(channels, 4, 3, padding=1, bias=True, weight_quantizer="xnor")
        if step == "tokens":
            return BinaryLinear(x.shape[-1], 5)
        if step == "norm":
            norm: Any = nn.BatchNorm1d(channels) if signal else nn.BatchNorm2d(channels)
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                tensor.normal_()
            return norm.eval()
        if step in ("gate", "position"):
            shape = (channels, *[1] * (x.dim() - 2)) if step == "gate" else x.shape[1:]
            return nn.ParameterList([torch.randn(shape)])
        return None

    def _step(self, index: int, step: str, x: Tensor) -> Tensor:
        part: Any = dict(self.parts.items()).get(str(index))
        signal, last = x.dim() == 3, x.shape[-1]
        if part is not None and step in ("layer", "tokens", "norm"):
            return part(x)
        match step:
            case "relu" | "relu6" | "hardtanh" | "hardsigmoid" | "hardswish":
                return getattr(F, step)(x)
            case "leaky":
                return F.leaky_relu(x, 0.1)
            case "number":
                return 0.5 - x * 1.5
            case "gate":
                return x * part[0]
            case "position":
                return x + part[0]
            case "clamp":
                return x.clamp(-0.5, 2)
            case "residual":
                return x + F.relu(x)
            case "product":
                return x * F.hardsigmoid(x)
            case "dropout":
                return F.dropout(x, 0.3, self.training)
            case "pool" if last > 2:
                return F.max_pool1d(x, 2) if signal else F.max_pool2d(x, (1, 2))
            case "average" if last > 2:
                return F.avg_pool1d(x, 2) if signal else F.avg_pool2d(x, (1, 2))
            case "excite":
                return x * F.hardsigmoid(x.mean(tuple(range(2, x.dim())), keepdim=True))
            case "cat" if x[0].numel() < 400:
                return torch.cat([x, -x], -1)
            case "upsample" if x[0].numel() < 400:
                return F.interpolate(x, scale_factor=2)
            case "crop" if last > 2:
                return x[..., 1:]
            case "transpose":
                return x.transpose(1, -1)
            case "view":
                return x.flatten(1).view(x.shape)
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.float() / 255 if self.divide else x
        for index, step in enumerate(self.steps):
            x = self._step(index, step, x)
        return self.head(x.flatten(1)), x * 1.5  # never the input itself, which is no output


@given(
    shape=st.sampled_from([(3, 8), (4, 4, 6), (2, 3, 5)]),
    steps=st.lists(st.sampled_from([*POINTWISE, *MOVES]), min_size=1, max_size=7),
    pixels=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_a_random_net_answers_as_torch(shape: tuple[int, ...], steps: list[str], pixels: bool, seed: int) -> None:
    torch.manual_seed(seed)
    model = Random(shape, steps, divide=pixels).eval()
    inputs = inputs_of(shape, "uint8" if pixels else "float32", seed=seed)
    packed = pack(model, inputs)
    assert_answers(model, packed, inputs, atol=2e-5)
    assert dumps(loads(dumps(packed))) == dumps(packed)
