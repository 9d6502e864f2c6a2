"""Activations are within a few float32 roundings of their definitions, and finite wherever these are."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, erfc, exp, inf, log1p, nan, sqrt, tanh

import numpy as np
import pytest
import torch

from onebit.packed import nodes as op

Definition = Callable[[float], float]


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x > -700 else 0.0


def gelu_tanh(x: float) -> float:
    return x * sigmoid(2 * sqrt(2 / np.pi) * (x + 0.044715 * x**3))


# each with the bound of its relative error: of GELU, that of e^(-x²/2) for large x
DEFINITIONS: dict[type[op.Activation], tuple[Definition, float]] = {
    op.activation.Sigmoid: (sigmoid, 3e-7),
    op.activation.Tanh: (tanh, 3e-7),
    op.activation.Silu: (lambda x: x * sigmoid(x), 3e-7),
    op.activation.Mish: (lambda x: x * tanh(log1p(exp(x)) if x < 700 else x), 6e-7),
    op.activation.Gelu: (lambda x: x * erfc(-x / sqrt(2)) / 2 if x < 0 else x * (1 + erf(x / sqrt(2))) / 2, 2e-6),
    op.activation.GeluTanh: (gelu_tanh, 5e-6),
    op.Sqrt: (lambda x: sqrt(x) if x >= 0 else nan, 6e-8),
    op.Reciprocal: (lambda x: 1 / x if x else inf, 6e-8),
    op.activation.Hardswish: (lambda x: x * min(max(x + 3, 0), 6) / 6, 3e-7),
}
NUMBERS = np.float32(
    [
        *np.random.default_rng(0).normal(0, 3, 3000),
        *(sign * 10.0**power for sign in (-1, 1) for power in np.arange(-38, 36, 0.25)),
        *(0.0, -0.0, 3e38, -3, 3),
    ]
)


def computed(kind: type[op.Activation], numbers: np.ndarray) -> np.ndarray:
    return kind(inputs=("x",), output="y").compute(np.float32, numbers)


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_close_to_the_definition(kind: type[op.Activation]) -> None:
    """Relative where the result of a net can depend on it, absolute where a number times 1e-12 is left."""
    define, bound = DEFINITIONS[kind]
    numbers = NUMBERS if kind is not op.activation.Hardswish else NUMBERS[np.abs(NUMBERS) < 5e37]
    if kind in (op.Sqrt, op.Reciprocal):
        numbers = NUMBERS[(NUMBERS > 1e-37) & (NUMBERS < 1e37)]
    found = computed(kind, numbers)
    assert found.dtype == np.float32
    expected = np.array([0 if x < np.float32(kind.zero_below) else define(x) for x in numbers.tolist()])
    if kind is op.activation.Hardswish:  # next to -3 the sum x + 3 is rounded, as torch rounds it
        bound = bound + 3e-7 / np.maximum(np.abs(numbers.astype(np.float64) + 3), 1e-7)
    np.testing.assert_array_less(np.abs(found - expected), bound * np.abs(expected) + 1e-12)


def test_ends_and_nan() -> None:
    for kind, least, most in [
        (op.activation.Sigmoid, 0, 1),
        (op.activation.Tanh, -1, 1),
        (op.activation.Silu, 0, inf),
        (op.activation.Mish, 0, inf),
        (op.activation.Gelu, 0, inf),
        (op.activation.GeluTanh, 0, inf),
    ]:
        low, high, unknown = computed(kind, np.float32([-inf, inf, nan]))
        assert (low, high) == (pytest.approx(least, abs=1e-30), most)
        assert np.isnan(unknown)


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_a_sign_that_follows_is_that_of_torch(kind: type[op.Activation]) -> None:
    """torch rounds the tails to -0, whose sign is +1; its kernels differ from each other next to the bounds alone.

    The erf of oneDNN, which torch takes on some processors, has its bound 0.9 % nearer to 0.
    """
    functional = torch.nn.functional
    of_torch: dict[type[op.Activation], Callable[[torch.Tensor], torch.Tensor]] = {
        op.activation.Sigmoid: torch.sigmoid,
        op.activation.Tanh: torch.tanh,
        op.activation.Silu: functional.silu,
        op.activation.Mish: functional.mish,
        op.activation.Gelu: functional.gelu,
        op.activation.GeluTanh: lambda x: functional.gelu(x, approximate="tanh"),
        op.activation.Hardswish: functional.hardswish,
        op.Sqrt: torch.sqrt,
        op.Reciprocal: torch.reciprocal,
    }
    numbers = np.concatenate([np.linspace(-110, 10, 1 << 16, dtype=np.float32), NUMBERS[NUMBERS > -1e30]])
    numbers = np.append(numbers, np.zeros(-len(numbers) % 64, np.float32))  # whole vectors
    apart = 1e-2 if kind is op.activation.Gelu else 1e-3
    near = np.abs(numbers / kind.zero_below - 1) < apart if kind.zero_below > -inf else np.zeros(len(numbers), np.bool_)
    ours, theirs = computed(kind, numbers), of_torch[kind](torch.from_numpy(numbers)).numpy()
    np.testing.assert_array_equal((ours >= 0)[~near], (theirs >= 0)[~near])
