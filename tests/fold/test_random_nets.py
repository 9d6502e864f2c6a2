"""Random nets of random operations: a packed net answers what torch answers.

They take no signs, because a sign of a sum that is 0 up to rounding has no right answer: `test_operations` has those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from onebit.fold import pack
from onebit.layers import BinaryConv1d, BinaryConv2d, BinaryLinear
from onebit.packed import dumps, loads
from support.fold_nets import Model, assert_answers, inputs_of

Function = Callable[[Tensor], Tensor]
SAME: dict[str, Function] = {
    **{
        name: getattr(F, name)
        for name in ("relu", "relu6", "hardtanh", "hardsigmoid", "hardswish", "silu", "gelu", "tanh")
    },
    "leaky": lambda x: F.leaky_relu(x, 0.1),
    "number": lambda x: 0.5 - x * 1.5,
    "clamp": lambda x: x.clamp(-0.5, 2),
    "residual": lambda x: x + F.relu(x),
    "product": lambda x: x * F.hardsigmoid(x),
    "excite": lambda x: x * torch.sigmoid(x.mean(tuple(range(2, x.dim())), keepdim=True)),
    "transpose": lambda x: x.transpose(1, -1),
    "view": lambda x: x.flatten(1).view(x.shape),
}
SMALLER: dict[str, Function] = {
    "pool": lambda x: F.max_pool1d(x, 2) if x.dim() == 3 else F.max_pool2d(x, (1, 2)),
    "average": lambda x: F.avg_pool1d(x, 2) if x.dim() == 3 else F.avg_pool2d(x, (1, 2)),
    "crop": lambda x: x[..., 1:],
}
LARGER: dict[str, Function] = {
    "cat": lambda x: torch.cat([x, -x], -1),
    "upsample": lambda x: F.interpolate(x, scale_factor=2),
}


def layer(x: Tensor) -> nn.Module:
    kind: Any = BinaryConv1d if x.dim() == 3 else BinaryConv2d
    return kind(x.shape[1], 4, 3, padding=1, bias=True, weight_quantizer="xnor")


def norm(x: Tensor) -> nn.Module:
    made: Any = (nn.BatchNorm1d if x.dim() == 3 else nn.BatchNorm2d)(x.shape[1])
    with torch.no_grad():
        for tensor in (made.weight, made.bias, made.running_mean):
            tensor.normal_()
    return made


def gate(x: Tensor) -> nn.Module:
    return Model(lambda m, x: x * m.gate, gate=nn.Parameter(torch.randn(x.shape[1], *[1] * (x.dim() - 2))))


PARTS: dict[str, Callable[[Tensor], nn.Module]] = {
    "layer": layer,
    "tokens": lambda x: BinaryLinear(x.shape[-1], 5),
    "norm": norm,
    "gate": gate,
    "position": lambda x: Model(lambda m, x: x + m.position, position=nn.Parameter(torch.randn(x.shape[1:]))),
    "dropout": lambda x: nn.Dropout(0.3),
}


def step_of(name: str, x: Tensor) -> nn.Module:
    """A random operation on values like `x`; one that would make it too small or too large does nothing."""
    if name in PARTS:
        return PARTS[name](x)
    fits = name in SAME or (x.shape[-1] > 2 if name in SMALLER else x[0].numel() < 400)
    function = {**SAME, **SMALLER, **LARGER}[name]
    return Model(lambda m, x: function(x)) if fits else nn.Identity()


def forward(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    x = m.steps(x.float() / 255 if m.divide else x)
    return m.head(x.flatten(1)), x * 1.5  # never the input itself, which is no output


@given(
    shape=st.sampled_from([(3, 8), (4, 4, 6), (2, 3, 5)]),
    steps=st.lists(st.sampled_from([*SAME, *SMALLER, *LARGER, *PARTS]), min_size=1, max_size=7),
    pixels=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_a_random_net_answers_as_torch(shape: tuple[int, ...], steps: list[str], pixels: bool, seed: int) -> None:
    torch.manual_seed(seed)
    chain, x = nn.Sequential(), torch.randn(4, *shape)
    with torch.no_grad():
        for name in steps:
            chain.append(step_of(name, x).eval())
            x = chain[-1](x)
    head = BinaryLinear(x.flatten(1).shape[1], 3)
    model = Model(forward, steps=chain, divide=pixels, head=head).eval()
    inputs = inputs_of(shape, "uint8" if pixels else "float32", seed=seed)
    packed = pack(model, inputs)
    assert_answers(model, packed, inputs, atol=2e-5)
    assert dumps(loads(dumps(packed))) == dumps(packed)
