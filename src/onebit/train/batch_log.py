"""Loss and precision of single batches during an epoch, as other scripts print them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from onebit.evaluation.losses import per_sample
from onebit.train.ranks import ALONE, Ranks

TOP = 5


def top5_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many samples have their true class among the five largest logits; with masks each pixel is a sample.

    Args:
        logits: (N, classes) or (N, classes, h, w); labels: (N,) or masks (N, H, W).
    """
    logits, labels = per_sample(logits, labels)
    largest = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
    return (largest == labels[:, None]).sum()


@dataclass(frozen=True)
class BatchLog:
    """A batch, and the mean over the batches of the epoch so far; precision in percent, time in seconds.

    batch: 1, 2, …, of `batches` in the epoch.
    seconds, loss, precision1, precision5: (of this batch, mean so far). Time is the mean since the last logged batch.
    """

    epoch: int
    batch: int
    batches: int
    seconds: tuple[float, float]
    loss: tuple[float, float]
    precision1: tuple[float, float]
    precision5: tuple[float, float]

    def __str__(self) -> str:
        columns = {"Time": self.seconds, "Loss": self.loss, "Prec@1": self.precision1, "Prec@5": self.precision5}
        values = "  ".join(f"{name} {now:.4g} ({mean:.4g})" for name, (now, mean) in columns.items())
        return f"Epoch: [{self.epoch}][{self.batch}/{self.batches}]  {values}"


@dataclass
class BatchWatch:
    """Logs some batches of each epoch; not all, as reading a loss waits for the device.

    Args:
        every: log every N-th batch; None logs nothing.
        on_batch: called with each `BatchLog`.
    """

    every: int | None = None
    on_batch: Callable[[BatchLog], None] = field(default=lambda row: None)

    def begin(self) -> None:
        """Start an epoch."""
        self._sums: Tensor | None = None
        self._began = self._read = time.perf_counter()
        self._last = 0

    def add(
        self, epoch: int, batch: int, batches: int, *, loss: Tensor, correct: Tensor, count: float, ranks: Ranks = ALONE
    ) -> None:
        """Count a batch, and log it if it is its turn.

        Args:
            loss: this rank's share of the mean loss; correct: (2,), this rank's top-1 and top-5 counts.
            count: images of the batch over all ranks; those with masks by their shares of pixels with a class.
        """
        if self.every is None:
            return
        counts = torch.cat([loss[None].double() * count, correct.double(), correct.new_tensor([count / ranks.world])])
        self._sums = counts if self._sums is None else self._sums + counts
        if batch % self.every and batch != batches:
            return
        both = ranks.sum_(torch.stack([counts, self._sums]))
        now = time.perf_counter()
        rows = [(*row[:3], row[3] or 1) for row in both.tolist()]  # masks may have no pixel with a class
        values = [[loss / images, 100 * first / images, 100 * fifth / images] for loss, first, fifth, images in rows]
        seconds = (now - self._read) / (batch - self._last), (now - self._began) / batch
        self._read, self._last = now, batch
        loss_of, first, fifth = zip(*values, strict=True)
        self.on_batch(BatchLog(epoch, batch, batches, seconds, loss_of, first, fifth))
