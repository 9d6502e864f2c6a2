"""Losses of the BinaryConnect and BNN papers: logits (N, classes), integer labels (N,) -> scalar mean."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """max(0, 1 − t·y) with t = ±1 one-hot, shape of `logits`."""
    targets = torch.full_like(logits, -1.0).scatter_(1, labels.unsqueeze(1), 1.0)
    return F.relu(1 - targets * logits)


def squared_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """mean(max(0, 1 − t·y)²) over samples and classes, t = ±1 one-hot (BinaryConnect, arXiv:1511.00363, section 3.1).

    Args:
        logits: (N, classes).
        labels: (N,) integers.
    """
    return _margins(logits, labels).square().mean()


def hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """mean(max(0, 1 − t·y)) over samples and classes, t = ±1 one-hot.

    Args:
        logits: (N, classes).
        labels: (N,) integers.
    """
    return _margins(logits, labels).mean()


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean negative log-likelihood of softmax(logits).

    Args:
        logits: (N, classes).
        labels: (N,) integers.
        label_smoothing: share of the target spread evenly over the classes.
    """
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "hinge": hinge,
    "squared_hinge": squared_hinge,
}
