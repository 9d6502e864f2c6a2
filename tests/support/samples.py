"""Samples of the user for training: features with classes and a float target."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from onebit.layers import BinaryLinear
from onebit.optim import clip_latents_, latent_groups
from onebit.quantizers import Stochastic
from onebit.train.history import History
from onebit.train.loop import fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(83, 12)).astype(np.float32)
VALUES = (X @ RNG.normal(size=(12, 3))).astype(np.float32)
Y = VALUES.argmax(axis=1)
EPOCHS = 2


def net(outputs: int = 3, *, inputs: int = 12) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.Dropout(0.1), BinaryLinear(16, 16, input_quantizer="ste_sign"),
        nn.BatchNorm1d(16), nn.Linear(16, outputs),
    )  # fmt: skip


def train(data: Any, folder: Path | None = None, *, model: nn.Module | None = None, **options: Any) -> History:
    model = net() if model is None else model
    optimizer = clip_latents_(torch.optim.Adam(latent_groups(model, lr=0.02)))
    settings: dict[str, Any] = {"epochs": EPOCHS, "verbose": False, "precision": "fp32", "folder": folder}
    return fit(model, data, optimizer, **(settings | options))


def trained(data: Any, folder: Path | None = None, **options: Any) -> dict[str, Tensor]:
    """The weights after a training."""
    model = net()
    train(data, folder, model=model, **options)
    return model.state_dict()


class Drawing(nn.Module):
    """Draws random numbers of every kind, counts its calls, and has running statistics and a moving tensor."""

    def __init__(self) -> None:
        super().__init__()
        random.seed(0)
        np.random.seed(0)
        self.net, self.calls = net(), 0
        self.last = BinaryLinear(3, 3, weight_quantizer=Stochastic(generator=torch.Generator()))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.steps += 1
        noise = random.random() + np.random.random() + torch.rand(())
        return self.last(self.net(x + 0.01 * noise))


def tensors(x: Any = X, y: Any = Y) -> TensorDataset:
    return TensorDataset(torch.as_tensor(x), torch.as_tensor(y))


class Augmented(Dataset):
    """Draws from all global random numbers, as transforms do."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = torch.randn(12) + torch.from_numpy(np.random.normal(size=12)).float() + random.random()
        return torch.from_numpy(X[index]) + 0.1 * noise, int(Y[index])


class Stream(IterableDataset):
    """Gives `counts[i]` samples in its pass i, and all of them after these."""

    def __init__(self, *counts: int) -> None:
        self.counts = list(counts)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        count = self.counts.pop(0) if self.counts else len(X)
        return iter([(torch.from_numpy(x), int(y)) for x, y in zip(X[:count], Y[:count], strict=True)])


class SizedStream(Stream):
    def __len__(self) -> int:
        return len(X)


def loader(data: Any = None, **options: Any) -> DataLoader:
    return DataLoader(tensors() if data is None else data, **({"batch_size": 20, "shuffle": True} | options))


HOLED = np.where(np.arange(83)[:, None] == 70, np.float32(np.nan), X)
BAD_DATA: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "floats as classes": (lambda: (X, VALUES), {}),
    "columns that torch would broadcast": (lambda: (X, VALUES[:, 0]), {"loss": "mse"}),
    "NaN": (lambda: (HOLED, Y), {}),
    "NaN of a loader": (lambda: loader(tensors(HOLED)), {}),
    "NaN targets": (lambda: (X, HOLED[:, :3]), {"loss": "mse"}),
    "no targets": (lambda: X, {}),
    "a loader without targets": (lambda: loader(X), {}),
}
"""Data that are refused, in training and in evaluation, with options of both."""
