"""Set-up of a run: resolves "auto", plans the batches, and starts or resumes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from onebit.data import Split, TrainingSamples
from onebit.errors import CheckpointError, UsageError
from onebit.evaluation.forward import autocast, in_tiles, try_model
from onebit.evaluation.health import HealthWatch, binary_signs
from onebit.evaluation.losses import check_labels, ignored_label, known_of
from onebit.evaluation.sources import ArraySamples, LoaderSamples, as_samples, refuse_shifted
from onebit.evaluation.trees import first_samples, floats, mapped, to_device
from onebit.layers.base import model_device, unwrapped
from onebit.optim import finish_steps_, switch_
from onebit.train.average import WeightAverage
from onebit.train.check import mistakes
from onebit.train.feeds import LoaderFeed, SampleFeed
from onebit.train.fit_data import batch_size_of, epoch_size
from onebit.train.job import Job
from onebit.train.precision import lay_out_state_, resolve_memory_format, resolve_precision
from onebit.train.run_files import restore, write_data_file, write_rows
from onebit.train.run_settings import settings_of
from onebit.train.step import count_steps, plan_batches
from onebit.train.wrapping import Compiled, SyncedNorms

EXAMPLES = 16
"""Number of samples that show which binary inputs are constant."""
STRIDES = "view size is not compatible"
"""Part of torch's error for `view` of channels_last memory."""
RANK_SEEDS = 1_000_003
"""Distance of the seeds of two ranks: torch uses 32 bits of a seed, and the seeds 0, 1, … belong to other runs."""


def plan(job: Job) -> None:
    """Resolve "auto", and divide the samples into batches; errors as `fit`."""
    model, settings, batch_size = job.model, job.fit, batch_size_of(job.data, job.fit.batch_size)
    epochs, steps, per_epoch = settings.epochs, settings.steps, settings.steps_per_epoch
    if (epochs is None) == (steps is None):
        raise UsageError(f"got epochs={epochs} and steps={steps}, expected one of them")
    if isinstance(job.data.train, LoaderSamples):
        endless = job.data.train.length is None
        _, per_epoch = epoch_size(job.data, batch_size, per_epoch or (steps if endless else None))
    if job.data.named and job.task not in ("classification", None):
        raise UsageError(f"got names of classes as targets, the loss is for {job.task}")
    plateau = isinstance(job.schedule, ReduceLROnPlateau)
    if (plateau or settings.patience is not None) and job.data.validation is None:
        raise UsageError(f"{'a plateau' if plateau else 'patience'} needs validation data")
    if plateau and job.schedule.mode != "min":  # type: ignore[union-attr]
        raise UsageError("ReduceLROnPlateau: got mode max, but the lower the validation figure, the better")
    held = {id(parameter) for group in job.optimizer.param_groups for parameter in group["params"]}
    if held.isdisjoint(map(id, model.parameters())):
        raise UsageError("the optimizer holds no parameter of this model")
    if job.teacher is not None and job.task not in ("classification", "language", None):
        raise UsageError(f"a teacher is for classification and language, the loss is for {job.task}")
    job.device = model_device(model)
    job.fit = replace(settings, batch_size=batch_size, precision=resolve_precision(settings.precision, job.device))
    job.example = _example_inputs(job)
    layout = _fitting_layout(job, resolve_memory_format(settings.memory_format, model))
    model.to(memory_format=layout)  # type: ignore[call-overload]
    data: Any = job.data.train
    if isinstance(data, Split):
        data = TrainingSamples(data, job.augmentation, channels_last=layout == torch.channels_last)
    elif job.augmentation is not None:
        raise UsageError("augmentation is for uint8 images (N, C, H, W) in memory")
    common: dict[str, Any] = {"device": job.device, "seed": settings.seed, "ranks": job.ranks}
    if isinstance(data, LoaderSamples):
        job.feed = LoaderFeed(samples=data, length=data.length, steps=per_epoch or 0, **common)
    else:
        bounds = plan_batches(data.count, batch_size=batch_size, processes=job.ranks.world)
        length = len(bounds)
        job.feed = SampleFeed(samples=data, bounds=bounds, length=length, steps=per_epoch or length, **common)
    job.total_steps = steps or count_steps(job.feed.steps, epochs)
    if job.teacher is not None:
        job.teacher.ready_(job.device, layout)


def _checked_labels(job: Job) -> tuple[int, int | None] | None:
    """The number of classes and the ignored label, after a look at all labels in memory; None for other targets."""
    if job.task != "classification":
        return None
    with autocast(job.fit.precision, job.device):
        outputs = floats(try_model(job.model, job.example), job.task)
    if not isinstance(outputs, Tensor) or outputs.dim() < 2:  # the loss says what it expects
        return None
    classes, ignored = outputs.shape[1], ignored_label(job.loss)
    for part in (job.data.train, job.data.validation):
        if part is not None and isinstance(samples := as_samples(part), ArraySamples):
            check_labels(torch.as_tensor(samples.targets), classes, ignored)
    return classes, ignored


def class_weights_of(job: Job) -> tuple[float, ...] | None:
    """The weight of each class; "balanced" ones make the samples of all classes weigh the same, 1 on average.

    A class without training samples has weight 1. A loader is read once to count its labels.
    """
    if job.fit.class_weights != "balanced":
        return job.fit.class_weights
    if job.feed.length is None:
        raise UsageError("class_weights: balanced ones need a loader with a length, whose labels are counted")
    samples, ignored = as_samples(job.data.train), ignored_label(job.loss)
    counts = torch.zeros(floats(try_model(job.model, job.example), job.task).shape[1], dtype=torch.float64)
    of_batches = (targets for _, targets in samples.batches())
    for targets in [samples.targets] if isinstance(samples, ArraySamples) else of_batches:
        labels = torch.as_tensor(targets).cpu()
        if labels.is_floating_point():
            counts += labels.sum(dim=0)
            continue
        known = known_of(labels, ignored)
        labels = labels.flatten() if known is None else labels.flatten()[known]
        counts += torch.bincount(labels.long(), minlength=len(counts))
    weights = counts.sum() / (counts.count_nonzero() * counts)
    return tuple(torch.where(counts > 0, weights, 1.0).tolist())


def _example_inputs(job: Job) -> Any:
    """The inputs of some training samples."""
    data = job.data.train
    if isinstance(data, Split):
        data = ArraySamples(in_tiles(job.model, data.spread(min(EXAMPLES, len(data)))).images)
    if (batch := next(data.batches(), None)) is None:
        raise UsageError("got no training samples")
    refuse_shifted(*batch, job.task)
    return mapped(lambda tensor: tensor.detach().clone(), first_samples(batch[0], EXAMPLES))


def _fitting_layout(job: Job, layout: torch.memory_format) -> torch.memory_format:
    """Contiguous instead of "auto" channels_last if the model uses `view`, which channels_last does not allow.

    Runs the model on the example, which also detects pixels from 0 to 1 in front of an `InputCoding`.
    """
    model, auto = job.model, job.fit.memory_format == "auto" and layout == torch.channels_last
    if isinstance(job.data.train, Split) and (not auto or hasattr(model, "input_shape")):
        return layout
    model.to(memory_format=layout)  # type: ignore[call-overload]
    try:
        try_model(model, mapped(lambda x: x.contiguous(memory_format=layout) if x.dim() == 4 else x, job.example))
    except RuntimeError as error:
        if not auto or STRIDES not in str(error):
            raise
        return torch.contiguous_format
    return layout


def start(job: Job) -> None:
    """Seed torch, give all ranks the same weights, restore the last checkpoint on resume, and wrap the model."""
    model, ranks = job.model, job.ranks
    torch.manual_seed(job.fit.seed + RANK_SEEDS * ranks.rank)  # dropout and draws differ from rank to rank
    finish_steps_(job.optimizer)
    switch_(job.optimizer, "eval")
    job.optimizer.zero_grad(set_to_none=True)  # an interrupted step may have left gradients
    ranks.same_(list(model.state_dict().values()))
    job.feed.classes = _checked_labels(job)
    job.average = WeightAverage(model, job.fit.ema) if job.fit.ema else None
    job.settings = settings_of(job)
    if job.resume:
        restore(job)
    if ranks.writes:
        for text in _warnings(job):
            warnings.warn(text, stacklevel=3)
    lay_out_state_(job.optimizer)
    job.step = min(len(job.history) * job.feed.steps, job.total_steps)
    if job.history.rows and job.history.rows[-1].step != job.step:
        raise CheckpointError(f"{job.folder}: the last epoch ends at step {job.history.rows[-1].step}, not {job.step}")
    # drops the row of an epoch whose checkpoint was never written: that epoch is trained again
    write_rows(job)
    write_data_file(job)
    forward = Compiled(model) if job.fit.compile else model
    job.forward = ranks.wrap(SyncedNorms(forward) if job.fit.sync_norm and ranks.world > 1 else forward)
    with job.saved_weights():
        job.signs = binary_signs(model)
    job.health = HealthWatch(model, job.optimizer)


def _warnings(job: Job) -> Iterator[str]:
    """Warnings about a loader that resumes, and about mistakes that keep the model from learning."""
    if not job.history.rows:
        yield from mistakes(unwrapped(job.model), lambda: to_device(job.example, job.device))
    elif isinstance(job.data.train, LoaderSamples):
        begin = f"resuming at the start of epoch {len(job.history) + 1}"
        yield f"{begin}; a DataLoader's samples cannot be checked against those of the first run"
