"""Which weights of an unknown file are binary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from onebit.fold import pack
from onebit.layers import BinaryLinear, binarize_, binary_layers
from onebit.packed import save
from onebit.verification.inspection import inspect_file, inspect_state, inspect_weight
from support.stand_in_models import Groups, language_model, save_pretrained

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
def test_other_weights_are_not_binary(weight: np.ndarray) -> None:
    """One or two real weights of a channel are two values as well, which does not make them binary."""
    assert inspect_weight("w", weight.astype(np.float32), dtype="float32").verdict != "binary"


def test_weights_that_are_not_finite_or_huge_are_real() -> None:
    for weight in ([[np.nan, np.nan]], [[np.inf, 1.0]], [[1e300, 2.0]]):
        assert inspect_weight("w", np.array(weight), dtype="float64").verdict == "real"


def test_zeros_beside_two_other_values_are_named() -> None:
    state: dict[str, Any] = {"a.weight": torch.from_numpy((SIGNS + 1) / 2), "b.weight": torch.tensor([[0.0, 1, -1]])}
    [warning] = inspect_state(state, file="f", kind="torch", facts={}).warnings
    assert warning.startswith("b.weight: 1 weights")
    assert "ternary" in warning


@pytest.mark.parametrize("name", ["b.weight_orig", "dense.kernel", "b.parametrizations.weight.original1", "proj"])
def test_real_weights_of_another_name_are_not_overlooked(name: str) -> None:
    state = {"a.weight": torch.from_numpy(SIGNS), "a.scale": torch.rand(4, 1, 1, 1)}
    assert inspect_state(state, file="f", kind="torch", facts={}).verdict == "binary"
    found = inspect_state(state | {name: torch.randn(30, 40)}, file="f", kind="torch", facts={})
    assert found.verdict == "mixed"
    assert (found.total["binary_weights"], found.total["weights"]) == (SIGNS.size, SIGNS.size + 1200)
    (warning,) = found.warnings
    assert name in warning


@pytest.mark.parametrize("quantizer", ["xnor", Groups()])
def test_the_folder_of_a_language_model_has_binary_layers(tmp_path: Path, quantizer: Any) -> None:
    """The signs count, also where a row has a scale for each group, and where inputs are quantized."""
    model = language_model(quantizer=None)
    chosen = {"where": lambda name, _: "proj" in name and "o_proj" not in name}
    binarize_(model, weight_quantizer=quantizer, input_quantizer="int8", **chosen)
    found = inspect_file(save_pretrained(model, tmp_path))
    assert (found.kind, found.verdict) == ("transformers", "mixed")
    latents = {f"{name}.weight": layer.weight for name, layer in binary_layers(model)}
    binary = {layer.name: layer for layer in found.layers if layer.verdict == "binary"}
    assert binary.keys() == latents.keys()
    assert found.total["binary_weights"] == sum(latent.numel() for latent in latents.values())
    for name, latent in latents.items():
        assert binary[name].plus_one == (latent >= 0).sum()


def test_weights_that_are_integers_are_weights() -> None:
    codes = torch.randint(-128, 128, (30, 40), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    state = {"a.weight": torch.from_numpy(SIGNS), "b.weight": codes, "mask": torch.ones(9, 9, dtype=torch.bool)}
    found = inspect_state(state, file="f", kind="torch", facts={})
    assert [(layer.dtype, layer.verdict) for layer in found.layers] == [("float64", "binary"), ("int8", "real")]
    assert (found.verdict, found.total["parameters"]) == ("mixed", SIGNS.size + 1200)
    assert not found.warnings


def test_weights_that_are_stored_for_each_call_count_once(tmp_path: Path) -> None:
    layer = BinaryLinear(16, 16)
    save(pack(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(2, 16)), tmp_path / "net.1bit")
    found = inspect_file(tmp_path / "net.1bit")
    assert (found.total["binary_weights"], found.total["parameters"]) == (256, 256)
    assert found.total["bytes_at_32_bit"] == 4 * 256
