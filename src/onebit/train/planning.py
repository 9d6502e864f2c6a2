"""Before the first step: which batches a training has, and whether its data fit the model and the loss."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from onebit.data import Split, TrainingSamples
from onebit.errors import UsageError
from onebit.evaluation.batches import in_tiles, try_model
from onebit.evaluation.nested import first_samples, mapped
from onebit.evaluation.sources import ArraySamples
from onebit.fold.check import mistakes
from onebit.layers.base import unwrapped
from onebit.train.feeds import ArrayFeed, Feed, ImageFeed, LoaderFeed
from onebit.train.fit_data import FitData
from onebit.train.job import Job
from onebit.train.step import count_steps, plan_steps

FEW = 16
"""Samples that show which binary inputs are constant."""
STRIDES = "view size is not compatible"
"""Words of torch's error for `view` of channels_last memory."""


def plan_feed(job: Job, epochs: float, *, channels_last: bool) -> tuple[Feed, int]:
    """The batches of an epoch, and the steps of all epochs."""
    data, ranks, device, seed = job.data.train, job.ranks, job.device, job.seed
    if isinstance(data, Split):
        samples = TrainingSamples(data, job.augmentation, channels_last=channels_last)
        count = samples.count
        bounds, steps = plan_steps(count, batch_size=job.batch_size, epochs=epochs, processes=ranks.world)
        return ImageFeed(samples, bounds, device, seed, ranks), steps
    if job.augmentation is not None:
        raise UsageError("augmentation is for uint8 images (N, C, H, W) in memory")
    if isinstance(data, ArraySamples):
        bounds, steps = plan_steps(len(data), batch_size=job.batch_size, epochs=epochs, processes=ranks.world)
        return ArrayFeed(data, bounds, device, seed, ranks), steps
    feed = LoaderFeed(data, device, seed, ranks)
    return feed, count_steps(feed.steps, epochs)


def few_inputs(data: FitData) -> Any:
    """The inputs of a few training samples, blank for images as a `Split`."""
    if isinstance(data.train, Split):
        return torch.zeros(2, *data.input_shape, dtype=torch.uint8)
    return mapped(lambda tensor: tensor.detach().clone(), first_samples(next(data.train.batches())[0], FEW))


def fitting_layout(job: Job, layout: torch.memory_format) -> torch.memory_format:
    """Contiguous instead of channels_last where the model views its activations, which channels_last does not allow.

    Tries the model on two samples, which also shows pixels up to 1 in front of an `InputCoding`.
    """
    model, chosen = job.model, job.memory_format == "auto" and layout == torch.channels_last
    if isinstance(job.data.train, Split) and (not chosen or hasattr(model, "input_shape")):
        return layout
    model.to(memory_format=layout)  # type: ignore[call-overload]
    try:
        try_model(model, mapped(lambda x: x.contiguous(memory_format=layout) if x.dim() == 4 else x, job.example))
    except RuntimeError as error:
        if not chosen or STRIDES not in str(error):
            raise
        return torch.contiguous_format
    return layout


def warn_of_mistakes(job: Job) -> None:
    """Warn of what makes a training come to nothing, see `onebit.fold.check.mistakes`."""

    def inputs() -> Any:
        split = job.data.train
        if not isinstance(split, Split):
            return job.example
        images = in_tiles(job.model, split.spread(min(FEW, len(split)))).images
        return next(ArraySamples(images).batches())[0].to(job.device)

    for text in mistakes(unwrapped(job.model), inputs):
        warnings.warn(text, stacklevel=4)
