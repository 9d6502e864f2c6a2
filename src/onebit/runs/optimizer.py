"""Recipe -> optimizer and schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from onebit.common.entries import load
from onebit.common.tables import resolve
from onebit.errors import UsageError
from onebit.layers import binary_layers
from onebit.optim import OPTIMIZERS, OptimizerSetup, clip_latents_, compile_update_, latent_groups, takes
from onebit.quantizers import WEIGHT_QUANTIZERS
from onebit.recipe import Recipe
from onebit.train.schedules import make_schedule, schedule_factor

FUSED = ("adam", "adamw", "sgd")
"""Optimizers with one pass over parameter and state instead of a dozen."""


def build_optimizer(recipe: Recipe, model: nn.Module, *, count: int, steps_per_epoch: int) -> torch.optim.Optimizer:
    """The optimizer of a recipe over `latent_groups`, with latent clip, what the quantizer adds, or compiled update.

    Args:
        count: labels of the training split, of images or of pixels.
    """
    settings = recipe.optimizer
    kind = resolve(OPTIMIZERS, settings.name, kind="optimizer")
    entry = OPTIMIZERS.entry(settings.name)
    check_pair(recipe, model)
    for option in ("momentum", "weight_decay", "nesterov"):
        # rules of latents leave real parameters to an optimizer that decays them
        decays_others = option == "weight_decay" and entry.own_rule
        if getattr(settings, option) and not takes(kind, option) and not decays_others:
            raise UsageError(f"optimizer.{option} does not belong to {settings.name}")
    if entry.own_rule and settings.lr_scale is not None:
        raise UsageError(f"optimizer.lr_scale does not belong to {settings.name}: set it to null")
    real_lr = settings.real_lr if any(True for _ in binary_layers(model)) else None
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
        optimizer = kind(groups, lr=settings.lr, **{name: value for name, value in options.items() if value})
    quantizer = WEIGHT_QUANTIZERS.entry(recipe.model.weight_quantizer)
    if quantizer.prepare is not None:
        load(quantizer.prepare)(optimizer, setup)
    clip_latents_(optimizer)
    return compile_update_(optimizer, model, precision=recipe.precision) if settings.compile else optimizer


def decays(optimizer: torch.optim.Optimizer) -> bool:
    """Whether weight decay applies to any parameter."""
    return any(group.get("weight_decay") for group in optimizer.param_groups)


def _setup(recipe: Recipe, groups: list[dict[str, Any]], *, count: int, steps_per_epoch: int) -> OptimizerSetup:
    steps, initialized = round(recipe.epochs * steps_per_epoch), recipe.init_from is not None
    return OptimizerSetup(recipe.optimizer, groups, count, steps_per_epoch, steps, initialized)


def check_pair(recipe: Recipe, model: nn.Module) -> None:
    """Refuse a weight quantizer and an optimizer that do not make a method together."""
    name, settings = recipe.optimizer.name, recipe.optimizer
    if not OPTIMIZERS.entry(name).clips_gradients and (settings.clip_grad_value or settings.clip_grad_norm):
        raise UsageError(f"optimizer {name} has gradients of the size of N images, of which a clip leaves nothing")
    known = {kind: quantizer for quantizer, kind in WEIGHT_QUANTIZERS.items()}
    kinds = {type(layer.weight_quantizer) for _, layer in binary_layers(model)}
    names = {known.get(kind, kind.__name__) for kind in kinds}
    trains = OPTIMIZERS.entry(name).trains
    if trains is not None and not names <= set(trains):
        raise UsageError(
            f"optimizer {name} trains weight_quantizer {' or '.join(trains)}, got {', '.join(sorted(names))}"
        )
    for quantizer, entry in WEIGHT_QUANTIZERS.entries().items():
        if quantizer in names and entry.trained_by is not None and name not in entry.trained_by:
            raise UsageError(
                f"weight_quantizer {quantizer} needs optimizer {' or '.join(entry.trained_by)}, got {name}"
            )


def build_schedule(
    recipe: Recipe, optimizer: torch.optim.Optimizer, *, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of a recipe; its epochs become optimizer steps."""
    settings, own_rate = recipe.schedule, recipe.optimizer.real_lr
    if settings.warmup and settings.warmup >= recipe.epochs:
        raise UsageError(f"schedule.warmup is {settings.warmup:g} epochs, but training has only {recipe.epochs:g}")
    entry = OPTIMIZERS.entry(recipe.optimizer.name)
    # `lr` is that of latents, unless their rate has another name, and of all parameters of a real net
    uses_lr = entry.lr_of_latents or own_rate is None or recipe.model.weight_quantizer is None
    rate = recipe.optimizer.lr if uses_lr or own_rate is None else own_rate
    total_steps = max(1, round(recipe.epochs * steps_per_epoch))
    epochs_of = settings.milestones
    if settings.name == "step" and settings.step_size:
        epochs_of = tuple(settings.step_size * i for i in range(1, int(recipe.epochs / settings.step_size) + 1))
    factor = schedule_factor(
        settings.name,
        total_steps=total_steps,
        warmup_steps=min(round(settings.warmup * steps_per_epoch), total_steps - 1),  # both are rounded
        final=settings.final_lr / rate,
        gamma=settings.gamma,
        milestones=[round(epoch * steps_per_epoch) for epoch in epochs_of],
    )
    if entry.factors is None:
        return make_schedule(optimizer, factor)
    setup = _setup(recipe, optimizer.param_groups, count=0, steps_per_epoch=steps_per_epoch)
    own = load(entry.factors)(setup)
    return make_schedule(optimizer, factor, latents=own.pop("lr", None), own=own)
