"""Before the first step: which batches a training has, and whether its data fit the model and the loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onebit.data import Split, TrainingSamples
from onebit.errors import OnebitError, UsageError
from onebit.evaluation.batches import image_batches, in_tiles
from onebit.evaluation.loaders import unpromised
from onebit.evaluation.metrics import name_of
from onebit.evaluation.misfits import (
    BATCH_NORM_ALONE,
    OF_TORCH,
    check_labels,
    check_takes_inputs,
    check_targets,
    not_finite,
    outputs_for,
    refuse_not_finite,
)
from onebit.evaluation.model_inputs import explained, kept_training, model_device
from onebit.evaluation.nested import all_finite, first_samples, mapped, size_of
from onebit.evaluation.sources import ArraySamples, LoaderSamples
from onebit.fold.check import mistakes
from onebit.layers.base import unwrapped
from onebit.train.feeds import ArrayFeed, Feed, ImageFeed, LoaderFeed
from onebit.train.fit_data import loader_batch_size
from onebit.train.growing import check_growing
from onebit.train.job import Job
from onebit.train.step import plan_steps, refuse_parts

FEW = 16
"""Samples that show which binary inputs are constant."""
STRIDES = "view size is not compatible"
"""Words of torch's error for `view` of channels_last memory."""


def plan_feed(job: Job, epochs: float, *, channels_last: bool) -> tuple[Feed, int]:
    """The batches of an epoch, and the steps of all epochs."""
    data, ranks, device, seed = job.data.train, job.ranks, job.device, job.seed
    shares = ranks.world if isinstance(data, (Split, ArraySamples)) else 1  # each process has a loader of its own
    if not isinstance(data, LoaderSamples) or loader_batch_size(data):
        refuse_parts(job.step_settings.accumulate, batch_size=job.batch_size, processes=shares)
    if isinstance(data, Split):
        samples = TrainingSamples(data, job.augmentation, channels_last=channels_last)
        count = samples.count
        bounds, steps = plan_steps(count, batch_size=job.batch_size, epochs=epochs, processes=ranks.world)
        return ImageFeed(samples, bounds, device, seed, ranks), steps
    if job.augmentation is not None:
        raise UsageError(
            "augmentation changes uint8 images (N, C, H, W) in memory: change other inputs in the data set of a loader"
        )
    if isinstance(data, ArraySamples):
        bounds, steps = plan_steps(len(data), batch_size=job.batch_size, epochs=epochs, processes=ranks.world)
        return ArrayFeed(data, bounds, device, seed, ranks), steps
    feed = LoaderFeed(data, device, seed, ranks)
    steps = round(epochs * feed.steps) if math.isfinite(epochs) else 0
    if steps < 1:
        raise UsageError(f"nothing to train: {feed.steps:,} batches, {epochs:g} epochs")
    if ranks.writes and (reason := unpromised(data.loader)):
        warnings.warn(f"two training runs on this loader may differ, also after a resume: {reason}", stacklevel=4)
    return feed, steps


def check_data(job: Job) -> None:
    """Refuse data that do not fit the model or the loss, by the first batch of training and of validation.

    `job.example` becomes the inputs of a few samples, blank for a `Split`, whose images are checked when a step fails.
    """
    if isinstance(job.data.train, Split):
        job.example = two_inputs(job)
        if job.augmentation is not None:
            check_growing(job.augmentation, job.model, job.example)
    for part in (job.data.train, job.data.validation):
        if part is None or isinstance(part, Split):
            continue
        inputs, targets = next(iter(part.batches()), (None, None))
        if inputs is None:
            raise UsageError(f"{part.name}: the loader is empty, it gives no batches")
        if targets is None:
            raise UsageError(f"{part.name}: got inputs without targets, expected (inputs, targets)")
        for what, value in (("inputs", inputs), ("targets", targets)):
            if not all_finite(value):
                raise not_finite(what, value, name=part.name)
        check_batch(job, inputs, targets, name=part.name)
        if part is job.data.train:
            job.example = mapped(lambda tensor: tensor.detach().clone(), first_samples(inputs, FEW))
        if isinstance(part, ArraySamples):
            _check_all_targets(job, part)


def check_batch(job: Job, inputs: Any, targets: Any, *, name: str) -> None:
    """Refuse a batch that the model or the loss does not take."""
    outputs = check_takes_inputs(job.model, inputs, name=name)
    if size_of(inputs) != size_of(targets):
        raise UsageError(f"{name}: got {size_of(inputs)} inputs and {size_of(targets)} targets in a batch")
    few = mapped(lambda tensor: tensor.to(job.device), first_samples(targets, 2))
    check_targets(outputs, few, job.task, loss=name_of(job.loss))
    if isinstance(targets, Tensor) and isinstance(outputs, Tensor) and is_labels(job, outputs, targets):
        check_labels(targets, outputs.shape[1])


def is_labels(job: Job, outputs: Tensor, targets: Tensor) -> bool:
    """Whether targets are class numbers, one per sample."""
    whole = not targets.is_floating_point() and targets.dtype is not torch.bool
    return job.task in (None, "classification") and whole and targets.dim() == 1 and outputs.dim() == 2


def _check_all_targets(job: Job, samples: ArraySamples) -> None:
    """Refuse arrays with labels outside of the classes, or targets that are not finite."""
    targets = samples.targets if isinstance(samples.targets, Tensor) else torch.tensor(np.asarray(samples.targets))
    if not all_finite(targets):
        raise not_finite("targets", targets, name=samples.name)
    if job.task == "classification" and targets.dim() == 1:
        outputs = outputs_for(job.model, next(samples.batches())[0])
        check_labels(targets, outputs.shape[1])


@contextmanager
def explained_fit(job: Job) -> Iterator[None]:
    """Replace an error of torch by one that names what does not fit, if that is the model or the data."""
    data = job.data
    if isinstance(data.train, Split):
        with explained(job.model, data.input_shape, classes=len(data.classes), data=data.name):
            yield
        return
    yield


@contextmanager
def explained_step(job: Job, inputs: Any, targets: Any) -> Iterator[None]:
    """The same for a single step on samples that are not images of a `Split`."""
    try:
        yield
    except OnebitError:
        raise
    except OF_TORCH as error:
        train = job.data.train
        if isinstance(train, Split):
            raise
        if BATCH_NORM_ALONE in str(error):
            raise UsageError(
                f"{train.name}: a batch of {size_of(inputs)} sample, BatchNorm needs two: "
                "give the loader drop_last=True or another batch size"
            ) from None
        check_batch(job, inputs, targets, name=train.name)
        raise


def blame_data(job: Job) -> None:
    """After a loss that is not a number: refuse training data with values that are not finite."""
    if not isinstance(job.data.train, Split):
        refuse_not_finite(job.data.train)


def fitting_layout(job: Job, layout: torch.memory_format) -> torch.memory_format:
    """Contiguous instead of channels_last where the model views its activations, which channels_last does not allow.

    Tries the model of the user on two samples; a model of onebit takes both.
    """
    model = job.model
    if layout != torch.channels_last or job.memory_format != "auto" or hasattr(model, "input_shape"):
        return layout
    inputs = two_inputs(job)
    model.to(memory_format=layout)  # type: ignore[call-overload]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), kept_training(model):
            model.eval()(mapped(lambda x: x.contiguous(memory_format=layout) if x.dim() == 4 else x, inputs))
    except RuntimeError as error:
        if STRIDES in str(error):
            return torch.contiguous_format
    except (TypeError, ValueError, IndexError, AttributeError):
        pass  # `check_data` or the first step says what does not fit
    return layout


def two_inputs(job: Job) -> Any:
    """The inputs of two samples on the device of the model, blank for images as a `Split`."""
    data, device = job.data.train, model_device(job.model)
    if isinstance(data, Split):
        return torch.zeros(2, *job.data.input_shape, dtype=torch.uint8, device=device)
    return mapped(lambda tensor: tensor.to(device), first_samples(next(data.batches())[0], 2))


def warn_of_mistakes(job: Job) -> None:
    """Warn of what makes a training come to nothing, see `onebit.fold.check.mistakes`."""

    def inputs() -> Any:
        split = job.data.train
        if not isinstance(split, Split):
            return job.example
        images = in_tiles(job.model, split.spread(min(FEW, len(split)))).images
        return next(image_batches(job.model, images, FEW))

    for text in mistakes(unwrapped(job.model), inputs):
        warnings.warn(text, stacklevel=4)
