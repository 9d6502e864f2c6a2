"""Custom models and quantizers: import their code, build models with binary layers, for uint8 images.

Importing a file runs it, so only code runs that the user has named in this process, never code that a recipe names.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import typing
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import nn

from onebit.common.custom_names import CustomName, split_custom
from onebit.common.fields import argument, read
from onebit.data import Dataset
from onebit.errors import UsageError
from onebit.layers import BINARY_TWINS, InputCoding, binarize_, binary_layers, input_quantizers, with_options
from onebit.models.parts import init_latents_
from onebit.models.settings import Custom, Model
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import Recipe

Statistics = tuple[list[float], list[float]]
_NAMED: dict[str, Callable[..., nn.Module]] = {}
"""The code that the user has named in this process."""


def load_code(name: str) -> Callable[..., nn.Module]:
    """Import the code of a model or a quantizer, `path/to/file.py:Class` or `package.module:Class`."""
    parts = split_custom(name)
    with contextlib.redirect_stdout(sys.stderr):
        found: Any = _imported(parts)
    for attribute in parts.attribute.split("."):
        found = getattr(found, attribute)
    _NAMED[name] = found
    return found


def _imported(parts: CustomName) -> ModuleType:
    """Import the module; its imports are found in its folder or the current one, as with `python file.py`."""
    file = Path(parts.where).resolve() if parts.is_file else None
    where = str(file.parent if file else Path.cwd())
    if where not in sys.path:
        sys.path.insert(0, where)
    if file is None:
        return importlib.import_module(parts.where)
    # not the bare name: a file may be called torch.py
    module = ModuleType(f"own_model_{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    exec(compile(file.read_bytes(), module.__file__, "exec", dont_inherit=True), module.__dict__)
    return module


def parameters(build: Callable[..., nn.Module]) -> dict[str, tuple[Any, Any]]:
    """Name -> (type or None, default or `inspect.Parameter.empty`) of keyword arguments."""
    source = build.__init__ if isinstance(build, type) else build  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(source)
    except Exception:  # names for type checkers only
        hints = {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    signature = inspect.signature(build).parameters.items()
    return {name: (hints.get(name), found.default) for name, found in signature if found.kind in named}


def settle_code(recipe: Recipe, *, named: Mapping[str, str]) -> Recipe:
    """Add custom quantizers to their tables, and convert the arguments of a custom model to their types.

    Args:
        named: flag -> the code that the user named with it on this command line.
    """
    code = recipe.model.code()
    found = {flag: load_code(name) if named.get(flag) == name else _code(name, flag) for flag, name in code.items()}
    for flag, table in (("model.weight_quantizer", WEIGHT_QUANTIZERS), ("model.input_quantizer", INPUT_QUANTIZERS)):
        if flag in found:
            table[code[flag]] = found[flag]
    if not isinstance(recipe.model, Custom):
        return recipe
    known, typed = parameters(found["model.name"]), {}
    for option, value in (recipe.model.arguments or {}).items():
        hint, default = known.get(option, (None, None))
        if hint is None and isinstance(default, (bool, int, float, str, tuple, list)):
            hint = int | float if type(default) is int else type(default)
        typed[option] = argument(value) if hint is None else read(value, hint, name=f"model.{option}")
    return replace(recipe, model=replace(recipe.model, arguments=typed))


def _code(name: str, flag: str = "model.name") -> Callable[..., nn.Module]:
    """The code that the user has named; UsageError for code that only a file names."""
    if name not in _NAMED:
        raise UsageError(f"custom code runs only if you name it: --{flag.removesuffix('.name')} {name}")
    return _NAMED[name]


def binarized_(model: nn.Module, settings: Model) -> nn.Module:
    """Binarize a module in place with the quantizers of a recipe, unless it has binary layers.

    Latents are initialized as in the recipe, with torch's random numbers.
    """
    weights, inputs = settings.weight_quantizer, settings.input_quantizer
    if weights is None and inputs is None:
        model.meant_real = True  # type: ignore[assignment]  # for `mistakes` of `onebit.train.check`
    elif not any(binary_layers(model)):
        layers = [name for name, layer in model.named_modules() if type(layer) in BINARY_TWINS]
        real = {*layers[: int(settings.real_first)], *(layers[-1:] if settings.real_last else [])}
        binarize_(
            model,
            weight_quantizer=with_options(WEIGHT_QUANTIZERS, weights, settings.weight_options, kind="weight quantizer"),
            input_quantizer=with_options(INPUT_QUANTIZERS, inputs, settings.input_options, kind="input quantizer"),
            value=settings.value,
            where=lambda name, layer: name not in real,
        )
        for _, layer in binary_layers(model):
            init_latents_(layer, settings.init)
    return model


def refuse_other_quantizers(model: nn.Module, settings: Model) -> None:
    """Refuse binary layers with other quantizers than in a recipe; custom quantizers are accepted."""
    weights = [layer.weight_quantizer for _, layer in binary_layers(model)]
    inputs = [quantizer for _, quantizer in input_quantizers(model)]
    for kind, table, expected, quantizers, several in (
        ("weight", WEIGHT_QUANTIZERS, settings.weight_quantizer, weights, bool(weights)),
        # a single layer may take pixels
        ("input", INPUT_QUANTIZERS, settings.input_quantizer, inputs, len(weights) > 1),
    ):
        names: dict[Any, str] = {own: name for name, own in table.items()}
        found = {names.get(type(quantizer), expected) for quantizer in quantizers if quantizer is not None}
        other = next(iter(found - {expected}), None)
        if other is not None or (several and expected is not None and not found):
            raise UsageError(f"the layers of the module have {kind}_quantizer {other}, expected {expected}")


def settle_input(recipe: Recipe, data: Dataset) -> Recipe:
    """A recipe with the input coding of a custom model resolved: none for a model that takes uint8 images."""
    settings = recipe.model
    if not isinstance(settings, Custom):
        return recipe
    model = build_own(replace(settings, coding="none"), input_shape=data.input_shape)
    refuse_other_quantizers(model, settings)
    if settings.coding != "auto":
        return recipe
    coding: Literal["none", "standardize"] = "none"
    try:
        with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
            model.eval()(torch.zeros(2, *data.input_shape, dtype=torch.uint8))
    except Exception:  # training reports other errors of the model
        coding = "standardize"
    return replace(recipe, model=replace(settings, coding=coding))


def build_own(settings: Custom, *, input_shape: Sequence[int], statistics: Statistics = ([], [])) -> nn.Module:
    """The custom model of a recipe with its input coding and binary layers; see `build_model`."""
    with torch.device("cpu"), warnings.catch_warnings():  # custom code may not work on the meta device
        warnings.simplefilter("ignore")  # about layers that stay real
        with contextlib.redirect_stdout(sys.stderr):
            model = _code(settings.name)(**settings.arguments or {})
        binarized_(model, settings)
    if settings.coding not in ("auto", "none"):
        options: dict[str, Any] = {}
        if settings.coding == "standardize":
            options = {"mean": statistics[0], "std": statistics[1], "scale": 1}
        model = nn.Sequential(OrderedDict(coding=InputCoding(settings.coding, **options), model=model))
    if not hasattr(model, "input_shape"):
        model.input_shape = tuple(input_shape)  # type: ignore[assignment]
    return model
