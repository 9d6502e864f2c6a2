"""A model of the user's own as a training needs it: built, taking uint8 images, with binary layers."""

from __future__ import annotations

import dataclasses
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from onebit.common.arguments import described
from onebit.common.tables import did_you_mean
from onebit.data import Dataset
from onebit.errors import UsageError
from onebit.evaluation.model_inputs import check_takes
from onebit.layers import InputCoding, binarize_, binary_layers, input_quantizers, with_options
from onebit.layers.binarize import BINARY_TWINS
from onebit.layers.description import describe_layers
from onebit.models.parts import init_latents_
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import ModelRecipe, Recipe
from onebit.recipe.own_names import OWN_CODINGS
from onebit.runs.own_code import OwnCode, load_code, running

Statistics = tuple[list[float], list[float]]
BEGIN = ": begin it with onebit.InputCoding()"
"""Advice for modules in Python."""


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
        if real and real.issuperset(layers):
            raise UsageError(
                f"the {len(layers)} layers of {type(model).__name__} all stay real, as model.real_first and "
                "model.real_last are true: --model.real_last false"
            )
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
    layers = [layer for _, layer in binary_layers(model)]
    for kind, table, expected, several in (
        ("weight", WEIGHT_QUANTIZERS, settings.weight_quantizer, bool(layers)),
        # a single layer may take pixels
        ("input", INPUT_QUANTIZERS, settings.input_quantizer, len(layers) > 1),
    ):
        names: dict[Any, str] = {own: name for name, own in table.items()}
        quantizers: list[nn.Module | None] = [layer.weight_quantizer for layer in layers]
        if kind == "input":
            quantizers = [quantizer for _, quantizer in input_quantizers(model)]
        found = [names.get(type(quantizer), expected) for quantizer in quantizers if quantizer is not None]
        other = next((name for name in found if name != expected), None)
        if other is not None or (several and expected is not None and not found):
            raise UsageError(
                f"the layers of the module have {kind} quantizer {repr(other) if other else 'none'}, {owner} has "
                f"{expected!r}: {way.format(kind=kind, name=other)}"
            )


def settle_code(recipe: Recipe, *, named: bool) -> Recipe:
    """A recipe of a custom model with the types of its arguments and the digest of its source; any other as it is.

    Args:
        named: see `load_code`.
    """
    if not recipe.model.is_own:
        return recipe
    code = load_code(recipe.model.name, named=named, digest=recipe.model.source)
    arguments = code.arguments(recipe.model.arguments or {})
    model = dataclasses.replace(recipe.model, arguments=arguments, source=code.digest)
    return dataclasses.replace(recipe, model=model)


def settle_input(recipe: Recipe, data: Dataset) -> tuple[Recipe, list[str]]:
    """A recipe of a custom model with a definite input coding, and notes about the model; any other as it is."""
    if not recipe.model.is_own:
        return recipe, []
    settings, model, notes = recipe.model, _built(recipe.model, data), []
    refuse_other_quantizers(model, settings, way="--model.{kind}_quantizer {name}, or the --method of the module")
    error = _refused(model, settings, data)
    if settings.coding == "auto":
        settings = dataclasses.replace(settings, coding="none" if error is None else "standardize")
        if error is not None:
            model = _built(settings, data)
            error = _refused(model, settings, data)
            notes = [f"{settings.name} does not take uint8 images: it gets standardized ones"]
    if error is not None:
        advice = ": --model.coding standardize" if settings.coding == "none" else ""
        raise UsageError(f"{settings.name}: {str(error).removesuffix(BEGIN)}{advice}")
    notes += describe_layers(model).warnings if settings.weight_quantizer else []
    return dataclasses.replace(recipe, model=settings), notes


def _built(settings: ModelRecipe, data: Dataset) -> nn.Module:
    """The model for the images of the data, without a coding while none is chosen."""
    statistics = data.train.channel_statistics() if settings.coding == "standardize" else None
    return build_own(settings, input_shape=data.input_shape, statistics=statistics)


def _refused(model: nn.Module, settings: ModelRecipe, data: Dataset) -> UsageError | None:
    """Why a model does not take the images of the data, or gives no logit for one of its classes."""
    try:
        with running("its forward failed", load_code(settings.name, named=False).file):
            check_takes(model, data.input_shape, classes=len(data.classes), data=data.name)
    except UsageError as error:
        return error
    return None


def build_own(settings: ModelRecipe, *, input_shape: Sequence[int], statistics: Statistics | None = None) -> nn.Module:
    """The model of a recipe, where it is the user's own: with its input coding and its binary layers.

    Args:
        input_shape, statistics: see `build_model`.
    """
    code = load_code(settings.name, named=False, digest=settings.source)
    with torch.device("cpu"):  # its own code need not work without values
        model = module_of(code, settings.arguments or {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what stays real: `settle_input` says it once, before the training
            model = binarized_(model, settings)
    if settings.coding not in OWN_CODINGS:
        raise UsageError(f"unknown input coding {settings.coding!r}{did_you_mean(settings.coding, OWN_CODINGS)}")
    if settings.coding not in ("auto", "none"):
        options: dict[str, Any] = {}
        if settings.coding == "standardize":
            mean, std = statistics or ([0.0] * input_shape[0], [1.0] * input_shape[0])
            options = {"mean": mean, "std": std, "scale": 1}
        model = nn.Sequential(OrderedDict(coding=InputCoding(settings.coding, **options), model=model))
    if not hasattr(model, "input_shape"):
        model.input_shape = tuple(input_shape)  # type: ignore[assignment]
    return model


def module_of(code: OwnCode, arguments: dict[str, object]) -> nn.Module:
    """The module that own code builds; UsageError for anything else."""
    model = code(arguments)
    if not isinstance(model, nn.Module):
        raise UsageError(f"model {code.name!r} builds {described(model)}, expected a torch.nn.Module")
    return model
