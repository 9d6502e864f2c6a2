"""`fit`, the only training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onebit.data import Augmentation, Dataset, augment_images
from onebit.errors import TrainingError, UsageError
from onebit.evaluation import (
    Score,
    batch_bounds,
    bn_images,
    fixed_weights,
    kept_batch_norm,
    model_device,
    predict_logits,
    reestimate_batch_norm_,
    score_logits,
)
from onebit.files import write_atomic
from onebit.layers import binary_layers
from onebit.losses import LOSSES, Loss
from onebit.metrics import binary_signs, flip_ratio, saturation
from onebit.optim import clip_latents_
from onebit.precision import autocast, resolve_precision
from onebit.tables import resolve
from onebit.train.checkpoint import load_checkpoint, save_checkpoint, save_weights
from onebit.train.history import EpochLog, History

LOSS_CHECK_STEPS = 50
"""Reading a loss waits for the device, so losses are checked in groups."""


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
    augmentation: Augmentation | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    facts: dict[str, Any] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
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
        precision: "auto", "bf16" or "fp32".
        augmentation: applied to whole batches of uint8 images.
        folder: where metrics.jsonl, last.ckpt, best.safetensors and final.safetensors go; None writes nothing.
        resume: go on from `folder/last.ckpt` if it is there.
        facts: written into the weight files beside epoch and validation result.
        on_step: called with (steps done, total steps); on_epoch: called with each `EpochLog`.

    Raises:
        UsageError: no training images, epochs below one step, a batch size below 1, or a negative seed.
        TrainingError: a loss or a weight that is not a number; the last checkpoint is kept.
        CheckpointError, FormatError: `resume` found a checkpoint of another run, or a damaged one.

    Example:
        >>> optimizer = clip_latents_(torch.optim.Adam(latent_groups(model, lr=1e-3)))  # doctest: +SKIP
        >>> history = fit(model, data, optimizer, epochs=10, seed=0)  # doctest: +SKIP
    """
    device = model_device(model)
    precision = resolve_precision(precision, device)
    loss_function: Loss = resolve(LOSSES, loss, kind="loss")
    batches = batch_bounds(len(data.train), batch_size)
    if seed < 0:
        raise UsageError(f"seed must be 0 or more, got {seed}")
    total_steps = round(epochs * len(batches)) if math.isfinite(epochs) else 0
    if total_steps < 1:
        raise UsageError(f"nothing to train: {len(data.train)} training images, {epochs} epochs")
    epoch_count = -(-total_steps // len(batches))
    images = torch.from_numpy(data.train.images).to(device)
    labels = torch.from_numpy(data.train.labels).to(device)
    random_weights = any(layer.weight_quantizer.random for _, layer in binary_layers(model))  # type: ignore[union-attr]

    torch.manual_seed(seed)
    clip_latents_(optimizer)
    optimizer.zero_grad(set_to_none=True)  # whatever ran before, an interrupted step too, leaves nothing behind
    history = History()
    setting = {
        "seed": seed,
        "batch_size": batch_size,
        "total_steps": total_steps,
        "precision": precision,
        "training images": len(data.train),
        "quantizers": sorted({repr(layer.weight_quantizer) for _, layer in binary_layers(model)}),
        "loss": getattr(loss_function, "__name__", type(loss_function).__name__),
        "optimizer": type(optimizer).__name__,
        "schedule": type(schedule).__name__,
        "augmentation": repr(augmentation),
    }
    folder = None if folder is None else Path(folder)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if resume and (folder / "last.ckpt").exists():
            history = load_checkpoint(
                folder / "last.ckpt", model=model, optimizer=optimizer, schedule=schedule, setting=setting
            )
        # rows of an epoch whose checkpoint was never written are dropped: that epoch is trained again
        write_atomic(folder / "metrics.jsonl", history.to_jsonl().encode())

    step = history.rows[-1].step if history.rows else 0
    signs = binary_signs(model)
    for epoch in range(len(history) + 1, epoch_count + 1):
        started = time.perf_counter()
        rng = np.random.default_rng([seed, epoch])
        order = torch.from_numpy(rng.permutation(len(data.train)))
        epoch_batches = batches[: total_steps - step]
        losses = torch.zeros(len(epoch_batches), device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        model.train()
        for i, (start, stop) in enumerate(epoch_batches):
            chosen = order[start:stop]
            x, y = _batch(images, labels, chosen.to(device), augmentation, rng)
            with autocast(precision, device):
                logits = model(x)
            batch_loss = loss_function(logits.float(), y)
            batch_loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if schedule is not None:
                schedule.step()
            losses[i] = batch_loss.detach()
            correct += (logits.detach().argmax(dim=1) == y).sum()
            step += 1
            if on_step is not None:
                on_step(step, total_steps)
            if (i + 1) % LOSS_CHECK_STEPS == 0 or i + 1 == len(epoch_batches):
                _check_losses(losses[: i + 1], epoch, step - i - 1, folder)
        _check_weights(model, epoch, step, folder)
        seen = epoch_batches[-1][1]
        sizes = torch.tensor([stop - start for start, stop in epoch_batches], device=device)
        train_loss, train_error = float((losses * sizes).sum()) / seen, 1 - int(correct) / seen
        trained = time.perf_counter() - started

        score = None
        if len(data.validation):
            score = validate(model, data, loss=loss_function, precision=precision, reestimate=random_weights)
        signs, previous = binary_signs(model), signs
        row = EpochLog(
            epoch=epoch,
            epochs=epoch_count,
            step=step,
            train_loss=train_loss,
            train_error=train_error,
            validation_loss=None if score is None else score.loss,
            validation_error=None if score is None else score.error,
            validation_weights="binary" if signs else "real",
            lr=float(optimizer.param_groups[-1]["lr"]),
            seconds=time.perf_counter() - started,
            images_per_second=seen / trained,
            flip_ratio=flip_ratio(previous, signs),
            saturation=saturation(model),
        )
        history.rows.append(row)
        if folder is not None:
            if score is not None and history.best is row:
                _save_shipped(folder / "best.safetensors", model, data, row, facts, precision, random_weights)
            save_checkpoint(
                folder / "last.ckpt",
                model=model,
                optimizer=optimizer,
                schedule=schedule,
                history=history,
                setting=setting,
            )
            write_atomic(folder / "metrics.jsonl", history.to_jsonl().encode())
        if on_epoch is not None:
            on_epoch(row)

    if random_weights:
        _statistics_of_signs_(model, data, precision)
    if folder is not None:
        save_weights(folder / "final.safetensors", model, {**(facts or {}), "epoch": history.rows[-1].epoch})
    model.eval()
    return history


def validate(model: nn.Module, data: Dataset, *, loss: Loss, precision: str, reestimate: bool) -> Score:
    """Score on the validation split with the weights that ship, in the precision of training.

    BatchNorm statistics are left as training had them.
    """
    device = model_device(model)
    weights = "binary" if any(True for _ in binary_layers(model)) else "real"
    labels = torch.from_numpy(data.validation.labels).to(device)
    with fixed_weights(model, weights), kept_batch_norm(model), autocast(precision, device):
        if reestimate:
            reestimate_batch_norm_(model, bn_images(data.train, device))
        logits = predict_logits(model, torch.from_numpy(data.validation.images).to(device))
    return score_logits(logits, labels, loss=loss, weights=weights, bn="reestimate" if reestimate else "trained")


def _batch(
    images: Tensor, labels: Tensor, chosen: Tensor, augmentation: Augmentation | None, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """The images (uint8) and labels of one batch on the device of `images`."""
    x = images.index_select(0, chosen)
    if augmentation is not None:
        x = torch.from_numpy(augment_images(x.cpu().numpy(), augmentation, rng=rng)).to(images.device)
    return x, labels.index_select(0, chosen)


def _check_losses(losses: Tensor, epoch: int, steps_before: int, folder: Path | None) -> None:
    """Raise at the first loss that is not a number."""
    bad = torch.nonzero(~torch.isfinite(losses))
    if len(bad):
        raise _diverged(f"the loss became {float(losses[bad[0]])}", epoch, steps_before + int(bad[0]) + 1, folder)


def _check_weights(model: nn.Module, epoch: int, step: int, folder: Path | None) -> None:
    """Raise when a weight is not a number, before it is saved: the sign of NaN is +1, so the loss may not show it."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise _diverged(f"{name} holds values that are not finite numbers", epoch, step, folder)


def _diverged(what: str, epoch: int, step: int, folder: Path | None) -> TrainingError:
    kept = "" if folder is None or not (folder / "last.ckpt").exists() else f"; {folder / 'last.ckpt'} is kept"
    return TrainingError(f"{what} in epoch {epoch}, step {step}: lower the learning rate or use --precision fp32{kept}")


def _statistics_of_signs_(model: nn.Module, data: Dataset, precision: str) -> None:
    """Give BatchNorm the statistics of the signs that ship: those of training belong to random draws."""
    device = model_device(model)
    with fixed_weights(model, "binary"):
        reestimate_batch_norm_(model, bn_images(data.train, device), autocast=autocast(precision, device))


def _save_shipped(
    path: Path,
    model: nn.Module,
    data: Dataset,
    row: EpochLog,
    facts: dict[str, Any] | None,
    precision: str,
    reestimate: bool,
) -> None:
    """Write the weights of an epoch with the BatchNorm statistics of the signs that ship."""
    with kept_batch_norm(model):
        if reestimate:
            _statistics_of_signs_(model, data, precision)
        save_weights(path, model, {**(facts or {}), "epoch": row.epoch, "validation_error": row.validation_error})
