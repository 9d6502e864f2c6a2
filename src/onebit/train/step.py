"""One optimizer step: forward pass, backward pass, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onebit.errors import UsageError
from onebit.evaluation.forward import autocast
from onebit.evaluation.losses import Loss, ignored_label, known_samples, mean_cost, per_sample, token_costs
from onebit.evaluation.metrics import Metric, is_classification
from onebit.evaluation.sources import batch_bounds
from onebit.evaluation.trees import called, floats, leaves, mapped, size_of, split_in
from onebit.train.distillation import Teacher
from onebit.train.ranks import ALONE, Ranks
from onebit.train.settings import Fit


@dataclass(frozen=True)
class Objective:
    """What a step minimizes and counts.

    Args:
        task: of the loss; None for a user's loss.
        teacher: adds its distillation loss.
        metrics: are summed in each step.
    """

    loss: Loss
    settings: Fit
    task: str | None = "classification"
    teacher: Teacher | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    ranks: Ranks = ALONE

    def of(self, logits: Tensor, labels: Tensor, inputs: Any, costs: Tensor | None = None) -> Tensor:
        """The loss of a part of a batch; the teacher sees `inputs`.

        Args:
            costs: of a language model, see `token_costs`.
        """
        teacher, precision = self.teacher, self.settings.precision
        if teacher is None:
            return self.loss(logits, labels) if costs is None else mean_cost(costs)
        seen = mapped(Tensor.clone, inputs) if self.settings.samples > 1 else inputs
        if costs is not None:
            return teacher.token_loss(costs, logits, labels, inputs=seen, precision=precision)
        return teacher.loss(self.loss, logits, labels, images=seen, precision=precision)

    @property
    def ignored(self) -> int | None:
        """The label that does not count."""
        return ignored_label(self.loss)

    def known_shares(self, logits: Tensor, labels: list[Tensor]) -> list[float]:
        """The weight of each part's loss: its share of the labels that are not ignored. [] if no label is ignored."""
        if self.task == "language":
            counts = [int((part[:, 1:] >= 0).sum()) for part in labels]
        elif self.task != "classification" or (labels[0].dim() == 1 and self.ignored is None):
            return []
        else:
            counts = [known_samples(logits, part, self.ignored) for part in labels]
        total = int(self.ranks.sum_(torch.tensor(sum(counts), device=labels[0].device)))
        return [count / max(1, total) for count in counts]

    def add_metrics(self, sums: dict[str, Tensor], outputs: Any, labels: Any) -> None:
        """Add the sums of the metrics, averaged over Monte Carlo samples."""
        if self.ignored is not None and self.metrics:
            outputs, labels = per_sample(outputs, labels, self.ignored)
        for name, metric in self.metrics.items():
            new = metric.sums(outputs, labels) / self.settings.samples
            sums[name] = new if name not in sums else sums[name] + new

    def answers(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor | None, float]:
        """(Number of right answers per Monte Carlo sample, None without classes; number of samples with a class).

        An image with a mask counts as its share of pixels with a class.
        """
        if not is_classification(self.task, outputs, labels):
            return None, size_of(labels)
        found, truth = per_sample(outputs, labels, self.ignored)
        pixels = outputs.numel() // outputs.shape[1]  # void ones included
        right = (found.argmax(dim=1) == truth).sum()
        return right * (len(labels) / pixels / self.settings.samples), len(labels) * len(truth) / pixels


class BatchLog(NamedTuple):
    """A batch (1, 2, …) of the `batches` of an epoch, its mean loss and its accuracy."""

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
    """Calls `on_batch` for every N-th batch and the last one; each call waits for the device."""

    every: int
    on_batch: Callable[[BatchLog], None]


def plan_batches(count: int, *, batch_size: int, processes: int = 1) -> list[tuple[int, int]]:
    """The batches of a pass as (start, stop) in a permutation of `count` samples."""
    least = 2 * processes if processes > 1 else 1
    if not least <= batch_size <= max(count, least):
        shared = f", in {processes} processes" if processes > 1 else ""
        allowed = f"--batch_size {least} to {count:,}, the number of training samples{shared}"
        raise UsageError(f"batch_size is {batch_size}, expected {allowed}")
    return batch_bounds(count, batch_size, least=2 * processes)


def count_steps(batches: int, epochs: float | None) -> int:
    """The steps of all epochs; UsageError for none."""
    epochs = epochs or 0
    steps = round(epochs * batches) if math.isfinite(epochs) else 0
    if steps < 1:
        raise UsageError(f"nothing to train: {batches:,} batches, {epochs:g} epochs")
    return steps


def optimizer_step(
    forward: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Any,
    y: Any,
    objective: Objective,
    *,
    count: int | None = None,
    teacher_inputs: Any = None,
    sums: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None, float]:
    """Train on one batch.

    Args:
        forward: the model, possibly compiled or wrapped for several processes.
        x, y: this rank's inputs and targets, such as images (uint8, N×C×H×W) and labels, or masks.
        count: images of the batch over all ranks, None for N. teacher_inputs: of the teacher, None for x.
        sums: the sums of the metrics over this rank's samples are added here.

    Returns:
        (this rank's share of the mean loss, number of its right answers, share of its samples with a class), see
        `Objective.answers`. The first two are on the device, averaged over Monte Carlo samples.
    """
    settings, ranks, count = objective.settings, objective.ranks, size_of(y) if count is None else count
    device = next(leaves(y)).device
    # equal on all ranks, which wait for each other; BatchNorm cannot train on a single image
    parts = min(settings.accumulate, count // ranks.world // 2) or 1
    total = torch.zeros((), device=device)
    correct: Tensor | None = torch.zeros((), dtype=torch.float64, device=device)
    split = split_in((x, x if teacher_inputs is None else teacher_inputs, y), parts)
    shares, known = [size_of(labels) / count for _, _, labels in split], 0.0
    passes = [(part, *each) for part, each in enumerate(split)] * settings.samples
    again = objective.teacher is not None or settings.samples > 1  # forward may change inputs that are read again
    for done, (part, inputs, images, labels) in enumerate(passes, start=1):
        with ranks.gradients(forward, averaged=done == len(passes)):
            with autocast(settings.precision, device):
                logits = called(forward, mapped(Tensor.clone, inputs) if again else inputs)
            logits = floats(logits, objective.task)
            if done == 1 and (parts > 1 or ranks.world > 1):
                shares = objective.known_shares(logits, [labels for _, _, labels in split]) or shares
            costs, counted = token_costs(logits, labels) if objective.task == "language" else (None, labels)
            share = shares[part] / settings.samples
            part_loss = objective.of(logits, labels, images, costs)
            if costs is not None:
                logits, labels = costs, counted
            # torch averages over ranks, but the shares of all ranks sum to 1: their sum is needed
            (part_loss if share == 1 else part_loss * (share * ranks.world)).backward()
        total += part_loss.detach() * share
        outputs = mapped(Tensor.detach, logits)
        if sums is not None:
            objective.add_metrics(sums, outputs, labels)
        right, classified = objective.answers(outputs, labels)
        known += classified
        correct = None if right is None or correct is None else correct.add_(right)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if settings.clip_grad_norm is not None:
        nn.utils.clip_grad_norm_(parameters, settings.clip_grad_norm)
    if settings.clip_grad_value is not None:
        nn.utils.clip_grad_value_(parameters, settings.clip_grad_value)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, correct, known / (size_of(y) * settings.samples)
