"""A model of the user's own as a training needs it: built, taking uint8 images, with binary layers."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from onebit.data import Dataset
from onebit.errors import UsageError
from onebit.layers import InputCoding, binarize_, binary_layers, input_quantizers, with_options
from onebit.layers.binarize import BINARY_TWINS
from onebit.models.parts import init_latents_
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import ModelRecipe, Recipe
from onebit.runs.own_code import load_code, named_code

Statistics = tuple[list[float], list[float]]


def binarized_(model: nn.Module, settings: ModelRecipe) -> nn.Module:
    """A module with the quantizers of a recipe, in place, unless it has binary layers of its own.

    Its latents are initialized as the recipe says, with torch's random numbers.
    """
    quantizers = (settings.weight_quantizer, settings.input_quantizer)
    if quantizers != (None, None) and not any(True for _ in binary_layers(model)):
        weights, inputs = (
            with_options(table, name, options, kind=f"{kind} quantizer")
            for table, name, options, kind in (
                (WEIGHT_QUANTIZERS, settings.weight_quantizer, settings.weight_options, "weight"),
                (INPUT_QUANTIZERS, settings.input_quantizer, settings.input_options, "input"),
            )
        )
        layers = [name for name, layer in model.named_modules() if type(layer) in BINARY_TWINS]
        real = {*layers[: int(settings.real_first)], *(layers[-1:] if settings.real_last else [])}
        binarize_(
            model,
            weight_quantizer=weights,
            input_quantizer=inputs,
            value=settings.value,
            where=lambda name, layer: name not in real,
        )
        for _, layer in binary_layers(model):
            init_latents_(layer, settings.init)
    if quantizers == (None, None):
        model.meant_real = True  # type: ignore[assignment]  # for `mistakes` of `onebit.fold.check`
    return model


def refuse_other_quantizers(model: nn.Module, settings: ModelRecipe, *, way: str, owner: str = "the recipe") -> None:
    """Refuse a module whose binary layers have other quantizers than a recipe says.

    Quantizers that are not in the tables belong to no method and are accepted.

    Args:
        way: how to go on, with {kind} and {name} of the module's quantizer; owner: of the settings, for the message.
    """
    weights = [layer.weight_quantizer for _, layer in binary_layers(model)]
    inputs = [quantizer for _, quantizer in input_quantizers(model)]
    for kind, table, expected, quantizers, several in (
        ("weight", WEIGHT_QUANTIZERS, settings.weight_quantizer, weights, bool(weights)),
        # a single layer may take pixels
        ("input", INPUT_QUANTIZERS, settings.input_quantizer, inputs, len(weights) > 1),
    ):
        names: dict[Any, str] = {own: name for name, own in table.items()}
        found = [names.get(type(quantizer), expected) for quantizer in quantizers if quantizer is not None]
        other = next((name for name in found if name != expected), None)
        if other is not None or (several and expected is not None and not found):
            raise UsageError(
                f"the module has {kind} quantizer {other}, {owner} {expected}: {way.format(kind=kind, name=other)}"
            )


def settle_code(recipe: Recipe, *, named: bool) -> Recipe:
    """A recipe of a custom model with the types of its arguments; any other as it is.

    Args:
        named: whether the user has named the code on this command line.
    """
    if not recipe.model.is_own:
        return recipe
    code = load_code(recipe.model.name) if named else named_code(recipe.model.name)
    arguments = code.arguments(recipe.model.arguments or {})
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, arguments=arguments))


def settle_input(recipe: Recipe, data: Dataset) -> Recipe:
    """A recipe of a custom model with a definite input coding: none for a model that takes uint8 images."""
    settings = recipe.model
    model = build_own(settings, input_shape=data.input_shape)
    refuse_other_quantizers(model, settings, way="--model.{kind}_quantizer {name}, or the --method of the module")
    if settings.coding != "auto":
        return recipe
    coding: Literal["none", "standardize"] = "none"
    try:
        with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            model.eval()(torch.zeros(2, *data.input_shape, dtype=torch.uint8))
    except Exception:  # the training reports what is wrong with a model that takes no images at all
        coding = "standardize"
    return dataclasses.replace(recipe, model=dataclasses.replace(settings, coding=coding))


def build_own(settings: ModelRecipe, *, input_shape: Sequence[int], statistics: Statistics | None = None) -> nn.Module:
    """The model of a recipe, where it is the user's own: with its input coding and its binary layers.

    Args:
        input_shape, statistics: see `build_model`.
    """
    with torch.device("cpu"), warnings.catch_warnings():  # its own code need not work without values
        warnings.simplefilter("ignore")  # what stays real
        model = binarized_(named_code(settings.name)(settings.arguments or {}), settings)
    if settings.coding not in ("auto", "none"):
        options: dict[str, Any] = {}
        if settings.coding == "standardize":
            mean, std = statistics or ([0.0] * input_shape[0], [1.0] * input_shape[0])
            options = {"mean": mean, "std": std, "scale": 1}
        model = nn.Sequential(OrderedDict(coding=InputCoding(settings.coding, **options), model=model))
    if not hasattr(model, "input_shape"):
        model.input_shape = tuple(input_shape)  # type: ignore[assignment]
    return model
