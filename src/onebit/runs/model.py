"""The model of a recipe, and the weights from which it starts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from onebit.data import DATASETS, Dataset
from onebit.errors import CheckpointError
from onebit.evaluation.sources import fitting_batch
from onebit.fold.unfold import unfold_
from onebit.layers import binary_layers
from onebit.layers.base import kept_training
from onebit.models.settings import Custom, Model
from onebit.nets import is_packed
from onebit.packed import load
from onebit.quantizers import Quantizer, sign
from onebit.recipe import Recipe
from onebit.runs.own_model import build_own
from onebit.train.fit_data import FitData
from onebit.train.weights import load_weights, read_state, weight_file

MIN_IMAGES = 100
"""Least number of training images for the BatchNorm statistics of a start from a packed net."""
MIN_LATENT_SHARE = 0.25
"""Below this share of `Quantizer.start_size`, stochastic draws lose the signs of latents."""


def build_model(
    settings: Model,
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
    mean, std = statistics or ([0.0] * input_shape[0], [1.0] * input_shape[0])
    if isinstance(settings, Custom):
        return build_own(settings, input_shape=input_shape, statistics=(mean, std))
    of_pixels = {} if settings.coding == "integer" else {"mean": mean, "std": std}
    return settings.build(input_shape=input_shape, classes=classes, **of_pixels)


def start_(recipe: Recipe, model: nn.Module, data: Any) -> None:
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
