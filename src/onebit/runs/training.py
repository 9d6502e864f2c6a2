"""Recipe -> what trains: model, optimizer, schedule, loss, augmentation and teacher."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from onebit.common.tables import resolve
from onebit.data import VOID, Augmentation, Dataset, Split, with_classes
from onebit.errors import UsageError
from onebit.evaluation.losses import LOSSES, Loss, cross_entropy
from onebit.evaluation.metrics import labels_per_sample, task_of
from onebit.evaluation.sources import batch_bounds
from onebit.layers import binary_layers, recompute_inputs_
from onebit.modules.packed_module import PackedModule
from onebit.nets import is_packed
from onebit.optim import OPTIMIZERS
from onebit.optim.settings import StepPlan
from onebit.quantizers import WEIGHT_QUANTIZERS
from onebit.recipe import Recipe
from onebit.runs.model import build_model, start_
from onebit.runs.opening import open_run
from onebit.train.distillation import Teacher
from onebit.train.fit_data import FitData, epoch_size
from onebit.train.history import History
from onebit.train.loop import fit
from onebit.train.precision import resolve_precision
from onebit.train.ranks import ALONE, Ranks, rank_device
from onebit.train.schedules import build_schedule
from onebit.train.settings import Fit


@dataclass(frozen=True)
class Training:
    """The objects of a recipe, which train a model."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    loss: Loss
    augmentation: Augmentation | None
    settings: Fit
    teacher: Teacher | None = None

    def fit(self, data: Dataset | FitData, **options: Any) -> History:
        """`onebit.fit` with these objects; options are others of its arguments."""
        return fit(
            self.model,
            data,
            self.optimizer,
            self.settings,
            loss=self.loss,
            schedule=self.schedule,
            augmentation=self.augmentation,
            teacher=self.teacher,
            **options,
        )


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


def prepare(
    recipe: Recipe,
    data: Dataset | FitData,
    *,
    model: nn.Module | None = None,
    device: torch.device | None = None,
    processes: int = 1,
    steps_per_epoch: int | None = None,
) -> Training:
    """Seed torch, then build the objects of a recipe for some data.

    On the meta device this is the check of a recipe before its data are read.

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
    start_(recipe, model, data)
    recompute_inputs_(model, recipe.recompute_inputs)
    model.to(device or resolve_device(recipe.device))
    images, labels = _counts(recipe, data, steps_per_epoch)
    training = training_of(recipe, model, images=images, labels=labels, processes=processes)
    return replace(training, teacher=_open_teacher(recipe, data))


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


def training_of(recipe: Recipe, model: nn.Module, *, images: int, labels: int, processes: int = 1) -> Training:
    """The objects that train a model with a recipe.

    Args:
        images: number of images of an epoch. labels: number of all labels, one for each image or pixel.
        processes: see `prepare`.
    """
    _check_settings(recipe, model)
    loss: Loss = resolve(LOSSES, recipe.loss, kind="loss")
    if recipe.label_smoothing:
        loss = functools.partial(cross_entropy, label_smoothing=recipe.label_smoothing)
    steps_per_epoch = len(batch_bounds(images, recipe.batch_size, least=2 * processes))
    plan = StepPlan(labels, recipe.epochs, steps_per_epoch, initialized=recipe.init_from is not None)
    settings = recipe.optimizer
    optimizer = settings.build(model, plan)
    rate = settings.rate(binary=recipe.model.weight_quantizer is not None)
    schedule = build_schedule(recipe.schedule, optimizer, plan, rate=rate, factors=settings.factors(plan))
    changes = recipe.augmentation if recipe.augmentation != Augmentation() else None
    return Training(model, optimizer, schedule, loss, changes, recipe.fit)


def _check_settings(recipe: Recipe, model: nn.Module) -> None:
    """Refuse settings without effect beside the others, and pairs that make no method."""
    name, settings, crops = recipe.optimizer.name, recipe.optimizer, recipe.augmentation
    kind, quantizer = resolve(OPTIMIZERS, name, kind="optimizer"), recipe.model.weight_quantizer
    # optimizers of latents leave real parameters to one that decays them
    options = ("momentum", "nesterov") if settings.own_rule else ("momentum", "nesterov", "weight_decay")
    known_options = inspect.signature(kind).parameters
    unused = [option for option in options if getattr(settings, option) and option not in known_options]
    unused += ["lr_scale"] if settings.own_rule and settings.lr_scale else []
    # gradients as large as the number of images, of which a clip would leave nothing
    clips = () if settings.clips_gradients else ("clip_grad_value", "clip_grad_norm")
    unused += [option for option in clips if getattr(settings, option)]
    moves = crops.crop_padding or crops.flip or crops.cutout or crops.min_area or crops.first_size
    known = {kind: quantizer for quantizer, kind in WEIGHT_QUANTIZERS.items()}
    kinds = {type(layer.weight_quantizer) for _, layer in binary_layers(model)}
    names = {known.get(kind, kind.__name__) for kind in kinds}
    trainers = [WEIGHT_QUANTIZERS.entry(quantizer).trained_by or (name,) for quantizer in names]
    needed = [name for name in WEIGHT_QUANTIZERS.entry(quantizer).of_optimizer[:1] if getattr(settings, name) is None]
    pair = names <= {*(settings.trains or names)} and all(name in allowed for allowed in trainers)
    for wrong, text in (
        (unused, f"optimizer.{' and '.join(unused)} does not belong to {name}"),
        (not pair, f"optimizer {name} does not train weight_quantizer {', '.join(sorted(names))}"),
        (needed, f"weight_quantizer {quantizer} stays real without optimizer.{' and '.join(needed)}"),
        (quantizer and not names, f"{recipe.name}: weight_quantizer, but no binary layer"),
        (recipe.schedule.warmup >= recipe.epochs, f"schedule.warmup takes all {recipe.epochs:g} epochs"),
        (recipe.label_smoothing and recipe.loss != "cross_entropy", "label_smoothing belongs to loss cross_entropy"),
        (recipe.class_weights and LOSSES.entry(recipe.loss).task != "classification", "class_weights, but no classes"),
        # the black pixels that these add would not be whitened
        (recipe.whitening and (crops.crop_padding or crops.cutout), "whitening, but crop_padding or cutout"),
        (recipe.permutation is not None and moves, "permutation, but augmentation moves pixels"),
    ):
        if wrong:
            raise UsageError(text)


def _open_teacher(recipe: Recipe, data: Dataset | FitData) -> Teacher | None:
    """The teacher of a recipe."""
    name = recipe.teacher
    if name is None:
        return None
    if is_packed(name):
        model: Any = PackedModule(name)
        classes = model.net.classes
        trained: dict[str, Any] = {}  # on images as they are stored
    else:
        run = open_run(name)
        model, classes = run.model, run.facts.get("classes")
        trained = run.recipe.settings()
    if isinstance(data, Dataset):
        with_classes(data, classes, source=f"teacher {name}")
    for change in ("whitening", "permutation"):
        if trained.get(change) != getattr(recipe, change):
            raise UsageError(f"teacher {name} was trained with another {change} of images")
    return Teacher(model, recipe.teacher_weight, recipe.teacher_temperature)
