"""Nets with several inputs, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import onebit
from onebit.layers import BinaryConv2d, BinaryLinear, InputCoding


class Trunk(nn.Module):
    """Images (N, 3, 9, 8) to signs (N, 96)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.pool = BinaryConv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.MaxPool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(onebit.sign(self.norm(self.conv(x)))).flatten(1)[:, :96]


class Siamese(nn.Module):
    """Two images of other codings in one trunk, to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = Trunk(), BinaryLinear(2 * 96, 5)
        self.code_left = InputCoding()
        self.code_right = InputCoding("standardize", mean=[100.0, 110.0, 120.0], std=[50.0, 51.0, 52.0])

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        both = self.trunk(self.code_left(left)), self.trunk(self.code_right(right))
        return self.head(torch.cat(both, dim=1))


class Described(nn.Module):
    """An image and a vector, to logits and a value."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.embed, self.head = Trunk(), BinaryLinear(5, 96), BinaryLinear(96, 4)
        self.norm, self.value = nn.BatchNorm1d(96), BinaryLinear(96, 1)

    def forward(self, image: Tensor, vector: Tensor, scale: float = 2.0) -> dict[str, Tensor]:
        y = self.norm(self.trunk(image.float() / 255) + scale * self.embed(vector))
        return {"logits": self.head(torch.relu(y)), "value": self.value(onebit.sign(y))}


class Summed(nn.Module):
    """Any number of vectors, summed."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = BinaryLinear(6, 16), nn.BatchNorm1d(16)

    def forward(self, *vectors: Tensor) -> Tensor:
        return onebit.sign(self.norm(sum(self.fc(x) for x in vectors)))


def image(seed: int, count: int) -> Tensor:
    return torch.randint(256, (count, 3, 9, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def vector(seed: int, count: int, size: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


class Case(NamedTuple):
    """A model, samples of its inputs, and their names."""

    model: Callable[[], nn.Module]
    batch: Callable[[int], tuple[Tensor, ...]]
    names: list[str]

    def make(self, count: int = 40) -> tuple[Any, tuple[Tensor, ...]]:
        """The model in eval mode, with the BatchNorm statistics of a batch, and the batch."""
        torch.manual_seed(0)
        model, batch = self.model(), self.batch(count)
        model.train()(*batch)
        return model.eval(), batch


CASES = {
    "siamese": Case(Siamese, lambda n: (image(1, n), image(2, n)), ["left", "right"]),
    "described": Case(Described, lambda n: (image(1, n), vector(2, n, 5)), ["image", "vector"]),
    "summed": Case(Summed, lambda n: tuple(vector(k, n, 6) for k in range(3)), ["input_0", "input_1", "input_2"]),
}
