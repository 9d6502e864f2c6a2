"""One optimizer step: forward, backward, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onebit.errors import UsageError
from onebit.evaluation.forward import autocast
from onebit.evaluation.losses import Loss, known_samples, per_sample
from onebit.evaluation.metrics import Metric, is_classification
from onebit.evaluation.sources import batch_bounds
from onebit.evaluation.trees import leaves, mapped, size_of, split_in
from onebit.train.distillation import Teacher
from onebit.train.ranks import ALONE, Ranks


@dataclass(frozen=True)
class StepSettings:
    """How the gradient of a batch is formed and used.

    Args:
        accumulate: number of parts that a batch is split into: the memory of one part, the gradient of all
            (BatchNorm sees one part at a time). A part has two samples or more.
        clip_grad_norm: limit for the norm of all gradients together; None for no limit.
        clip_grad_value: limit for the magnitude of one gradient; None for no limit.
        samples: Monte Carlo samples: passes over the batch with different random weights, which are averaged.
    """

    accumulate: int = 1
    clip_grad_norm: float | None = None
    clip_grad_value: float | None = None
    samples: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be positive, got {value!r}")


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


def plan_steps(count: int, *, batch_size: int, epochs: float, processes: int = 1) -> tuple[list[tuple[int, int]], int]:
    """The batches of an epoch as (start, stop) in a permutation of `count` samples, and the steps of all epochs."""
    least = 2 * processes if processes > 1 else 1
    if not least <= batch_size <= max(count, least):
        raise UsageError(
            f"batch_size is {batch_size}, expected {least} to {count:,}: two images for each of {processes} processes, "
            "and no more than there are training images"
        )
    batches = batch_bounds(count, batch_size, least=2 * processes)
    return batches, count_steps(len(batches), epochs)


def count_steps(batches: int, epochs: float) -> int:
    """The steps of all epochs; UsageError for none, after which nothing would be trained."""
    steps = round(epochs * batches) if math.isfinite(epochs) else 0
    if steps < 1:
        raise UsageError(f"nothing to train: {batches:,} batches, {epochs:g} epochs")
    return steps


def optimizer_step(
    forward: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Any,
    y: Any,
    *,
    loss: Loss,
    precision: str,
    settings: StepSettings,
    count: int | None = None,
    ranks: Ranks = ALONE,
    teacher: Teacher | None = None,
    teacher_inputs: Any = None,
    task: str | None = "classification",
    metrics: Mapping[str, Metric] | None = None,
    sums: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None, float]:
    """Train on one batch.

    Args:
        forward: the model, possibly compiled or wrapped for several processes.
        x, y: this rank's inputs and targets, such as images (uint8, N×C×H×W) and labels, or masks.
        count: images of the batch over all ranks; N when None.
        teacher: adds its distillation loss.
        teacher_inputs: what the teacher gets; x when None.
        task: of the loss; None for a loss of the user.
        metrics: whose sums over this rank's samples are added to `sums`.

    Returns:
        (this rank's share of the mean loss, number of its correct predictions, share of its samples with a class). The
        first two are on the device, averaged over Monte Carlo samples. An image with a mask counts with its share of
        pixels with a class. The second is None where there are no classes.
    """
    count = size_of(y) if count is None else count
    device = next(leaves(y)).device
    # the same number on every rank, as they wait for each other; BatchNorm cannot train on a single image
    parts = min(settings.accumulate, count // ranks.world // 2) or 1
    total = torch.zeros((), device=device)
    correct: Tensor | None = torch.zeros((), dtype=torch.float64, device=device)
    whole = (x, x if teacher_inputs is None else teacher_inputs, y)
    split = list(zip(*(split_in(each, parts) for each in whole), strict=True))
    shares = [size_of(labels) / count for _, _, labels in split]
    seen, sums = 0.0, {} if sums is None else sums
    passes = [(part, *each) for part, each in enumerate(split)] * settings.samples
    again = teacher is not None or settings.samples > 1  # inputs are read more than once, and forward may change them
    for done, (part, inputs, images, labels) in enumerate(passes, start=1):
        with ranks.gradients(forward, averaged=done == len(passes)):
            with autocast(precision, device):
                logits = forward(mapped(Tensor.clone, inputs) if again else inputs)
            logits = mapped(Tensor.float, logits)
            if done == 1 and task == "classification" and labels.dim() == 3 and (parts > 1 or ranks.world > 1):
                # the loss of a part is the mean over its pixels with a class
                counts = [known_samples(logits, masks) for _, _, masks in split]
                over_ranks = int(ranks.sum_(torch.tensor(sum(counts), device=device)))
                shares = [count / max(1, over_ranks) for count in counts]
            share = shares[part] / settings.samples
            if teacher is None:
                part_loss = loss(logits, labels)
            else:
                seen_by_teacher = mapped(Tensor.clone, images) if settings.samples > 1 else images
                part_loss = teacher.loss(loss, logits, labels, images=seen_by_teacher, precision=precision)
            # torch averages over ranks, but the shares of all ranks sum to one, so their sum is needed
            (part_loss if share == 1 else part_loss * (share * ranks.world)).backward()
        total += part_loss.detach() * share
        outputs = mapped(Tensor.detach, logits)
        for name, metric in (metrics or {}).items():
            new = metric.sums(outputs, labels) / settings.samples
            sums[name] = new if name not in sums else sums[name] + new
        if correct is None or not is_classification(task, logits, labels):
            correct = None
            seen += size_of(labels)
            continue
        found, truth = per_sample(outputs, labels)
        every = logits.numel() // logits.shape[1]  # pixels without a class included
        seen += len(labels) * len(truth) / every
        right = (found.argmax(dim=1) == truth).sum()
        correct += right * (len(labels) / every / settings.samples)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if settings.clip_grad_norm is not None:
        nn.utils.clip_grad_norm_(parameters, settings.clip_grad_norm)
    if settings.clip_grad_value is not None:
        nn.utils.clip_grad_value_(parameters, settings.clip_grad_value)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total, correct, seen / (size_of(y) * settings.samples)
