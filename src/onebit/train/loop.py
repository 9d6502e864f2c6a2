"""`fit`, the only training loop: set up, train and validate each epoch, finish."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from onebit.data import Augmentation, Split
from onebit.errors import TrainingError
from onebit.evaluation.counts import net_size
from onebit.evaluation.forward import autocast, in_tiles, kept_buffers, outputs_of
from onebit.evaluation.health import LOOK_IMAGES, binary_signs, gradient_health, layer_health, whole_share
from onebit.evaluation.losses import Loss, cross_entropy, ignored_label, with_options
from onebit.evaluation.metrics import chosen_metrics, score_outputs, task_of
from onebit.evaluation.modes import fixed_weights, reestimate_batch_norm_, trained_norms
from onebit.evaluation.scores import values_of, whole_score
from onebit.evaluation.sources import LoaderSamples, Samples, as_samples, with_tokens
from onebit.evaluation.trees import first_samples, mapped, size_of
from onebit.layers import batch_norms
from onebit.layers.base import skip_fused_path_
from onebit.optim import latent_rate, switch_
from onebit.quantizers import scheduled
from onebit.train.distillation import Teacher
from onebit.train.feeds import images_of_epoch
from onebit.train.fit_data import fit_data
from onebit.train.history import FIT_FILES, EpochLog, History, refuse_used
from onebit.train.job import Job
from onebit.train.lock import lock_folder
from onebit.train.planning import class_weights_of, plan, start
from onebit.train.precision import repeatable
from onebit.train.printing import printed
from onebit.train.ranks import ALONE, Ranks
from onebit.train.run_files import last_checkpoint, write_epoch, write_weights
from onebit.train.settings import Fit
from onebit.train.step import BatchLog, BatchWatch, Objective, optimizer_step

LOSS_CHECK_STEPS = 50
"""Number of losses per check: reading a loss waits for the device."""


def fit(
    model: nn.Module,
    data: Any,
    optimizer: torch.optim.Optimizer,
    settings: Fit = Fit(),
    *,
    validation: Any = None,
    loss: str | Loss = "cross_entropy",
    metric: Any = None,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    augmentation: Augmentation | None = None,
    teacher: nn.Module | Teacher | None = None,
    ranks: Ranks = ALONE,
    folder: str | Path | None = None,
    resume: bool = False,
    facts: Mapping[str, Any] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[EpochLog], Any] | None = None,
    on_restored: Callable[[EpochLog], None] | None = None,
    batch_watch: BatchWatch | None = None,
    verbose: bool | None = None,
    **changes: Any,
) -> History:
    """Train a model for a number of epochs or steps; afterwards it holds the last weights, in eval mode.

    (seed, epoch) determine the order of samples and the augmentation; torch's generator, which is seeded here, gives
    all other draws. The same seed, machine and thread count give the same bits, resumed or not. A loader is seeded in
    each epoch, if its sampler and transforms draw from the generators of torch, numpy and Python.

    Args:
        model: returns logits (N, classes), or an object or a dict with "logits", or what the loss takes; is trained on
            its device.
        data: a `Dataset`, a torch DataLoader or Dataset, a pair (inputs, targets) of arrays or tensors, a list of
            samples, a `Split`, or with `loss="next_token"` tokens (N, T), which are also the targets. Targets may be
            names of classes, which are sorted and kept as `model.class_names`. A dict has keyword arguments of the
            model, and the targets as "labels", "label", "targets", "target" or "y".
        optimizer: any torch optimizer; groups with `latent_clip` are clipped after each step. One with `train()` and
            `eval()` (schedule-free) is in eval mode between epochs: its averaged weights are validated and saved.
        settings: see `onebit.Fit`; `epochs` or `steps` has to be given.
        validation: data of any form, read to its end after each epoch with the weights that are saved. It selects the
            best epoch: by accuracy or mean IoU, without classes by the loss. None: the validation split of a `Dataset`.
        loss: name or function (outputs, targets) -> scalar; outputs may be a tuple or a dict. The name decides the
            task, see `onebit.evaluation.loss_table`.
        metric: name, function (outputs, targets) -> float, or several of them, see `onebit.evaluation.metrics`.
        schedule: a torch scheduler, stepped once per optimizer step; a `ReduceLROnPlateau` once per epoch, with the
            validation error or loss, or 1 − mean IoU.
        augmentation: applied to batches of uint8 images (N, C, H, W) in memory.
        teacher: a trained net to distill from, see `onebit.train.distillation`; its weights do not change.
        ranks: the rank of this process, see `onebit.train.ranks`.
        folder: for metrics.jsonl, last.ckpt, best.safetensors and final.safetensors; None writes nothing.
        resume: continue from `folder/last.ckpt` if it exists.
        facts: stored in the weight files next to epoch and validation error.
        on_step: called with (steps done, total steps).
        on_epoch: called with each `EpochLog`; if it returns False, training ends after this epoch.
        on_restored: called with the last `EpochLog` of the checkpoint when training resumes.
        batch_watch: called with some batches of each epoch.
        changes: settings by name, as `epochs=5`.
        verbose: print the net, the line of `onebit.check`, a progress bar and a line per epoch; by default on a
            terminal and in a notebook, unless `on_step` or `on_epoch` is given.

    Raises:
        UsageError: no training data, no validation data for `patience` or a plateau, epochs below one step, a loader
            without length and `steps`, labels outside of 0 to classes − 1, a batch size below 1 or above the number of
            samples, an ema outside of [0, 1), an optimizer of another model, a teacher for a loss without classes, a
            `folder` that holds a run without `resume`, or that another run is writing into.
        DataError: inputs that are not finite, or a loader that gives fewer batches than its length.
        TrainingError: a loss or a weight that is not a number; the last checkpoint is kept.
        CheckpointError, FormatError: the checkpoint is of another run, or damaged.

    Example:
        >>> optimizer = clip_latents_(torch.optim.Adam(latent_groups(model, lr=1e-3)))  # doctest: +SKIP
        >>> history = fit(model, data, optimizer, epochs=10, seed=0)  # doctest: +SKIP
    """
    settings, task = replace(settings, **changes), task_of(loss)
    skip_fused_path_(model)
    source = fit_data(with_tokens(data, task), with_tokens(validation, task), batch_size=settings.batch_size)
    run_folder = None if folder is None else Path(folder)
    job = Job(
        model=model,
        data=source,
        optimizer=optimizer,
        schedule=schedule,
        loss=with_options(loss, ignore_index=settings.ignore_index),
        task=task,
        metrics=chosen_metrics(metric, task),
        fit=settings,
        augmentation=augmentation,
        teacher=teacher if teacher is None or isinstance(teacher, Teacher) else Teacher(teacher),
        ranks=ranks,
        folder=run_folder,
        resume=resume,
        facts=facts,
        on_step=on_step,
        on_epoch=on_epoch,
        batch_watch=batch_watch,
        verbose=verbose,
    )
    if source.named:
        model.class_names = source.classes  # type: ignore[assignment]
    plan(job)
    job.loss = with_options(job.loss, class_weights=class_weights_of(job))
    # turns off a user's autocast: each step sets the precision
    with lock_folder(run_folder, ranks), autocast("fp32", job.device), repeatable(job.device):
        if run_folder is not None:
            ranks.first(lambda: refuse_used(run_folder, resume=resume, files=FIT_FILES))
        start(job)
        if job.history.rows:  # the run may have been killed between the checkpoint of an epoch and its best weights
            write_best(job)
        job.history.precision, job.history.size = job.fit.precision, net_size(model)
        if on_restored is not None and job.history.rows:
            on_restored(job.history.rows[-1])
        with closing(job.feed), printed(job):
            going = True
            while going and not job.ended:
                started = time.perf_counter()
                row = after_epoch(job, *train_epoch(job), started=started)
                answer = job.on_epoch and job.on_epoch(row)
                going = not any(ranks.gather(isinstance(answer, (bool, np.bool_)) and not answer))
        finish(job)
    return job.history


# ------------------------------------------------------------------------------------------------------------- an epoch
def train_epoch(job: Job) -> tuple[dict[str, Any], int, tuple[Any, Any]]:
    """Train for the next epoch; the last one may be shorter.

    Returns:
        (fields of its `EpochLog`, number of optimizer steps, at most LOOK_IMAGES inputs and targets of the last batch).
    """
    started = time.perf_counter()
    epoch, ranks, device, total_steps = len(job.history) + 1, job.ranks, job.device, job.total_steps
    epochs, on_step, watch = total_steps / job.feed.steps, job.on_step, job.batch_watch
    steps, images, tokens, counts = min(job.feed.steps, total_steps - job.step), 0, 0, list[float]()
    job.history.threads = torch.get_num_threads()
    losses = torch.zeros(steps, device=device)
    correct: Tensor | None = torch.zeros((), dtype=torch.float64, device=device)
    sums: dict[str, Tensor] = {}
    objective = Objective(job.loss, job.fit, job.task, job.teacher, job.metrics, ranks)
    quantizers, checked = scheduled(job.model), 0
    job.model.train()
    switch_(job.optimizer, "train")
    for i, (full_size_images, y, count) in enumerate(job.feed.epoch(epoch, steps=steps), start=1):
        images += count
        tokens += count * y.shape[1] if job.task == "language" else 0
        x = full_size_images
        if job.augmentation is not None:
            x = images_of_epoch(x, job.augmentation, epoch=epoch, epochs=epochs)
        for quantizer in quantizers:
            quantizer.set_progress(job.step / total_steps)
        if i == steps:  # before the step, in which forward may change its inputs
            last = mapped(Tensor.clone, first_samples(x, LOOK_IMAGES)), first_samples(y, LOOK_IMAGES)
        losses[i - 1], correct_count, labelled_share = optimizer_step(
            job.forward, job.optimizer, x, y, objective, count=count, teacher_inputs=full_size_images, sums=sums
        )
        counts.append(size_of(y) * labelled_share)
        correct = None if correct_count is None or correct is None else correct.add_(correct_count)
        if watch is not None and correct_count is not None and (i % watch.every == 0 or i == steps):
            sums_of_rank = [losses[i - 1].double(), correct_count, correct_count.new_tensor(counts[-1])]
            loss, right, labelled = ranks.sum_(torch.stack(sums_of_rank)).tolist()
            watch.on_batch(BatchLog(epoch, i, steps, loss, right / (labelled or 1)))  # all pixels may be void
        if job.schedule is not None and not isinstance(job.schedule, ReduceLROnPlateau):
            job.schedule.step()
        if job.average is not None:
            job.average.update()
        job.step += 1
        if on_step is not None:
            on_step(job.step, total_steps)
        if i - checked == LOSS_CHECK_STEPS or i == steps:
            _check_losses(job, ranks.sum_(losses[checked:i]), steps_before=job.step - (i - checked))
            checked = i
    switch_(job.optimizer, "eval")
    # BatchNorm statistics and the moving average differ between ranks: rank 0 decides
    ranks.same_([*job.model.buffers(), *(job.average.state.values() if job.average is not None else ())])
    _check_weights(job)
    labelled_counts = ranks.sum_(losses.new_tensor(counts))
    labelled_count = float(labelled_counts.double().sum()) or 1.0  # all pixels may be void
    values = {
        "train_loss": float((losses * labelled_counts).sum()) / labelled_count,
        # sums of rounded fractions, which may exceed the count by 1e-8
        "train_error": None if correct is None else max(0.0, 1 - float(ranks.sum_(correct)) / labelled_count),
        "train_metrics": values_of({name: tuple(ranks.sum_(each.to(device)).tolist()) for name, each in sums.items()}),
        "images_per_second": images / (seconds := time.perf_counter() - started),
        "tokens_per_second": tokens / seconds if tokens else None,
        "small": x is not full_size_images,
    }
    return values, steps, last


def _check_losses(job: Job, losses: Tensor, *, steps_before: int) -> None:
    """Raise at the first loss that is not a number."""
    bad = torch.nonzero(~torch.isfinite(losses))
    if len(bad):
        raise _diverged(job, f"the loss became {float(losses[bad[0]])}", step=steps_before + int(bad[0]) + 1)


def _check_weights(job: Job) -> None:
    """Raise for weights that are not finite, before they are saved. As sign(NaN) = +1, the loss may be finite."""
    for name, tensor in job.model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise _diverged(job, f"{name} holds values that are not finite", step=job.step)


def _diverged(job: Job, what: str, *, step: int) -> TrainingError:
    checkpoint, epoch = last_checkpoint(job), len(job.history) + 1
    kept = "" if checkpoint is None else f"; {checkpoint} is kept"
    return TrainingError(f"{what} in epoch {epoch}, step {step}: lower the learning rate or use --precision fp32{kept}")


# ------------------------------------------------------------------------------------------------------ after the epoch
def after_epoch(job: Job, values: dict[str, Any], steps: int, batch: tuple[Any, Any], *, started: float) -> EpochLog:
    """Validate, log, save a checkpoint and the best weights, and warn about layers that do not learn.

    Args:
        values, steps, batch: from `train_epoch`.
        started: value of `time.perf_counter` at the start of the epoch.
    """
    model, history, precision = job.model, job.history, job.fit.precision
    loss = job.loss
    if values["train_error"] is not None:  # cross_entropy needs classes
        loss = with_options(cross_entropy, ignore_index=ignored_label(job.loss))
    # rank 0 measures for all ranks, so that all have the same history
    gradients = job.ranks.first(lambda: gradient_health(model, *batch, loss, precision=precision))
    with job.saved_weights():
        values |= validate(job)
        previous, job.signs = job.signs, binary_signs(model)
        layers = layer_health(model, previous, job.signs, gradients)
        row = EpochLog(
            epoch=len(history) + 1,
            epochs=-(-job.total_steps // job.feed.steps),
            step=job.step,
            validation_weights="binary" if job.signs else "real",
            seconds=time.perf_counter() - started,
            flip_ratio=whole_share(model, layers, "flip_ratio"),
            saturation=whole_share(model, layers, "saturation"),
            layers=layers,
            lr=latent_rate(job.optimizer),
            **values,
        )
    if isinstance(job.schedule, ReduceLROnPlateau):
        job.schedule.step(row.figure)
        row = replace(row, lr=latent_rate(job.optimizer))
    row = history.add(row)
    write_epoch(job)
    write_best(job)  # after the checkpoint, from which a resumed run writes it again
    if job.ranks.writes:
        early = 2 * job.step <= job.total_steps
        for text in job.health.read(row.layers, epoch=row.epoch, steps=steps if early else 0):
            warnings.warn(text, stacklevel=3)
    return row


def write_best(job: Job) -> None:
    """Write best.safetensors if the last epoch is the best by validation; random states do not change."""
    row = job.history.best
    if row.validation_loss is None or row is not job.history.rows[-1]:
        return
    cuda = [job.device] if job.device.type == "cuda" else []
    with job.saved_weights(), kept_buffers(batch_norms(job.model)), torch.random.fork_rng(cuda):
        statistics_of_saved_(job)
        of_loss = {} if row.validation_error is not None else {"validation_loss": row.validation_loss}
        write_weights(job, "best", epoch=row.epoch, validation_error=row.validation_error, **of_loss)


def finish(job: Job) -> None:
    """Leave the final weights in the model and in its file."""
    if job.average is not None:
        job.average.copy_to_model()
    statistics_of_saved_(job)
    write_weights(job, "final", epoch=job.history.rows[-1].epoch)
    job.ranks.wait()  # until the files are there
    job.model.eval()


def validate(job: Job) -> dict[str, Any]:
    """The validation fields of an `EpochLog`; the model holds the weights that are saved.

    BatchNorm statistics of training are kept. Each rank evaluates its share, rank 0 a whole loader; counts are summed.
    """
    if job.data.validation is None:
        return {"validation_loss": None, "validation_error": None}
    model, score = job.model, None
    mine = _share(model, job.data.validation, job.ranks)
    with kept_buffers(batch_norms(model)):
        statistics_of_saved_(job)
        if mine is not None:
            with fixed_weights(model, "binary"), autocast(job.fit.precision, job.device):
                outputs, targets = outputs_of(model, mine, task=job.task)
            score = score_outputs(outputs, targets, loss=job.loss, metrics=job.metrics, weights="binary", bn="trained")
    whole = whole_score(job.ranks.gather(score))
    return {
        "validation_loss": whole.loss,
        "validation_error": None if whole.correct is None else whole.error,
        "validation_mean_iou": whole.mean_iou,
        "validation_metrics": whole.metrics,
    }


def _share(model: nn.Module, data: Split | Samples, ranks: Ranks) -> Samples | None:
    """This rank's part of the validation samples, or None if it has no part."""
    if isinstance(data, LoaderSamples):
        return data if ranks.writes else None
    part = data[ranks.part(len(data))]
    if not len(part):
        return None
    return as_samples(in_tiles(model, part), name="validation")


def statistics_of_saved_(job: Job) -> None:
    """Re-estimate BatchNorm statistics on the inputs of rank 0, if those of training do not fit the saved weights."""
    if not job.other_statistics:
        return
    model, norms = job.model, trained_norms(job.model)
    with fixed_weights(model, "binary"), autocast(job.fit.precision, job.device):
        reestimate_batch_norm_(model, job.data.train, norms=norms)
    job.ranks.same_([buffer for norm in norms for buffer in norm.buffers()])
