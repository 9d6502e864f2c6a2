"""Loss and accuracy of single batches during an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class BatchLog(NamedTuple):
    """A batch: 1, 2, …, of `batches` in the epoch; its mean loss, and the share of its samples that is right."""

    epoch: int
    batch: int
    batches: int
    loss: float
    accuracy: float

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch}, step {self.batch}/{self.batches}: loss {self.loss:.4g}, accuracy {self.accuracy:.2%}"
        )


class BatchWatch(NamedTuple):
    """Calls `on_batch` with every N-th batch and the last one; reading a loss waits for the device."""

    every: int
    on_batch: Callable[[BatchLog], None]
