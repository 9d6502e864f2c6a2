"""Which weights of an unknown file are called binary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from onebit.verification.inspection import inspect_state, inspect_weight

RNG = np.random.default_rng(0)
SIGNS = RNG.choice([-1.0, 1.0], (6, 8))
REAL = RNG.normal(size=(100, 2))


def scaled(signs: np.ndarray, axis: int) -> np.ndarray:
    """Other values in each slice of an axis, not symmetric."""
    shape = [1] * signs.ndim
    shape[axis] = signs.shape[axis]
    return signs * RNG.uniform(0.5, 2, shape) + RNG.normal(size=shape)


@pytest.mark.parametrize(
    "weight",
    [
        *(SIGNS, 0.3 * SIGNS, scaled(SIGNS, 0), (SIGNS + 1) / 2, np.full((6, 8), 0.3)),
        scaled(RNG.choice([-1.0, 1.0], (6, 4, 3, 3)), 0),
        scaled(RNG.choice([-1.0, 1.0], (6, 4, 3, 3)), 1),  # a transposed convolution
        *(np.where(REAL > 0, 1.0, -1.0), np.where(REAL > 0, 0.7, -0.2), np.where(REAL > 0, 0.7, -0.7)),
        np.where(REAL > 0, 1.0, -1.0) * RNG.uniform(0.5, 2, (100, 1)),
        *(np.where(REAL[:, :1] > 0, 0.7, -0.7), np.ones((1, 1)), np.array([[1.0], [-1.0]])),
        np.where(RNG.normal(size=(16, 1, 1, 1)) > 0, 1.0, -1.0),
    ],
)
def test_two_values_per_output_channel_are_binary(weight: np.ndarray) -> None:
    assert inspect_weight("w", weight.astype(np.float32), dtype="float32").verdict == "binary"


@pytest.mark.parametrize(
    "weight",
    [
        *(REAL, REAL[:5], REAL[:16, :1].reshape(16, 1, 1, 1), REAL[:2, :1], REAL[:1], REAL[:1, :1]),
        *(scaled(SIGNS, 1), SIGNS * (RNG.random((6, 8)) > 0.3), np.zeros((6, 8)), np.zeros((6, 2))),
        *(scaled(np.where(REAL > 0, 1.0, -1.0), 0), np.array([[0.5, -0.5], [0.0, 0.0]])),
        RNG.normal(size=(6, 4, 3, 3)),
    ],
)
def test_other_weights_are_not(weight: np.ndarray) -> None:
    """One or two real weights of a channel are two values as well, which does not make them binary."""
    assert inspect_weight("w", weight.astype(np.float32), dtype="float32").verdict != "binary"


def test_zeros_of_a_binary_layer_are_one_of_its_values() -> None:
    state: dict[str, Any] = {"a.weight": torch.from_numpy((SIGNS + 1) / 2), "b.weight": torch.tensor([[0.0, 1, -1]])}
    zeros = int((SIGNS < 0).sum())
    assert inspect_state(state, file="f", kind="torch", facts={}).warnings == (
        f"a.weight: {zeros} weights are exactly 0: one of two values",
        "b.weight: 1 weights are exactly 0: a ternary net, not a binary one?",
    )


def test_a_table_that_is_looked_up_counts_no_products() -> None:
    state = {"embedding.weight": torch.ones(7, 3), "head.weight": torch.randn(2, 3)}
    assert inspect_state(state, file="net.pth", kind="torch", facts={}).total["macs"] is None
    del state["embedding.weight"]
    assert inspect_state(state, file="net.pth", kind="torch", facts={}).total["macs"] == 6
