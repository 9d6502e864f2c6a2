"""`fit`, the only training loop."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onebit.common.arguments import check_number, described
from onebit.common.tables import resolve
from onebit.data import Augmentation, Dataset, TrainingSamples, check_dataset
from onebit.errors import CheckpointError, TrainingError, UsageError, WrongTypeError
from onebit.evaluation.batches import in_tiles, predict_logits
from onebit.evaluation.health import HealthWatch, binary_signs, flip_ratio, gradient_health, layer_health, saturation
from onebit.evaluation.losses import LOSSES, Loss
from onebit.evaluation.model_inputs import explained, model_device
from onebit.evaluation.modes import bn_images, fixed_weights, kept_batch_norm, reestimate_batch_norm_
from onebit.evaluation.precision import autocast, lay_out_state_, resolve_memory_format, resolve_precision
from onebit.evaluation.scores import Score, score_logits, whole_score
from onebit.layers import binary_layers, check_model
from onebit.optim import check_optimizer, finish_steps_, latent_rate
from onebit.quantizers import scheduled
from onebit.train.average import WeightAverage
from onebit.train.batch_log import BatchWatch, top5_correct
from onebit.train.described import training_settings
from onebit.train.device_batches import DeviceBatches
from onebit.train.distillation import Teacher, ready_teacher
from onebit.train.files import RunFiles
from onebit.train.history import EpochLog, History
from onebit.train.lock import locks_folder
from onebit.train.printing import printed
from onebit.train.ranks import ALONE, Ranks
from onebit.train.step import StepSettings, optimizer_step, plan_steps
from onebit.train.sync_norm import SyncedNorms

DEFAULT_STEP = StepSettings()
LOSS_CHECK_STEPS = 50
"""Reading a loss waits for the device, so losses are checked in groups."""
RANK_SEEDS = 1_000_003
"""Distance of the seeds of two ranks; torch's generator takes 32 bits of a seed, and seeds 0, 1, … are other runs."""


@locks_folder
def fit(
    model: nn.Module,
    data: Dataset,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: float,
    loss: str | Loss = "cross_entropy",
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    batch_size: int = 100,
    seed: int = 0,
    precision: str = "auto",
    memory_format: str = "auto",
    augmentation: Augmentation | None = None,
    step_settings: StepSettings = DEFAULT_STEP,
    ema: float = 0.0,
    teacher: nn.Module | Teacher | None = None,
    compile: bool = False,
    sync_norm: bool = False,
    folder: str | Path | None = None,
    resume: bool = False,
    facts: dict[str, Any] | None = None,
    ranks: Ranks = ALONE,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
    batch_watch: BatchWatch | None = None,
    verbose: bool | None = None,
) -> History:
    """Train a model; afterwards it holds the weights of the last epoch, in eval mode.

    The order of images and the augmentation come from (seed, epoch), everything else from torch's generator, which is
    seeded here. The same seed, machine and thread count give the same bits, resumed or not.

    Args:
        model: takes uint8 images (N, C, H, W), returns logits (N, classes); trained on the device it lies on.
        data: `data.validation` is evaluated after each epoch with the weights that ship, and chooses the best epoch.
        optimizer: any torch optimizer; groups with `latent_clip` are clipped after each step.
        epochs: passes over the training split; 0.5 trains on half of it.
        loss: name or function (logits, labels) -> scalar.
        schedule: a torch scheduler, stepped once per optimizer step.
        batch_size: images per optimizer step, over all ranks.
        precision: "auto", "bf16" or "fp32".
        memory_format: "channels_last", "contiguous", or "auto": channels_last for a net with convolutions.
        augmentation: applied to whole batches of uint8 images.
        step_settings: accumulation and gradient clipping.
        ema: share of the old value in a moving average of the weights, which is then validated and saved; 0 for none.
        teacher: a trained net to learn from, see `onebit.train.distillation`; its weights are not changed.
        compile: run the model through torch.compile.
        sync_norm: BatchNorm takes its statistics in training over all ranks, not over each alone.
        folder: where metrics.jsonl, last.ckpt, best.safetensors and final.safetensors go; None writes nothing.
        resume: go on from `folder/last.ckpt` if it is there.
        facts: written into the weight files beside epoch and validation result.
        ranks: which process of several this is, see `onebit.train.ranks`.
        on_step: called with (steps done, total steps); on_epoch: called with each `EpochLog`.
        batch_watch: follows the batches of each epoch; with it top-5 errors are counted, too.
        verbose: whether to print the net, a bar, and a line for each epoch; by default on a terminal and in a notebook,
            unless `on_step` or `on_epoch` is given.

    Raises:
        UsageError: no training images, epochs below one step, a batch size below 1 or above their number, a negative
            seed or ema, a model that does not take these images or has too few logits, an optimizer of another model,
            a teacher of other images or classes, or another training that writes into `folder` now; WrongTypeError for
            arguments of another type.
        TrainingError: a loss or a weight that is not a number; the last checkpoint is kept.
        CheckpointError, FormatError: `resume` found a checkpoint of another run, or a damaged one.

    Example:
        >>> optimizer = clip_latents_(torch.optim.Adam(latent_groups(model, lr=1e-3)))  # doctest: +SKIP
        >>> history = fit(model, data, optimizer, epochs=10, seed=0)  # doctest: +SKIP
    """
    check_model(model)
    check_dataset(data)
    check_optimizer(optimizer)
    for name, number, whole in (("epochs", epochs, False), ("batch_size", batch_size, True), ("seed", seed, True)):
        check_number(name, number, whole=whole)
    device = model_device(model)
    precision = resolve_precision(precision, device)
    layout = resolve_memory_format(memory_format, model)
    model.to(memory_format=layout)  # type: ignore[call-overload]
    loss_function: Loss = resolve(LOSSES, loss, kind="loss")
    if isinstance(loss_function, type) or not callable(loss_function):
        raise WrongTypeError(
            f"loss: got {described(loss)}, expected a function (logits, labels), or one of {', '.join(LOSSES)}"
        )
    if seed < 0:
        raise UsageError(f"seed must be 0 or more, got {seed}")
    if not 0 <= ema < 1:
        raise UsageError(f"ema must be in [0, 1), got {ema}")
    samples = TrainingSamples(data.train, augmentation, channels_last=layout == torch.channels_last)
    batches, total_steps = plan_steps(samples.count, batch_size=batch_size, epochs=epochs, processes=ranks.world)
    on_device = DeviceBatches(samples, device)
    mine = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in mine for group in optimizer.param_groups for parameter in group["params"]):
        raise UsageError(
            "the optimizer holds no parameter of this model: build it on onebit.latent_groups(model, lr=...)"
        )
    epoch_count = -(-total_steps // len(batches))
    quantizers: list[Any] = [layer.weight_quantizer for _, layer in binary_layers(model)]
    random_weights = any(quantizer.random or quantizer.relaxed for quantizer in quantizers)

    taught = None if teacher is None else ready_teacher(teacher, model, data, device=device, layout=layout)
    torch.manual_seed(seed + RANK_SEEDS * ranks.rank)  # dropout and draws differ from rank to rank
    finish_steps_(optimizer)
    optimizer.zero_grad(set_to_none=True)  # whatever ran before, an interrupted step too, leaves nothing behind
    ranks.same_(list(model.state_dict().values()))
    average = WeightAverage(model, ema) if ema else None
    setting = {
        "processes": f"{ranks.world} with sync_norm" if sync_norm and ranks.world > 1 else ranks.world,
        "seed": seed,
        "batch_size": batch_size,
        "total_steps": total_steps,
        "precision": precision,
        "classes": list(data.classes),
        "training images": len(data.train),
        "data": data.digest,
        "quantizers": sorted({repr(layer.weight_quantizer) for _, layer in binary_layers(model)}),
        "loss": getattr(loss_function, "__name__", type(loss_function).__name__),
        "optimizer": type(optimizer).__name__,
        "schedule": type(schedule).__name__,
        "augmentation": repr(augmentation),
        "step": repr(step_settings),
        "ema": ema,
        "teacher": None if taught is None else taught.digest,
        "settings": training_settings(optimizer, schedule, loss_function),
    }
    held = {
        "model": model,
        "optimizer": optimizer,
        "schedule": schedule,
        "average": average,
        "setting": setting,
        "ranks": ranks,
    }
    files = RunFiles(folder, facts=facts, ranks=ranks, held=held)
    history = files.resume() if resume else History()
    lay_out_state_(optimizer)
    # rows of an epoch whose checkpoint was never written are dropped: that epoch is trained again
    files.write_rows(history)
    files.write_place(data)

    forward: nn.Module = torch.compile(model) if compile else model  # type: ignore[assignment]
    forward = ranks.wrap(SyncedNorms(forward) if sync_norm and ranks.world > 1 else forward)
    step = min(len(history) * len(batches), total_steps)
    if history.rows and history.rows[-1].step != step:
        raise CheckpointError(f"{files.kept}: holds {history.rows[-1].step} steps, this run has made {step} by then")
    following, watch = scheduled(model), HealthWatch(model, optimizer)
    with _shipped(average):
        signs = binary_signs(model)
    shown = verbose if ranks.writes else False
    with (
        printed(model, verbose=shown, on_step=on_step, on_epoch=on_epoch) as (step_done, epoch_done),
        explained(model, data.input_shape, classes=len(data.classes), data=data.name),
    ):
        for epoch in range(len(history) + 1, epoch_count + 1):
            started = time.perf_counter()
            rng = np.random.default_rng([seed, epoch])
            order = samples.order(rng)
            epoch_batches = batches[: total_steps - step]
            losses = torch.zeros(len(epoch_batches), device=device)
            top5 = batch_watch is not None
            correct = torch.zeros(2 if top5 else (), dtype=torch.float64, device=device)
            if batch_watch is not None:
                batch_watch.begin()
            checked = 0
            model.train()
            chosen = [(order[start:stop], ranks.part(stop - start)) for start, stop in epoch_batches]
            for i, (x, y) in enumerate(on_device.batches(chosen, rng)):
                indices = chosen[i][0]
                for quantizer in following:
                    quantizer.set_progress(step / total_steps)
                losses[i], right = optimizer_step(
                    forward,
                    optimizer,
                    x,
                    y,
                    loss=loss_function,
                    precision=precision,
                    settings=step_settings,
                    count=len(indices),
                    ranks=ranks,
                    teacher=taught,
                    top5=top5,
                )
                correct += right
                if batch_watch is not None:
                    watched = (epoch, i + 1, len(epoch_batches))
                    batch_watch.add(*watched, loss=losses[i], correct=right, count=len(indices), ranks=ranks)
                if schedule is not None:
                    schedule.step()
                if average is not None:
                    average.update()
                step += 1
                if step_done is not None:
                    step_done(step, total_steps)
                if i + 1 - checked == LOSS_CHECK_STEPS or i + 1 == len(epoch_batches):
                    ranks.sum_(losses[checked : i + 1])
                    _check_losses(losses[checked : i + 1], epoch, step - (i + 1 - checked), files)
                    checked = i + 1
            # each rank has BatchNorm statistics, and a moving average, of its own images: the first rank's count
            ranks.same_([*model.buffers(), *(average.state.values() if average is not None else ())])
            _check_weights(model, epoch, step, files)
            seen = epoch_batches[-1][1]
            sizes = torch.tensor([stop - start for start, stop in epoch_batches], device=device)
            train_loss = float((losses * sizes).sum()) / seen
            # shares of right answers are rounded: together they may be some 1e-8 more than all
            train_error, *others = (max(0.0, 1 - right / seen) for right in ranks.sum_(correct).reshape(-1).tolist())
            trained = time.perf_counter() - started
            # of the first rank's images, on all ranks, so that all have the same history
            gradients = ranks.first(lambda: gradient_health(model, x, y, precision=precision))  # noqa: B023

            with _shipped(average):
                score = None
                if len(data.validation):
                    score = validate(
                        model,
                        data,
                        loss=loss_function,
                        precision=precision,
                        reestimate=random_weights,
                        ranks=ranks,
                        top5=top5,
                    )
                signs, previous = binary_signs(model), signs
                row = EpochLog(
                    epoch=epoch,
                    epochs=epoch_count,
                    step=step,
                    train_loss=train_loss,
                    train_error=train_error,
                    validation_loss=None if score is None else score.loss,
                    validation_error=None if score is None else score.error,
                    validation_mean_iou=None if score is None else score.mean_iou,
                    train_error5=others[0] if top5 else None,
                    validation_error5=None if score is None else score.error5,
                    validation_weights="binary" if signs else "real",
                    lr=latent_rate(optimizer),
                    seconds=time.perf_counter() - started,
                    images_per_second=seen / trained,
                    flip_ratio=flip_ratio(previous, signs),
                    saturation=saturation(model),
                    layers=layer_health(model, previous, signs, gradients),
                )
                history.rows.append(row)
                if score is not None:
                    best = history.best
                    reached = best.validation_error if best.validation_mean_iou is None else best.validation_mean_iou
                    row = history.rows[-1] = replace(row, best=reached)
                if score is not None and history.best is row:
                    with kept_batch_norm(model):
                        if random_weights:
                            _statistics_of_signs_(model, data, precision)
                        files.write_weights("best", model, epoch=row.epoch, validation_error=row.validation_error)
            files.write_epoch(history)
            if ranks.writes:
                for text in watch.read(row.layers, epoch=epoch, steps=len(sizes), early=2 * step <= total_steps):
                    warnings.warn(text, stacklevel=2)
            if epoch_done is not None:
                epoch_done(row)

    if average is not None:
        average.copy_to_model()
    if random_weights:
        _statistics_of_signs_(model, data, precision)
    files.write_weights("final", model, epoch=history.rows[-1].epoch)
    ranks.wait()  # until the files are there
    model.eval()
    return history


def validate(
    model: nn.Module,
    data: Dataset,
    *,
    loss: Loss,
    precision: str,
    reestimate: bool,
    ranks: Ranks = ALONE,
    top5: bool = False,
) -> Score:
    """Score on the validation split with the weights that ship, in the precision of training.

    BatchNorm statistics are left as training had them. Each rank looks at its share; the counts are summed.
    """
    device = model_device(model)
    weights = "binary" if any(True for _ in binary_layers(model)) else "real"
    bn = "reestimate" if reestimate else "trained"
    mine = in_tiles(model, data.validation[ranks.part(len(data.validation))])
    with fixed_weights(model, weights), kept_batch_norm(model), autocast(precision, device):
        if reestimate:
            reestimate_batch_norm_(model, bn_images(data.train))
        score = None
        if len(mine):
            logits = predict_logits(model, mine.images)
            labels = torch.from_numpy(mine.labels).to(device)
            score = score_logits(logits, labels, loss=loss, weights=weights, bn=bn)
            if top5:
                score = replace(score, top5=int(top5_correct(logits, labels)))
    return whole_score(ranks.gather(score))


def _shipped(average: WeightAverage | None) -> AbstractContextManager[None]:
    """The context in which the model holds the weights that are validated and saved."""
    return nullcontext() if average is None else average.applied()


def _check_losses(losses: Tensor, epoch: int, steps_before: int, files: RunFiles) -> None:
    """Raise at the first loss that is not a number."""
    bad = torch.nonzero(~torch.isfinite(losses))
    if len(bad):
        raise _diverged(f"the loss became {float(losses[bad[0]])}", epoch, steps_before + int(bad[0]) + 1, files)


def _check_weights(model: nn.Module, epoch: int, step: int, files: RunFiles) -> None:
    """Raise when a weight is not a number, before it is saved: the sign of NaN is +1, so the loss may not show it."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise _diverged(f"{name} holds values that are not finite numbers", epoch, step, files)


def _diverged(what: str, epoch: int, step: int, files: RunFiles) -> TrainingError:
    kept = "" if files.kept is None else f"; {files.kept} is kept"
    return TrainingError(f"{what} in epoch {epoch}, step {step}: lower the learning rate or use --precision fp32{kept}")


def _statistics_of_signs_(model: nn.Module, data: Dataset, precision: str) -> None:
    """Give BatchNorm the statistics of the signs that ship: those of training belong to random draws."""
    device = model_device(model)
    with fixed_weights(model, "binary"):
        reestimate_batch_norm_(model, bn_images(data.train), autocast=autocast(precision, device))
