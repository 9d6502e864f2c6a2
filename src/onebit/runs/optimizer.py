"""Recipe -> optimizer and schedule."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from onebit.common.entries import load
from onebit.common.tables import resolve
from onebit.errors import UsageError
from onebit.evaluation.loss_table import LOSSES
from onebit.layers import binary_layers
from onebit.optim import OPTIMIZERS, OptimizerSetup, clip_latents_, latent_groups
from onebit.quantizers import WEIGHT_QUANTIZERS
from onebit.recipe import Recipe
from onebit.train.schedules import make_schedule, schedule_factor

FUSED = ("adam", "adamw", "sgd")
"""Optimizers that torch can fuse into one pass over parameters and state."""


def build_optimizer(recipe: Recipe, model: nn.Module, *, count: int, steps_per_epoch: int) -> torch.optim.Optimizer:
    """The optimizer of a recipe over `latent_groups`, with the latent clip and the quantizer's part.

    Args:
        count: labels of the training split, of images or of pixels.
    """
    settings = recipe.optimizer
    kind = OPTIMIZERS[settings.name]
    entry = OPTIMIZERS.entry(settings.name)
    real_lr = settings.real_lr if any(binary_layers(model)) else None
    groups = latent_groups(
        model,
        lr=settings.lr if real_lr is None else real_lr,
        latent_clip=settings.latent_clip,
        lr_scale=settings.lr_scale,
        weight_decay=settings.weight_decay,
        decay_latents=settings.decay_latents,
        decay_norm=settings.decay_norm,
    )
    if not entry.own_rule and real_lr is not None:
        for group in groups:
            group["lr"] *= settings.lr / real_lr if group.get("latent") else 1
    setup = _setup(recipe, groups, count=count, steps_per_epoch=steps_per_epoch)
    if entry.build is not None:
        optimizer: torch.optim.Optimizer = load(entry.build)(setup)
    else:
        options = {"momentum": settings.momentum, "nesterov": settings.nesterov, "fused": settings.name in FUSED}
        options = {name: value for name, value in options.items() if value}
        options |= {option.name: getattr(settings, option.name) for option in entry.options}
        optimizer = kind(groups, lr=settings.lr, **options)
    quantizer = WEIGHT_QUANTIZERS.entry(recipe.model.weight_quantizer)
    if quantizer.prepare is not None:
        load(quantizer.prepare)(optimizer, setup)
    return clip_latents_(optimizer)


def _setup(recipe: Recipe, groups: list[dict[str, Any]], *, count: int, steps_per_epoch: int) -> OptimizerSetup:
    steps, initialized = round(recipe.epochs * steps_per_epoch), recipe.init_from is not None
    return OptimizerSetup(recipe.optimizer, groups, count, steps_per_epoch, steps, initialized)


def check_settings(recipe: Recipe, model: nn.Module) -> None:
    """Refuse settings without effect beside the others, and pairs that make no method."""
    name, settings, crops = recipe.optimizer.name, recipe.optimizer, recipe.augmentation
    entry, kind = OPTIMIZERS.entry(name), resolve(OPTIMIZERS, name, kind="optimizer")
    # optimizers of latents leave real parameters to one that decays them
    options = ("momentum", "nesterov") if entry.own_rule else ("momentum", "nesterov", "weight_decay")
    known_options = inspect.signature(kind).parameters
    unused = [option for option in options if getattr(settings, option) and option not in known_options]
    unused += ["lr_scale"] if entry.own_rule and settings.lr_scale else []
    # gradients as large as the number of images, of which a clip would leave nothing
    clips = () if entry.clips_gradients else ("clip_grad_value", "clip_grad_norm")
    unused += [option for option in clips if getattr(settings, option)]
    moves = crops.crop_padding or crops.flip or crops.cutout or crops.min_area or crops.first_size
    known = {kind: quantizer for quantizer, kind in WEIGHT_QUANTIZERS.items()}
    kinds = {type(layer.weight_quantizer) for _, layer in binary_layers(model)}
    names = {known.get(kind, kind.__name__) for kind in kinds}
    trainers = [WEIGHT_QUANTIZERS.entry(quantizer).trained_by or (name,) for quantizer in names]
    pair = names <= {*(entry.trains or names)} and all(name in allowed for allowed in trainers)
    for wrong, text in (
        (unused, f"optimizer.{' and '.join(unused)} does not belong to {name}"),
        (not pair, f"optimizer {name} does not train weight_quantizer {', '.join(sorted(names))}"),
        (recipe.model.weight_quantizer and not names, f"{recipe.name}: weight_quantizer, but no binary layer"),
        (recipe.schedule.warmup >= recipe.epochs, f"schedule.warmup takes all {recipe.epochs:g} epochs"),
        (recipe.label_smoothing and recipe.loss != "cross_entropy", "label_smoothing belongs to loss cross_entropy"),
        (recipe.class_weights and LOSSES.entry(recipe.loss).task != "classification", "class_weights, but no classes"),
        # the black pixels that these add would not be whitened
        (recipe.whitening and (crops.crop_padding or crops.cutout), "whitening, but crop_padding or cutout"),
        (recipe.permutation is not None and moves, "permutation, but augmentation moves pixels"),
    ):
        if wrong:
            raise UsageError(text)


def build_schedule(
    recipe: Recipe, optimizer: torch.optim.Optimizer, *, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of a recipe; its epochs become optimizer steps."""
    settings, own_rate = recipe.schedule, recipe.optimizer.real_lr
    entry = OPTIMIZERS.entry(recipe.optimizer.name)
    # `lr` is the rate of latents, unless that has another name, and of all parameters of a real net
    uses_lr = entry.lr_of_latents or own_rate is None or recipe.model.weight_quantizer is None
    rate = recipe.optimizer.lr if uses_lr or own_rate is None else own_rate
    least = settings.final_lr / rate
    if settings.name == "plateau":
        if entry.factors is not None and recipe.optimizer.decay_epochs is not None:
            raise UsageError("optimizer.decay_epochs does not belong to schedule plateau")
        rates = [least * group["lr"] for group in optimizer.param_groups]
        kept: dict[str, Any] = {"patience": settings.patience, "min_lr": rates, "eps": 0.0, "threshold": 0.0}
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=settings.gamma, **kept)
    total_steps = max(1, round(recipe.epochs * steps_per_epoch))
    epochs_of = settings.milestones
    if settings.name == "step" and settings.step_size:
        epochs_of = tuple(settings.step_size * i for i in range(1, int(recipe.epochs / settings.step_size) + 1))
    factor = schedule_factor(
        settings.name,
        total_steps=total_steps,
        warmup_steps=min(round(settings.warmup * steps_per_epoch), total_steps - 1),  # both are rounded
        final=least,
        gamma=settings.gamma,
        milestones=[round(epoch * steps_per_epoch) for epoch in epochs_of],
    )
    if entry.factors is None:
        return make_schedule(optimizer, factor)
    setup = _setup(recipe, optimizer.param_groups, count=0, steps_per_epoch=steps_per_epoch)
    return make_schedule(optimizer, factor, load(entry.factors)(setup))
