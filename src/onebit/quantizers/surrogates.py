"""Surrogate gradients of the sign, for weights and for inputs.

`signed(x, surrogate, *parameters)` is sign(x) whose backward pass is `surrogate(gradient, x, *parameters)`, one of

| surrogate | factor on the gradient | source |
|---|---|---|
| `clipped` | 1 where |x| <= 1, else 0 | BinaryNet, arXiv:1602.02830, eq. 4 |
| `approx` | 2 − 2|x| where |x| <= 1, else 0 | Bi-Real net, arXiv:1808.00278 |
| `swish` | d/dx [2σ(βx)(1 + βx(1 − σ(βx))) − 1] | SignSwish, arXiv:1812.11800 |
| `ede` | k·t·(1 − tanh²(t·x)), k = max(1/t, 1) | IR-Net, arXiv:1909.10788 |

Every factor is finite everywhere, and 0 at ±∞.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from onebit.native import BELL, TRIANGLE, SurrogateStruct, run_values
from onebit.quantizers.base import Surrogate, autocast_dtype, sign
from onebit.quantizers.cpu_kernels import backward_kernels, launch

MIN_VALUES = 1 << 12
"""Fewer values are not worth a kernel call."""


def approx(gradient: Tensor, x: Tensor) -> Tensor:
    """gradient · (2 − 2|x|) where |x| <= 1, else 0: the triangle under Bi-Real net's quadratic approximation."""
    return x.abs().clamp(max=1).mul_(-2).add_(2) * gradient


def swish(gradient: Tensor, x: Tensor, beta: float = 5.0) -> Tensor:
    """gradient · β(2 − z·tanh(z/2))/(1 + cosh z) with z = βx, which is negative from |z| = 2.4 on.

    With s = σ(z) the factor is 4β·s(1 − s)·(1 + z/2 − z·s).
    """
    # beyond 100, s(1 − s) is 0 in every dtype; unbounded, 0·∞ would be NaN
    z = (x * beta).clamp(-100, 100)
    s = z.sigmoid()
    bell = torch.ops.aten.sigmoid_backward(gradient.to(x.dtype), s)
    return torch.addcmul(bell, bell, torch.sub(0.5, s) * z).mul_(4 * beta)


def ede(gradient: Tensor, x: Tensor, t: Tensor | float) -> Tensor:
    """gradient · k·t·(1 − tanh²(t·x)), k = max(1/t, 1), that is k·t = max(1, t).

    Args:
        t: steepness > 0; a 0-dimensional tensor can follow a schedule without recompiling the model.
    """
    return bell(gradient, x, t).mul_(ede_height(t))


def bell(gradient: Tensor, x: Tensor, t: Tensor | float) -> Tensor:
    """gradient · (1 − tanh²(t·x))/4, computed as s(1 − s) with s = σ(2t·x): sigmoid is five times as fast."""
    return torch.ops.aten.sigmoid_backward(gradient.to(x.dtype), (x * (2 * t)).sigmoid_())


def ede_height(t: Tensor | float) -> Tensor | float:
    """4·k·t = 4·max(1, t): `ede` is this times `bell`."""
    return 4 * (t.clamp(min=1) if isinstance(t, Tensor) else max(t, 1.0))


def surrogate_gradient(gradient: Tensor, x: Tensor, surrogate: Callable[..., Tensor], *parameters: Any) -> Tensor:
    """The gradient of a surrogate in the dtype of x, for `approx` and `ede` by a native kernel if there is one."""
    kind = {approx: TRIANGLE, ede: BELL}.get(surrogate)
    isa = None if kind is None or x.numel() < MIN_VALUES else backward_kernels("run_surrogate", gradient, x)
    if isa is None or gradient.dtype != x.dtype:
        return surrogate(gradient, x, *parameters).to(x.dtype)
    t = float(*parameters or (1.0,))
    to_x = torch.empty_like(x)
    fields = {"bf16": x.dtype == torch.bfloat16, "kind": kind, "steepness": 2 * t, "height": ede_height(t)}
    launch(run_values, isa, SurrogateStruct, x.numel(), x=x, gradient=gradient, to=to_x, **fields)
    return to_x


def signed(x: Tensor, surrogate: Callable[..., Tensor], *parameters: Any) -> Tensor:
    """sign(x) as ±1 in the dtype of the matrix product, with the gradient of a surrogate.

    Args:
        x: real, any shape; the gradient has its dtype.
        surrogate: `clipped`, `approx`, `swish` or `ede`, or any function (gradient, x, *parameters) -> gradient to x.
        parameters: further arguments of the surrogate, which get no gradient.
    """
    signs = sign(x.detach()).to(autocast_dtype(x))
    return Surrogate.apply(x, signs, surrogate_gradient, (surrogate, *parameters))
