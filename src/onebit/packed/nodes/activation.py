"""Smooth activations: float32 operations in a stated order, so that every executor gives the same bits."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from onebit.packed.nodes.node import operation
from onebit.packed.nodes.pointwise import Pointwise

_LOG2_E, _LN2_HIGH, _LN2_LOW = np.array([1.44269504, 0.693359375, -0.00021219444], np.float32)
_ROUND = np.float32(1.5 * 2**23)  # a float32 plus this, minus this, is rounded to an integer, ties to even
_EXP = np.array([0.499999981, 0.166665425, 0.0416672047, 0.00836667247, 0.00138824928], np.float32)
"""(e^r - 1 - r) / r² of |r| <= ln(2)/2, to 1.4e-8 of e^r - 1; from the constant on."""
_TAIL = np.array(
    [0.11962551, 0.120867616, 0.0989657246, 0.132243102, -0.0614000655, 0.215351326, -0.162699224, 0.0370460323],
    np.float32,
)
"""Φ(-a) · e^(a²/2) / t with t = 1 / (1 + 0.3 a) and the normal distribution Φ, to 5e-8 for a from 0 to 6."""
_GATE, _GATE_CUBIC = np.array([1.59576912, 0.0713548163], np.float32)  # 2√(2/π), and 0.044715 times that


@operation()
class Activation(Pointwise):
    """Base class of functions of one number, in float32.

    A new one has a class here, a function and a line of ACTIVATIONS in native/plain/numbers.h, a function in
    export/html/engine/activation.js and a case in export/onnx/pointwise.py.
    """

    torch = ""
    """Torch's expression for it, of {x}."""
    zero_below = -inf
    """Below it the result is -0, as torch's vector kernels round it: a sign that follows is +1."""

    def compute(self, dtype: Any, v: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            x = v.astype(np.float32)
            return self.curve(np.where(x < np.float32(self.zero_below), np.float32(-0.0), x))

    def curve(self, x: np.ndarray) -> np.ndarray:
        """The result for float32 numbers, as docs/format.md states it."""
        raise NotImplementedError


@operation("sigmoid")
class Sigmoid(Activation):
    """1 / (1 + e^-x)."""

    torch = "torch.sigmoid({x})"

    def curve(self, x: np.ndarray) -> np.ndarray:
        return 1 / (2 + exp_less(-x, 1))


@operation("tanh")
class Tanh(Activation):
    """The hyperbolic tangent."""

    torch = "torch.tanh({x})"

    def curve(self, x: np.ndarray) -> np.ndarray:
        e = exp_less(x + x, 1)
        return e / (e + 2)


@operation("silu")
class Silu(Activation):
    """x · sigmoid(x)."""

    torch = "nn.functional.silu({x})"
    zero_below = -88.722832

    def curve(self, x: np.ndarray) -> np.ndarray:
        return x / (2 + exp_less(-x, 1))


@operation("mish")
class Mish(Activation):
    """x · tanh(ln(1 + e^x))."""

    torch = "nn.functional.mish({x})"
    zero_below = -102.87347

    def curve(self, x: np.ndarray) -> np.ndarray:
        e = exp_less(np.where(x < 20, x, np.float32(20)), 0)
        n = e * (e + 2)
        return x * (n / (n + 2))


@operation("gelu")
class Gelu(Activation):
    """x · Φ(x), with the normal distribution Φ."""

    torch = "nn.functional.gelu({x})"
    zero_below = -5.5430403

    def curve(self, x: np.ndarray) -> np.ndarray:
        t = 1 / (1 + np.float32(0.3) * np.abs(x))
        tail = exp_less(x * x * np.float32(-0.5), 0) * (_polynomial(t, _TAIL) * t)
        return x * np.where(x > 0, 1 - tail, tail)


@operation("gelu_tanh")
class GeluTanh(Activation):
    """x · (1 + tanh(√(2/π) · (x + 0.044715 x³))) / 2."""

    torch = "nn.functional.gelu({x}, approximate='tanh')"
    zero_below = -5.0613804

    def curve(self, x: np.ndarray) -> np.ndarray:
        return x / (2 + exp_less(-x * (x * x * _GATE_CUBIC + _GATE), 1))


@operation("sqrt")
class Sqrt(Activation):
    """The square root."""

    torch = "torch.sqrt({x})"

    def curve(self, x: np.ndarray) -> np.ndarray:
        return np.sqrt(x)


@operation("reciprocal")
class Reciprocal(Activation):
    """1 / x."""

    torch = "torch.reciprocal({x})"

    def curve(self, x: np.ndarray) -> np.ndarray:
        return 1 / x


@operation("hardswish")
class Hardswish(Activation):
    """x · min(max(x + 3, 0), 6) / 6."""

    torch = "nn.functional.hardswish({x})"

    def curve(self, x: np.ndarray) -> np.ndarray:
        return x * np.clip(x + 3, np.float32(0), np.float32(6)) / 6


def exp_less(x: np.ndarray, one: int) -> np.ndarray:
    """e^x - one, with `one` 0 or 1. x is clipped to ±80, so that no power of two is subnormal."""
    a = np.clip(x, np.float32(-80), np.float32(80))
    shifted = a * _LOG2_E + _ROUND
    n = shifted - _ROUND
    r = a - n * _LN2_HIGH - n * _LN2_LOW
    q = r + r * r * _polynomial(r, _EXP)
    # 2^n by its bits, which is defined for NaN, too
    power = ((shifted.view(np.uint32) << np.uint32(23)) + np.uint32(0x3F800000)).view(np.float32)
    return power * q + (power - np.float32(one))


def _polynomial(x: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """numbers[0] + numbers[1] x + …, by Horner's rule."""
    y = np.full_like(x, numbers[-1])
    for number in numbers[-2::-1]:
        y = y * x + number
    return y
