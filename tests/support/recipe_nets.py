"""The net of every recipe, at its size and small; nets that differ from all others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from onebit.data import DATASETS
from onebit.fold import pack
from onebit.models.settings import Mlp, Model
from onebit.nets import net_names
from onebit.packed import PackedNet
from onebit.recipe import Recipe, build_recipe, read_settings, recipe_names, recipe_path
from onebit.runs.model import build_model
from support.fold_nets import images_of, randomise

CLASSES = {"cifar100": 100, "imagenet": 1000, "membrane": 2}
"""Number of classes of a data set; 10 for the others."""
SMALL_SHAPES = {"imagenet": (3, 65, 70), "membrane": (1, 16, 16), "cifar10": (3, 16, 16), "cifar100": (3, 16, 16)}
NARROW = {"vgg_small": 1 / 16, "alexnet": 1 / 16, "resnet18": 1 / 8, "resnet20": 0.5, "unet": 1 / 16}
HIDDEN = 70  # units per layer of an mlp instead of 512 or 2,048

Net = tuple[Model, tuple[int, int, int], int]
"""A model, the shape of its images, and its number of classes."""


def whole(recipe: Recipe) -> Net:
    """All channels; tiles of 32×32 instead of images of 512×512, for the same layers."""
    shape = (1, 32, 32) if recipe.dataset == "membrane" else DATASETS[recipe.dataset].input_shape
    assert shape is not None
    return recipe.model, shape, CLASSES.get(recipe.dataset, 10)


def small(recipe: Recipe) -> Net:
    """The same layers with fewer channels and pixels."""
    model, shape, classes = whole(recipe)
    if isinstance(model, Mlp):
        assert model.widths is not None
        model = replace(model, widths=(model.widths[0], *[HIDDEN] * (len(model.widths) - 2), model.widths[-1]))
    else:
        model = replace(model, width=NARROW[model.name])
    return model, SMALL_SHAPES.get(recipe.dataset, shape), min(classes, 100)


def distinct(nets: dict[str, Net]) -> dict[str, Net]:
    """Recipes whose model or images differ from all before them."""
    first = {repr(net): name for name, net in reversed(nets.items())}
    return {name: nets[name] for name in sorted(first.values())}


RECIPES = {name: build_recipe(read_settings(recipe_path(name))) for name in recipe_names()}
BINARY = {name: recipe for name, recipe in RECIPES.items() if recipe.model.weight_quantizer is not None}
SMALL = distinct({name: small(recipe) for name, recipe in BINARY.items()})
WHOLE = distinct({name: whole(recipe) for name, recipe in BINARY.items()})


def without_runs(recipe: Recipe) -> Recipe:
    """The recipe without the runs that it starts from or learns from: each is one more training."""
    return replace(recipe, init_from=None, teacher=recipe.teacher if recipe.teacher in net_names() else None)


def packed_net(net: Net, count: int) -> tuple[torch.nn.Module, PackedNet]:
    """The model with random weights and BatchNorm statistics of 2 · `count` random images, and its packed net."""
    model_recipe, shape, classes = net
    torch.manual_seed(0)
    statistics = ([120.0] * shape[0], [60.0] * shape[0]) if model_recipe.coding == "standardize" else None
    model = build_model(model_recipe, input_shape=shape, classes=classes, statistics=statistics)
    taken: Any = model.input_shape  # larger than in the data set for nets without padding
    return model, pack(randomise(model, images_of(2 * count, taken)))
