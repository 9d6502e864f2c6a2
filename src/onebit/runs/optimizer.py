"""Recipe -> optimizer and schedule."""

from __future__ import annotations

import math

import torch
from torch import nn

from onebit.common.tables import resolve
from onebit.errors import UsageError
from onebit.layers import binary_layers
from onebit.optim import OPTIMIZERS, BayesBiNN, Bop, clip_latents_, compile_update_, latent_groups, prox_latents_, takes
from onebit.quantizers import WEIGHT_QUANTIZERS, ConcreteSign, Prox, Sign, SteSign
from onebit.recipe import Recipe, refuse_clipping, refuse_long_warmup
from onebit.train.schedules import make_schedule, schedule_factor, step_factor


def build_optimizer(recipe: Recipe, model: nn.Module, *, count: int, steps_per_epoch: int) -> torch.optim.Optimizer:
    """The optimizer of a recipe over `latent_groups`, with latent clip, prox or compiled update.

    Args:
        count: labels of the training split, of images or of pixels: the N of BayesBiNN.

    Raises:
        UsageError: settings that do not go together.
    """
    settings = recipe.optimizer
    kind = resolve(OPTIMIZERS, settings.name, kind="optimizer")
    check_pair(recipe, model)
    for option, value in (("momentum", settings.momentum), ("weight_decay", settings.weight_decay)):
        # rules of our own hand real parameters to an optimizer that decays them
        if value and not takes(kind, option) and not (option == "weight_decay" and kind in (Bop, BayesBiNN)):
            *owners, last = [name for name, other in OPTIMIZERS.items() if takes(other, option)]
            owned = f"belongs to {', '.join(owners)} and {last}"
            raise UsageError(f"optimizer.{option} {owned}, the optimizer is {settings.name!r}")
    if settings.nesterov and (settings.name != "sgd" or not settings.momentum):
        raise UsageError("optimizer.nesterov needs optimizer.name sgd and a momentum")
    own = kind in (Bop, BayesBiNN)
    if settings.prior and (kind is not BayesBiNN or recipe.init_from is None):
        raise UsageError(
            "optimizer.prior takes the weights that bayesbinn starts from as its prior: name them with --init_from"
        )
    if own and settings.lr_scale is not None:
        raise UsageError(f"optimizer.lr_scale does not go with {settings.name}: set it to null")
    groups = latent_groups(
        model,
        lr=settings.lr if settings.real_lr is None else settings.real_lr,
        latent_clip=settings.latent_clip,
        lr_scale=settings.lr_scale,
        weight_decay=settings.weight_decay,
        decay_latents=settings.decay_latents,
        decay_norm=settings.decay_norm,
    )
    if not own and settings.real_lr is not None:
        for group in groups:
            group["lr"] *= settings.lr / settings.real_lr if group.get("latent") else 1
    optimizer: torch.optim.Optimizer
    if kind is Bop:
        optimizer = Bop(groups, gamma=settings.gamma, threshold=settings.threshold)
    elif kind is BayesBiNN:
        optimizer = BayesBiNN(
            groups,
            count=count * settings.data_scale,
            lr=settings.lr,
            momentum=settings.momentum,
            # the λ of another training are where this one starts
            init=settings.latent_init if recipe.init_from is None else None,
        )
        if settings.prior:
            optimizer.set_prior_()
    else:
        options: dict[str, object] = {"lr": settings.lr}
        if settings.momentum:
            options["momentum"] = settings.momentum
        if settings.nesterov:
            options["nesterov"] = True
        if settings.name in ("adam", "adamw", "sgd"):
            options["fused"] = True  # one pass over parameter and state instead of a dozen
        optimizer = kind(groups, **options)
    if settings.prox_strength is not None:
        steps = round(recipe.epochs * steps_per_epoch)
        freeze = math.inf if settings.prox_freeze is None else round(settings.prox_freeze * steps)
        growth = settings.prox_strength / max(1, min(steps, freeze))
        prox_latents_(optimizer, growth=growth, freeze=freeze)
    clip_latents_(optimizer)
    return compile_update_(optimizer, model, precision=recipe.precision) if settings.compile else optimizer


def check_pair(recipe: Recipe, model: nn.Module) -> None:
    """Refuse a weight quantizer and an optimizer that do not make a method together.

    Raises:
        UsageError: which of them goes with what, or clipped gradients that no method of theirs learns from.
    """
    refuse_clipping(recipe)
    name = recipe.optimizer.name
    kinds = {type(layer.weight_quantizer) for _, layer in binary_layers(model)}
    names = {kind: known for known, kind in WEIGHT_QUANTIZERS.items()}
    got = ", ".join(sorted(names.get(kind, kind.__name__) for kind in kinds))  # type: ignore[arg-type]
    if name == "bayesbinn" and kinds - {ConcreteSign}:
        raise UsageError(
            f"optimizer bayesbinn trains weight_quantizer concrete_sign only, got {got}: use --method bayesbinn"
        )
    if name != "bayesbinn" and ConcreteSign in kinds:
        raise UsageError(
            f"weight_quantizer concrete_sign is trained by optimizer bayesbinn only, got {name}: use --method bayesbinn"
        )
    if name == "bop" and kinds - {Sign, SteSign}:
        raise UsageError(f"optimizer bop trains weight_quantizer sign or ste_sign, got {got}: use --method bop")
    if Prox in kinds and recipe.optimizer.prox_strength is None:
        raise UsageError("weight_quantizer prox stays real without optimizer.prox_strength: use --method proxquant")
    if recipe.optimizer.prox_strength is not None and kinds != {Prox}:
        raise UsageError(
            f"optimizer.prox_strength goes with weight_quantizer prox, got {got or 'real weights'}: "
            "use --method proxquant, or set it to null"
        )


def build_schedule(
    recipe: Recipe, optimizer: torch.optim.Optimizer, *, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of a recipe; its epochs become optimizer steps.

    Raises:
        UsageError: unknown, a warm-up as long as training, or no factor that ends where it should.
    """
    refuse_long_warmup(recipe)
    settings = recipe.schedule
    total_steps = max(1, round(recipe.epochs * steps_per_epoch))
    epochs_of = settings.milestones
    if settings.name == "step" and settings.step_size:
        epochs_of = tuple(settings.step_size * i for i in range(1, int(recipe.epochs / settings.step_size) + 1))
    factor = schedule_factor(
        settings.name,
        total_steps=total_steps,
        warmup_steps=min(round(settings.warmup * steps_per_epoch), total_steps - 1),  # both are rounded
        final=settings.final_lr / recipe.optimizer.lr,
        gamma=settings.gamma,
        milestones=[round(epoch * steps_per_epoch) for epoch in epochs_of],
    )
    own = recipe.optimizer
    if own.decay_epochs is None or not isinstance(optimizer, Bop):
        return make_schedule(optimizer, factor)
    every = max(1, round(own.decay_epochs * steps_per_epoch))
    return make_schedule(
        optimizer,
        factor,
        latents=step_factor(own.gamma_decay, every),
        threshold=step_factor(own.threshold_decay, every),
    )
