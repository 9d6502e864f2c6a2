"""Recipe -> objects: model, optimizer, schedule, loss, augmentation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from onebit.data import Augmentation, Dataset
from onebit.errors import UsageError
from onebit.evaluation import batch_bounds
from onebit.losses import LOSSES, Loss, cross_entropy
from onebit.models import create_model
from onebit.optim import OPTIMIZERS, clip_latents_, compile_update_, latent_groups
from onebit.recipe import ModelRecipe, Recipe
from onebit.tables import resolve
from onebit.train.schedules import make_schedule, schedule_factor
from onebit.train.step import StepSettings
from onebit.train.weights import load_weights, read_state, weight_file


@dataclass(frozen=True)
class Training:
    """Everything `fit` needs, built from a recipe."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    loss: Loss
    augmentation: Augmentation | None
    step_settings: StepSettings


def resolve_device(device: str) -> torch.device:
    """The device of a recipe; "auto" is a GPU where there is one.

    Raises:
        UsageError: not a device, or not on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UsageError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return found


def build_model(
    recipe: ModelRecipe,
    *,
    input_shape: Sequence[int],
    classes: int,
    statistics: tuple[list[float], list[float]] | None = None,
) -> nn.Module:
    """The model of a recipe.

    Args:
        input_shape: (C, H, W) of an image; classes: number of logits.
        statistics: mean and standard deviation per channel for the coding "standardise"; without them the buffers hold
            0 and 1, to be overwritten by the weights that are loaded next.
    """
    options = recipe.options() | {"input_shape": tuple(input_shape), "classes": classes}
    if recipe.coding == "standardise":
        mean, std = statistics or ([0.0] * input_shape[0], [1.0] * input_shape[0])
        options |= {"mean": mean, "std": std}
    return create_model(options.pop("name"), **options)


def build_training(
    recipe: Recipe, data: Dataset, *, device: torch.device | None = None, processes: int = 1
) -> Training:
    """Seed torch, then build the objects of a recipe for a data set.

    Args:
        device: where the model goes; the recipe's own device when None.
        processes: how many train together; see `fit`, whose batches the schedule counts.

    Raises:
        UsageError, UnknownNameError: names or settings that do not fit together.
        FormatError, CheckpointError: `init_from` is damaged or holds another net.
    """
    images = data.train.images
    torch.manual_seed(recipe.seed)
    model = build_model(
        recipe.model,
        input_shape=data.input_shape,
        classes=len(data.classes),
        statistics=data.train.channel_statistics() if recipe.model.coding == "standardise" else None,
    )
    if recipe.init_from is not None:
        source = weight_file(Path(recipe.init_from))
        load_weights(model, read_state(source)[0], source=str(source), start=True)
    model.to(device or resolve_device(recipe.device))
    loss: Loss = resolve(LOSSES, recipe.loss, kind="loss")
    if recipe.label_smoothing:
        loss = functools.partial(cross_entropy, label_smoothing=recipe.label_smoothing)
    optimizer = build_optimizer(recipe, model)
    steps_per_epoch = len(batch_bounds(len(images), recipe.batch_size, least=2 * processes))
    schedule = build_schedule(recipe, optimizer, steps_per_epoch=steps_per_epoch)
    augmentation = Augmentation(**dataclasses.asdict(recipe.augmentation))
    step_settings = StepSettings(
        recipe.optimizer.accumulate, recipe.optimizer.clip_grad_norm, recipe.optimizer.clip_grad_value
    )
    changes = augmentation if augmentation != Augmentation() else None
    return Training(model, optimizer, schedule, loss, changes, step_settings)


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a recipe over `latent_groups`, with the latent clip."""
    settings = recipe.optimizer
    kind = resolve(OPTIMIZERS, settings.name, kind="optimizer")
    groups = latent_groups(
        model,
        lr=settings.lr,
        latent_clip=settings.latent_clip,
        lr_scale=settings.lr_scale,
        weight_decay=settings.weight_decay,
        decay_latents=settings.decay_latents,
        decay_norm=settings.decay_norm,
    )
    options: dict[str, object] = {"lr": settings.lr}
    if settings.momentum:
        if settings.name not in ("sgd", "rmsprop"):
            raise UsageError(f"optimizer.momentum belongs to sgd and rmsprop, the optimizer is {settings.name!r}")
        options["momentum"] = settings.momentum
    if settings.nesterov:
        if settings.name != "sgd" or not settings.momentum:
            raise UsageError("optimizer.nesterov needs optimizer.name sgd and a momentum")
        options["nesterov"] = True
    if settings.name in ("adam", "adamw", "sgd"):
        options["fused"] = True  # one pass over parameter and state instead of a dozen
    optimizer = clip_latents_(kind(groups, **options))
    return compile_update_(optimizer, model, precision=recipe.precision) if settings.compile else optimizer


def build_schedule(
    recipe: Recipe, optimizer: torch.optim.Optimizer, *, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule of a recipe; its epochs become optimizer steps."""
    settings = recipe.schedule
    total_steps = max(1, round(recipe.epochs * steps_per_epoch))
    epochs_of = settings.milestones
    if settings.name == "step" and settings.step_size:
        epochs_of = tuple(settings.step_size * i for i in range(1, int(recipe.epochs / settings.step_size) + 1))
    factor = schedule_factor(
        settings.name,
        total_steps=total_steps,
        warmup_steps=round(settings.warmup * steps_per_epoch),
        final=settings.final_lr / recipe.optimizer.lr,
        gamma=settings.gamma,
        milestones=[round(epoch * steps_per_epoch) for epoch in epochs_of],
    )
    return make_schedule(optimizer, factor)
