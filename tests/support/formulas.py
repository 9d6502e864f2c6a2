"""Every weight quantizer as its paper writes it, for autograd in float64: nothing here comes from the package.

A formula takes latents (O, …) and the quantizer, whose parameters and schedule it reads. Of a quantizer that draws or
relaxes in training it is the eval mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Step(torch.autograd.Function):
    """+1 where x >= 0, else −1; the gradient is multiplied by `slope`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0], None


def identity(x: Tensor) -> Tensor:
    return torch.ones_like(x)


def box(x: Tensor) -> Tensor:
    return (x.abs() <= 1).to(x.dtype)


def swish_slope(x: Tensor, beta: float) -> Tensor:
    """β(2 − z·tanh(z/2))/(1 + cosh z), as BNN+ prints it; cosh overflows beyond 700."""
    z = (beta * x).clamp(-700, 700)
    return beta * (2 - z * torch.tanh(z / 2)) / (1 + torch.cosh(z))


def ede_slope(x: Tensor, t: float) -> Tensor:
    return max(1 / t, 1) * t * (1 - torch.tanh(t * x) ** 2)


def bayesian_slope(x: Tensor, temperature: float) -> Tensor:
    """1e-10/(T(1 − tanh²λ + 1e-10)): w = ±1."""
    return 1e-10 / (temperature * (1 - torch.tanh(x) ** 2 + 1e-10))


def channels(w: Tensor) -> dict[str, Any]:
    return {"dim": tuple(range(1, w.dim())), "keepdim": True}


def xnor(w: Tensor, q: Any) -> Tensor:
    magnitude = w * torch.where(w >= 0, 1.0, -1.0)  # abs has no gradient at 0
    return magnitude.mean(**channels(w)) * _Step.apply(w, box(w))


def magnitude_aware(w: Tensor, q: Any) -> Tensor:
    return w.abs().mean(**channels(w)).detach() * _Step.apply(w, box(w))


def irnet(w: Tensor, q: Any) -> Tensor:
    unit = (w - w.mean(**channels(w))) / w.std(**channels(w))
    power = 2 ** torch.round(torch.log2(unit.detach().abs().mean(**channels(w))))
    return power * _Step.apply(unit, ede_slope(unit.detach(), q.t.item()))


def recu(w: Tensor, q: Any) -> Tensor:
    unit = (w - w.mean(**channels(w))) / (torch.sqrt(w.var(**channels(w)) + 1e-5) / 2 / math.sqrt(2))
    bound = -float(unit.detach().abs().mean()) * math.log(2 - 2 * q.tau.item())
    scale = q.scale.double().view(-1, *[1] * (w.dim() - 1))
    return scale * _Step.apply(unit.clamp(-bound, bound), identity(unit))


def adabin(w: Tensor, q: Any) -> Tensor:
    centre, distance = w.mean(**channels(w)), w.std(**channels(w), unbiased=False)
    unit = (w - centre) / distance
    return centre + distance * _Step.apply(unit, ede_slope(unit.detach(), q.t.item()))


WEIGHT_FORMULAS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "sign": lambda w, q: q.value * _Step.apply(w, identity(w) / q.value),
    "stochastic": lambda w, q: q.value * _Step.apply(w, identity(w) / q.value),
    "ste_sign": lambda w, q: _Step.apply(w, box(w)),
    "xnor": xnor,
    "magnitude_aware": magnitude_aware,
    "swish_sign": lambda w, q: _Step.apply(w, swish_slope(w.detach(), q.beta)),
    "irnet": irnet,
    "recu": recu,
    "adabin": adabin,
    "concrete_sign": lambda w, q: _Step.apply(w, bayesian_slope(w.detach(), q.temperature)),
    "prox": lambda w, q: _Step.apply(w, identity(w)),
}
