"""Nets with two inputs or two outputs for the samples of `samples.py`, with their targets, loss and metric."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from onebit.layers import BinaryLinear
from support.samples import VALUES, X, Y, net


class Two(nn.Module):
    """Takes two inputs: those of a sample, and three numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = BinaryLinear(12, 3), nn.Linear(3, 3)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.one(one) - self.other(other)


class TwoHeads(nn.Module):
    """Logits of classes and a size: a tuple or, `named`, a dict."""

    def __init__(self, *, named: bool) -> None:
        super().__init__()
        self.named, self.body, self.kind, self.size = named, net(8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Any:
        seen = self.body(x)
        kind, size = self.kind(seen), self.size(seen)
        return {"kind": kind, "size": size} if self.named else (kind, size)


def two_targets(*, named: bool) -> list[Any]:
    """The samples for both heads."""
    targets = [(int(y), value[:1]) for y, value in zip(Y, VALUES, strict=True)]
    return [(x, dict(zip(("kind", "size"), y, strict=True)) if named else y) for x, y in zip(X, targets, strict=True)]


def both(outputs: Any, targets: Any) -> Tensor:
    """The loss of both heads."""
    pairs = zip(*(each.values() if isinstance(each, dict) else each for each in (outputs, targets)), strict=True)
    (kind, label), (size, value) = pairs
    return nn.functional.cross_entropy(kind, label) + nn.functional.mse_loss(size, value)


def right(outputs: Any, targets: Any) -> float:
    """A metric: the share of classes that are right."""
    kind, label = (each["kind"] if isinstance(each, dict) else each[0] for each in (outputs, targets))
    return float((kind.argmax(1) == label).double().mean())
