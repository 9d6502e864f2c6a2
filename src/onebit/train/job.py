"""The state of a run in progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onebit.data import Augmentation
from onebit.evaluation.health import HealthWatch
from onebit.evaluation.losses import Loss
from onebit.evaluation.metrics import Metric
from onebit.evaluation.modes import trained_norms
from onebit.layers import settling_steps, trains_other_weights
from onebit.train.average import WeightAverage
from onebit.train.distillation import Teacher
from onebit.train.feeds import Feed
from onebit.train.fit_data import FitData
from onebit.train.history import EpochLog, History
from onebit.train.ranks import Ranks
from onebit.train.settings import Fit
from onebit.train.step import BatchWatch


@dataclass(kw_only=True)
class Job:
    """The shared state of the phases of `fit`: first its arguments, in which `plan` resolves "auto".

    fit: the settings, with the number of samples of a batch.
    task: of the loss, see `onebit.evaluation.loss_table`; None for a user's loss.
    example: inputs of some samples.
    feed: the batches of each epoch.
    average: the moving average of the weights; None without one.
    settings: must be equal when training resumes.
    forward: the model, possibly compiled or wrapped for several processes.
    step: optimizer steps so far.
    signs: `binary_signs` of the saved weights, after the last epoch.
    """

    model: nn.Module
    data: FitData
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler | None
    loss: Loss
    task: str | None
    metrics: Mapping[str, Metric]
    fit: Fit
    augmentation: Augmentation | None
    teacher: Teacher | None
    ranks: Ranks
    folder: Path | None
    resume: bool
    facts: Mapping[str, Any] | None
    on_step: Callable[[int, int], None] | None
    on_epoch: Callable[[EpochLog], Any] | None
    batch_watch: BatchWatch | None
    verbose: bool | None
    device: torch.device = field(init=False)
    example: Any = field(init=False)
    feed: Feed = field(init=False)
    total_steps: int = field(init=False)
    settings: dict[str, Any] = field(init=False)
    forward: nn.Module = field(init=False)
    health: HealthWatch = field(init=False)
    average: WeightAverage | None = None
    history: History = field(default_factory=History)
    step: int = 0
    signs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether all steps are done, or the last `patience` epochs were no better than one before them."""
        rows, patience = self.history.rows, self.fit.patience
        if patience is not None and rows and rows[-1].epoch - self.history.best.epoch >= patience:
            return True
        return self.step >= self.total_steps

    @property
    def other_statistics(self) -> bool:
        """Whether BatchNorm statistics of training do not fit the saved weights.

        They do not after random draws of the weights, with an average of them, or after too few steps.
        """
        if self.average is not None or trains_other_weights(self.model) or hasattr(self.optimizer, "eval"):
            return True
        return self.step < settling_steps(trained_norms(self.model))

    def saved_weights(self) -> AbstractContextManager[None]:
        """A context in which the model holds the weights that are validated and saved."""
        return nullcontext() if self.average is None else self.average.applied()
