"""The printed progress of a run: the net, how it packs, a bar, and a line per epoch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

import torch
from torch import nn

from onebit.common.progress import Progress, progress, shows_progress
from onebit.evaluation.counts import model_size
from onebit.evaluation.forward import unchanged
from onebit.layers import binary_layers
from onebit.train.check import check
from onebit.train.history import EpochLog, epoch_lines
from onebit.train.job import Job


def packing_lines(model: nn.Module, inputs: Any) -> list[str]:
    """The line of `onebit.check`; none for a model of onebit without binary layers.

    Changes neither random generators nor the model.

    Args:
        inputs: a batch, for a model without `input_shape`.
    """
    ours = hasattr(model, "input_shape") and getattr(inputs, "dtype", None) == torch.uint8
    if ours and not any(binary_layers(model)):
        return []
    with unchanged(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first step repeats them
        return [check(model, None if ours else inputs).line]


@dataclass
class TrainingPrinter:
    """Prints the progress of a run above its bar, and writes it into a log, if there is one."""

    bar: Progress
    log: TextIO | None = None
    began: bool = False
    rows: list[EpochLog] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Print a line above the bar, and write it into the log."""
        self.bar.print(text)
        self.write(text)

    def write(self, text: str) -> None:
        """Write a line into the log only."""
        if self.log is not None:
            self.log.write(text + "\n")
            self.log.flush()

    def model(self, model: nn.Module, example: Any) -> None:
        """Print the size of the model and how it packs; `example` is a batch of its inputs."""
        signs, real, size = model_size(model)
        self.note(f"{type(model).__name__}: {signs:,} binary weights, {real:,} real parameters")
        self.note(f"{size:,} bytes when packed, {4 * (signs + real):,} as float32")
        for line in packing_lines(model, example):
            self.note(line)

    def epoch(self, row: EpochLog) -> None:
        """Print a row of the table; each stage or task has headings."""
        self.rows = [*self.rows, row] if row.epoch > 1 else [row]
        for line in epoch_lines(self.rows):
            self.note(line)

    def step(self, done: int, total: int) -> None:
        """Move the bar to `done` of `total` optimizer steps."""
        self.began = True
        self.bar.update(done, total)


@contextmanager
def printed(job: Job) -> Iterator[None]:
    """A context in which the callbacks of a run also print its progress, see `shows_progress`."""
    on_step, on_epoch = job.on_step, job.on_epoch
    if not shows_progress(job.verbose if job.ranks.writes else False, on_step, on_epoch):
        yield
        return
    with progress(type(job.model).__name__, "steps", on_step, verbose=True) as bar:
        printer = TrainingPrinter(bar)
        printer.model(job.model, job.example)
        if job.data.named:
            printer.note(f"classes 0 to {len(job.data.classes) - 1}: {', '.join(job.data.classes)}")

        def epoch(row: EpochLog) -> Any:
            printer.epoch(row)
            return on_epoch and on_epoch(row)

        job.on_step, job.on_epoch = printer.step, epoch
        yield
