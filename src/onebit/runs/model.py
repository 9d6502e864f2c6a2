"""Recipe -> objects: model, optimizer, schedule, loss, augmentation."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from onebit.common.tables import resolve
from onebit.data import DATASETS, VOID, Augmentation, Dataset, Split, classes_in_short
from onebit.errors import CheckpointError, UsageError, first_line
from onebit.evaluation.batches import batch_bounds
from onebit.evaluation.losses import LOSSES, Loss, cross_entropy
from onebit.evaluation.metrics import labels_per_sample, task_of
from onebit.evaluation.model_inputs import kept_training
from onebit.fold.unfold import unfold_
from onebit.layers import binary_layers, recompute_inputs_
from onebit.models import MODELS, create_model
from onebit.nets import is_packed
from onebit.packed import load
from onebit.quantizers import Quantizer, sign
from onebit.recipe import ModelRecipe, Recipe
from onebit.runs.optimizer import build_optimizer, build_schedule
from onebit.runs.own_model import build_own
from onebit.train.fit_data import FitData, epoch_size
from onebit.train.step import StepSettings
from onebit.train.weights import load_weights, read_state, trained_file


@dataclass(frozen=True)
class Training:
    """Everything `fit` needs, built from a recipe."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    loss: Loss
    augmentation: Augmentation | None
    step_settings: StepSettings


STATISTICS = 1000
"""Training images, evenly spread, that BatchNorm takes its statistics from where a packed net has none."""


FAINT = 0.25
"""Share of `Quantizer.start_size` below which latents are too small for their draws to have their signs."""


def resolve_device(device: str) -> torch.device:
    """The device of a recipe; "auto" is a GPU where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UsageError(f"device {device!r} cannot be used here: {first_line(error)}") from None
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
        statistics: mean and standard deviation per channel for the coding "standardize"; without them the buffers hold
            0 and 1, to be overwritten by the weights that are loaded next.
    """
    if recipe.is_own:
        return build_own(recipe, input_shape=input_shape, statistics=statistics)
    options = recipe.options() | {"input_shape": tuple(input_shape), "classes": classes}
    if recipe.coding != "integer":
        mean, std = statistics or ([0.0] * input_shape[0], [1.0] * input_shape[0])
        options |= {"mean": mean, "std": std}
    name = options.pop("name")
    return create_model(name, **options)


def build_training(
    recipe: Recipe,
    data: Dataset,
    *,
    model: nn.Module | None = None,
    device: torch.device | None = None,
    processes: int = 1,
    start: Path | None = None,
) -> Training:
    """Seed torch, then build the objects of a recipe for a data set.

    Args:
        model: trained on instead of the one that the recipe describes.
        device: where the model goes; the recipe's own device when None.
        processes: how many train together; see `fit`, whose batches the schedule counts.
        start: the run of an earlier stage or task to start from instead of the recipe's `init_from`.
    """
    torch.manual_seed(recipe.seed)
    if start is not None:
        recipe = replace(recipe, init_from=str(start))
    if model is None:
        statistics = data.train.channel_statistics() if recipe.model.coding == "standardize" else None
        shape, classes = data.input_shape, len(data.classes)
        model = build_model(recipe.model, input_shape=shape, classes=classes, statistics=statistics)
    _start(recipe, model, data, tell=start is None)
    _check_binary(recipe.model, model)
    _check_masks(recipe, model, data)
    recompute_inputs_(model, recipe.recompute_inputs)
    model.to(device or resolve_device(recipe.device))
    labels = data.train.labels  # a mask has one for each pixel, over which the loss is a mean
    labeled = len(labels) if labels.ndim == 1 else int(np.count_nonzero(labels != VOID))
    return training_of(recipe, model, images=len(labels), labels=labeled, processes=processes)


def _start(recipe: Recipe, model: nn.Module, data: Dataset | None, *, tell: bool = True) -> None:
    """Load the weights that a training starts from, if the recipe names some.

    Args:
        data: a packed net needs its images for the statistics of BatchNorm.
        tell: whether to warn of weights that were trained on other data, or on images that validate this training.
    """
    source = recipe.init_from
    if source is None:
        return
    on_meta = any(parameter.is_meta for parameter in model.parameters())  # before data are read
    trained: Any = {}  # a packed net takes images as they are stored
    anew: list[str] = []
    if is_packed(source):
        if data is None:
            raise UsageError(f"init_from: {source} is a packed net, which needs a onebit.Dataset as data")
        net = load(source)
        classes: Any = net.classes
        if not on_meta:
            images = data.train.spread(STATISTICS).images[:]
            unfold_(model, net, images, source=source, other_classes=_are_other(classes, data))
    else:
        file = trained_file(source)
        state, facts = read_state(file)
        classes, trained = facts.get("classes"), facts.get("recipe")
        if data is not None and _are_other(classes, data) and not on_meta:
            anew = _last_tensors(model, data, source=str(file))
        load_weights(model, state, source=str(file), start=True, anew=anew)
        before = _quantizer_of(trained)
        if before is None or before != recipe.model.weight_quantizer:  # latents of the same method are as it wants them
            _settle_drawn_(model)
    if data is None or not tell:
        return
    for said in (other_images(trained, recipe), _other_classes(classes, data), _seen_validation(trained, recipe)):
        if said:
            warnings.warn(f"init_from: {source} {said}", stacklevel=2)


@torch.no_grad()
def _last_tensors(model: nn.Module, data: Dataset, *, source: str) -> list[str]:
    """The names of the tensors of the last layer that forward calls, and of those after it."""
    called: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(kept_training(model))
        for name, module in model.named_modules():
            if any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
                hook = module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
                stack.callback(hook.remove)
        model.eval()(torch.zeros(2, *data.input_shape, dtype=torch.uint8))
    with_matrix = {name.rpartition(".")[0] for name, weight in model.named_parameters() if weight.dim() > 1}
    layers = [i for i, name in enumerate(called) if name in with_matrix]
    last = called[layers[-1] :] if layers else []
    if not last or last[0] in called[: layers[-1]]:
        raise CheckpointError(
            f"{source}: was trained for other classes, and the model has no last layer of its own that could begin anew"
        )
    return [key for key in model.state_dict() if any(key.startswith(f"{name}.") for name in last)]


def _quantizer_of(settings: Any) -> Any:
    """The weight quantizer of the recipe in a weight file; None if it has none."""
    model = settings.get("model") if isinstance(settings, Mapping) else None
    return model.get("weight_quantizer") if isinstance(model, Mapping) else None


@torch.no_grad()
def _settle_drawn_(model: nn.Module) -> None:
    """Give latents that are drawn, and too small for it, the magnitude that a packed net's signs begin with.

    The weights of a real net, about ±0.05, are such: otherwise nearly half the signs would flip in every draw.
    """
    for _, layer in binary_layers(model):
        quantizer = layer.weight_quantizer
        if not isinstance(quantizer, Quantizer) or not quantizer.random or layer.weight.is_meta:
            continue
        if float(layer.weight.abs().mean()) < FAINT * quantizer.start_size:
            layer.weight.copy_(sign(layer.weight) * quantizer.start_size)


def _other_classes(classes: Any, data: Dataset) -> str | None:
    """What becomes of the last layer, whose outputs have other names than the classes of a data set."""
    if not isinstance(classes, (list, tuple)) or len(classes) != len(data.classes) or [*classes] == [*data.classes]:
        return None
    there, here = classes_in_short([str(name) for name in classes], data.classes)
    fate = "begins anew" if _are_other(classes, data) else "stays, as if these were the same"
    return f"has the classes {there}, {data.name} has {here}: the last layer {fate}"


def _seen_validation(trained: Any, recipe: Recipe) -> str | None:
    """Whether an earlier training may have used validation images of this one for its weights."""
    entry = DATASETS.get(recipe.dataset)
    if not isinstance(trained, Mapping) or trained.get("dataset") != recipe.dataset or entry is None:
        return None
    if entry.counts is None:  # files of the user's own may differ
        return None
    there, here = (entry.validation if n is None else n for n in (trained.get("validation"), recipe.validation))
    # the images of a smaller split are among those of a larger one with the same seed
    if not here or (trained.get("split_seed") == recipe.split_seed and isinstance(there, int) and there >= here):
        return None
    return "was trained on validation images, whose error is too low: use its --split_seed and --validation"


def _are_other(classes: Any, data: Dataset) -> bool:
    """Whether outputs mean other classes than those of a data set, or the same in another order.

    Numbers name nothing: the labels of an array can be those of any classes.
    """
    named = not all(name.isdecimal() for name in data.classes)
    return named and isinstance(classes, (list, tuple)) and [*classes] != [*data.classes]


def other_images(trained: Any, recipe: Recipe) -> str | None:
    """How the images that a net was trained on differ from those of a recipe; None if they do not.

    Args:
        trained: settings of its training; empty for a net that takes images as they are stored.
    """
    for change in ("whitening", "permutation") if isinstance(trained, Mapping) else ():
        there, here = trained.get(change), getattr(recipe, change)
        if there != here:
            return f"takes images with {change} {there or 'none'}, this training has {change} {here or 'none'}"
    return None


def build_own_training(recipe: Recipe, model: nn.Module, data: FitData) -> Training:
    """`build_training` of a module on data that are not a `Dataset`."""
    torch.manual_seed(recipe.seed)
    _start(recipe, model, None)
    _check_binary(recipe.model, model)
    recompute_inputs_(model, recipe.recompute_inputs)
    model.to(resolve_device(recipe.device))
    assert not isinstance(data.train, Split)  # else it is a Dataset
    _, targets = next(data.train.batches())
    samples, steps = epoch_size(data, recipe.batch_size)
    labels = samples * labels_per_sample(targets, task_of(recipe.loss))
    return training_of(recipe, model, images=steps * recipe.batch_size, labels=labels)


def training_of(recipe: Recipe, model: nn.Module, *, images: int, labels: int, processes: int = 1) -> Training:
    """What trains a model as a recipe says.

    Args:
        images: number of training images; labels: of their labels, one for each image or for each pixel.
        processes: see `build_training`.
    """
    loss: Loss = resolve(LOSSES, recipe.loss, kind="loss")
    if recipe.label_smoothing:
        if recipe.loss != "cross_entropy":
            raise UsageError(
                f"label_smoothing belongs to cross_entropy, the loss is {recipe.loss!r}: add --label_smoothing 0"
            )
        loss = functools.partial(cross_entropy, label_smoothing=recipe.label_smoothing)
    steps_per_epoch = len(batch_bounds(images * recipe.augmentation.repeats, recipe.batch_size, least=2 * processes))
    optimizer = build_optimizer(recipe, model, count=labels, steps_per_epoch=steps_per_epoch)
    schedule = build_schedule(recipe, optimizer, steps_per_epoch=steps_per_epoch)
    changes = recipe.augmentation if recipe.augmentation != Augmentation() else None
    step_settings = StepSettings(
        **{field.name: getattr(recipe.optimizer, field.name) for field in fields(StepSettings)}
    )
    return Training(model, optimizer, schedule, loss, changes, step_settings)


def _check_binary(recipe: ModelRecipe, model: nn.Module) -> None:
    """Refuse a net without a binary layer if the recipe has binary weights: it would not be a binary net."""
    if recipe.weight_quantizer is None or any(binary_layers(model)):
        return
    ends = [end for end in ("real_first", "real_last") if getattr(recipe, end)]
    way = f"leave out {' or '.join(f'model.{end}' for end in ends)}" if ends else "binarize it, or set that to null"
    raise UsageError(f"weight_quantizer is {recipe.weight_quantizer}, but {recipe.name!r} has no binary layer: {way}")


def _check_masks(recipe: Recipe, model: nn.Module, data: Dataset) -> None:
    """Raises UsageError: masks or labels that the net does not predict, or images of a size that it does not take."""
    refuse_other_labels(recipe, model, masks=data.train.labels.ndim > 1, name=data.name)
    check_size = getattr(model, "check_size", None)
    if check_size is not None:
        side = recipe.augmentation.crop_size
        check_size(*(data.input_shape[1:] if side is None else (side, side)))


def refuse_other_labels(recipe: Recipe, model: nn.Module, *, masks: bool, name: str) -> None:
    """Check that a net predicts what the data have: a class per image, or a mask.

    Args:
        masks: whether the data have masks; name: of the data.
    """
    if masks and not hasattr(model, "output_shape"):
        known = " or ".join(known for known, entry in MODELS.entries().items() if entry.masks)
        raise UsageError(
            f"model {recipe.model.name!r} gives a label to an image, {name} has masks: use --model {known}"
        )
    if not masks and hasattr(model, "output_shape"):
        raise UsageError(
            f"model {recipe.model.name!r} gives a class to each pixel, {name} has no masks: use another model"
        )
