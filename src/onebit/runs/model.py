"""Recipe -> objects: model, optimizer, schedule, loss, augmentation."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from onebit.common.tables import resolve
from onebit.data import DATASETS, VOID, Augmentation, Dataset, Split
from onebit.errors import CheckpointError
from onebit.evaluation.forward import kept_training
from onebit.evaluation.losses import LOSSES, Loss, cross_entropy
from onebit.evaluation.metrics import labels_per_sample, task_of
from onebit.evaluation.sources import batch_bounds, fitting_batch
from onebit.layers import binary_layers, recompute_inputs_
from onebit.models import create_model
from onebit.nets import is_packed
from onebit.packed import load
from onebit.quantizers import Quantizer, sign
from onebit.recipe import ModelRecipe, Recipe
from onebit.runs.optimizer import build_optimizer, build_schedule, check_settings
from onebit.runs.own_model import build_own
from onebit.runs.unfold import unfold_
from onebit.train.fit_data import FitData, epoch_size
from onebit.train.precision import resolve_precision
from onebit.train.ranks import ALONE, Ranks, rank_device
from onebit.train.settings import Fit
from onebit.train.weights import load_weights, read_state, weight_file


@dataclass(frozen=True)
class Training:
    """Everything `fit` needs, built from a recipe."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    loss: Loss
    augmentation: Augmentation | None
    settings: Fit


MIN_IMAGES = 100
"""Least number of training images for the BatchNorm statistics of a start from a packed net."""
MIN_LATENT_SHARE = 0.25
"""Below this share of `Quantizer.start_size`, stochastic draws lose the signs of latents."""


@dataclass(frozen=True)
class Machine:
    """device: of this process; precision: "bf16" or "fp32"; threads: of torch, in this process."""

    device: torch.device
    precision: Literal["bf16", "fp32"]
    threads: int


def resolve_machine(recipe: Recipe, ranks: Ranks = ALONE) -> Machine:
    """The machine for a recipe, with "auto" resolved; `ranks`: this process among several."""
    device = rank_device(resolve_device(recipe.device), ranks)
    return Machine(device, resolve_precision(recipe.precision, device), recipe.threads or torch.get_num_threads())


def resolve_device(device: str) -> torch.device:
    """The device of a recipe; "auto" is a GPU where there is one."""
    found = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    torch.empty(0, device=found)  # fails before the data are read
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
        statistics: mean and standard deviation per channel for the coding "standardize"; by default 0 and 1, to be
            overwritten by loaded weights.
    """
    statistics = statistics or ([0.0] * input_shape[0], [1.0] * input_shape[0])
    if recipe.is_custom:
        return build_own(recipe, input_shape=input_shape, statistics=statistics)
    options = recipe.options() | {"input_shape": tuple(input_shape), "classes": classes}
    if recipe.coding != "integer":
        mean, std = statistics
        options |= {"mean": mean, "std": std}
    name = options.pop("name")
    return create_model(name, **options)


def build_training(
    recipe: Recipe,
    data: Dataset | FitData,
    *,
    model: nn.Module | None = None,
    device: torch.device | None = None,
    processes: int = 1,
    steps_per_epoch: int | None = None,
) -> Training:
    """Seed torch, then build the objects of a recipe for some data.

    Args:
        model: in place of the recipe's, which takes images only.
        device: of the model; by default that of the recipe.
        processes: number of processes that train the model.
        steps_per_epoch: see `fit`.
    """
    torch.manual_seed(recipe.seed)
    if model is None:
        assert isinstance(data.train, Split)
        statistics = data.train.channel_statistics() if recipe.model.coding == "standardize" else None
        shape, classes = data.input_shape, len(data.classes)
        model = build_model(recipe.model, input_shape=shape, classes=classes, statistics=statistics)
    _start(recipe, model, data)
    recompute_inputs_(model, recipe.recompute_inputs)
    model.to(device or resolve_device(recipe.device))
    images, labels = _counts(recipe, data, steps_per_epoch)
    return training_of(recipe, model, images=images, labels=labels, processes=processes)


def _counts(recipe: Recipe, data: Dataset | FitData, steps_per_epoch: int | None) -> tuple[int, int]:
    """Numbers of images of an epoch, and of all labels, one for each image or pixel."""
    if isinstance(data.train, Split):
        labels, size = data.train.labels, (steps_per_epoch or 0) * recipe.batch_size
        count = len(labels) if labels.ndim == 1 else int(np.count_nonzero(labels != VOID))
        return size or len(labels) * recipe.augmentation.repeats, count
    assert isinstance(data, FitData)
    samples, steps = epoch_size(data, recipe.batch_size, steps_per_epoch)
    _, targets = next(data.train.batches())
    return steps * recipe.batch_size, samples * labels_per_sample(targets, task_of(recipe.loss))


def _start(recipe: Recipe, model: nn.Module, data: Any) -> None:
    """Load the weights of `init_from`, if the recipe has it."""
    source = recipe.init_from
    if source is None:
        return
    on_meta = any(parameter.is_meta for parameter in model.parameters())  # before data are read
    if is_packed(source):
        net = load(source)
        if not on_meta:
            images = data.train.spread(max(MIN_IMAGES, fitting_batch(data.input_shape))).images[:]
            unfold_(model, net, images, source=source, other_classes=_are_other(net.classes, data))
        return
    file = weight_file(Path(source))
    state, facts = read_state(file)
    other = _are_other(facts.get("classes"), data) and not on_meta
    anew = _last_tensors(model, data, source=str(file)) if other else []
    load_weights(model, state, source=str(file), start=True, anew=anew)
    trained = facts["recipe"] if isinstance(facts.get("recipe"), dict) else {}
    if trained.get("model", {}).get("weight_quantizer") != recipe.model.weight_quantizer:
        _settle_drawn_(model)  # latents of the same method have the right size
    if _seen_validation(trained, recipe):
        warnings.warn(
            f"init_from: {source} was trained on validation images, so the validation error is too low: use its "
            "--split_seed and --validation",
            stacklevel=2,
        )


@torch.no_grad()
def _last_tensors(model: nn.Module, data: Dataset | FitData, *, source: str) -> list[str]:
    """The tensors of the last layer that forward calls, and of modules after it."""
    called: list[nn.Module] = []
    hook = register_module_forward_pre_hook(lambda module, _: called.append(module))
    try:
        with kept_training(model):
            model.eval()(torch.zeros(2, *data.input_shape, dtype=torch.uint8))
    finally:
        hook.remove()
    layers = [i for i, module in enumerate(called) if any(p.dim() > 1 for p in module.parameters(recurse=False))]
    if not layers or called[layers[-1]] in called[: layers[-1]]:
        raise CheckpointError(f"{source}: was trained for other classes, and the model has no last layer of its own")
    last = [name for name, module in model.named_modules() if module in called[layers[-1] :]]
    return [key for key in model.state_dict() if any(key.startswith(f"{name}.") for name in last)]


@torch.no_grad()
def _settle_drawn_(model: nn.Module) -> None:
    """Give drawn latents that are too small the magnitude of a start from a packed net.

    With weights of a real net, about ±0.05, nearly half the signs would flip in every draw.
    """
    for _, layer in binary_layers(model):
        quantizer = layer.weight_quantizer
        if not isinstance(quantizer, Quantizer) or not quantizer.random or layer.weight.is_meta:
            continue
        if float(layer.weight.abs().mean()) < MIN_LATENT_SHARE * quantizer.start_size:
            layer.weight.copy_(sign(layer.weight) * quantizer.start_size)


def _seen_validation(trained: dict[str, Any], recipe: Recipe) -> bool:
    """Whether an earlier training may have trained on validation images of this one."""
    entry = DATASETS.get(recipe.dataset)
    # files of the user may differ
    if entry is None or entry.counts is None or trained.get("dataset") != recipe.dataset:
        return False
    held_out = (trained.get("validation"), recipe.validation)
    there, here = ((entry.validation if count is None else count) or 0 for count in held_out)
    # the images of a smaller split are among those of a larger one with the same seed
    return here > 0 and not (trained.get("split_seed") == recipe.split_seed and there >= here)


def _are_other(classes: Any, data: Dataset | FitData) -> bool:
    """Whether the classes of outputs differ from those of a data set, or are in another order.

    Numbers name nothing: the labels of an array can mean any classes.
    """
    named = not all(name.isdecimal() for name in data.classes)
    return named and isinstance(classes, (list, tuple)) and [*classes] != [*data.classes]


def training_of(recipe: Recipe, model: nn.Module, *, images: int, labels: int, processes: int = 1) -> Training:
    """The objects that train a model with a recipe.

    Args:
        images: number of images of an epoch. labels: number of all labels, one for each image or pixel.
        processes: see `build_training`.
    """
    check_settings(recipe, model)
    loss: Loss = resolve(LOSSES, recipe.loss, kind="loss")
    if recipe.label_smoothing:
        loss = functools.partial(cross_entropy, label_smoothing=recipe.label_smoothing)
    steps_per_epoch = len(batch_bounds(images, recipe.batch_size, least=2 * processes))
    optimizer = build_optimizer(recipe, model, count=labels, steps_per_epoch=steps_per_epoch)
    schedule = build_schedule(recipe, optimizer, steps_per_epoch=steps_per_epoch)
    changes = recipe.augmentation if recipe.augmentation != Augmentation() else None
    return Training(model, optimizer, schedule, loss, changes, recipe.fit)
