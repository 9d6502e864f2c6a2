"""Open a trained net from a run folder or a weight file, and the data that it was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from onebit.common.custom_names import is_same_code
from onebit.data import DATASETS, Dataset, Progress, load_dataset, with_classes
from onebit.data.preparation import permute_pixels, whiten
from onebit.errors import DataError, FormatError, UsageError
from onebit.models.settings import MODELS, Custom
from onebit.recipe import Recipe, build_recipe, read_settings, recipe_path
from onebit.runs.folder import RunFolder
from onebit.runs.model import build_model
from onebit.runs.own_model import settle_code
from onebit.train.weights import load_weights, read_bytes, read_state, weight_file

MAX_SIZE = 1 << 24
"""The largest size of an image that a file may state."""
OTHER_FILES = "these are not the files of the training: it may have seen their test images"
"""The note on data of the user that changed since the training, or that replace those of the training."""


@dataclass(frozen=True)
class Run:
    """A trained net opened from a run folder or a weight file.

    input_shape: (C, H, W) of its images. classes: number of its logits. source: the weight file. facts: stored with the
    weights (epoch, validation error). sha256: of the bytes that were read; a training may replace the file meanwhile.
    """

    recipe: Recipe
    model: nn.Module
    input_shape: tuple[int, ...]
    classes: int
    source: Path
    facts: dict[str, Any]
    sha256: str = ""


def open_run(
    path: str | Path,
    *,
    recipe: str | None = None,
    model: Custom | None = None,
    quantizers: Mapping[str, Any] = {},
    dataset: str | None = None,
) -> Run:
    """A trained net from a run folder or a weight file, on the CPU in eval mode.

    Args:
        recipe: name or file, for a weight file without a recipe outside a run folder.
        model: custom code that builds the net in place of the recipe's; the recipe still binarizes it. Without a
            recipe, this is the whole model.
        quantizers: field -> name of the custom quantizer in that field of the recipe; its code may have moved.
        dataset: of a file without a recipe.
    """
    source = weight_file(Path(path))
    data = read_bytes(source)
    state, facts = read_state(source, data)
    if recipe is not None:
        settings = read_settings(recipe_path(recipe))
    elif isinstance(facts.get("recipe"), dict):
        settings = facts["recipe"]
    elif (source.parent / "recipe.yaml").is_file():
        settings = read_settings(source.parent / "recipe.yaml")
    elif model is not None:
        known = dataset or str(facts.get("dataset") or "")
        settings = {"name": source.stem, "dataset": known, "model": asdict(model)}
    else:
        raise UsageError(f"{source}: has no recipe; name one with --recipe, or code with --model FILE.py:Class")
    built = build_recipe(settings)
    for field, name in quantizers.items():
        if not is_same_code(name, stored_name := getattr(built.model, field)):
            raise UsageError(f"{source}: was trained with {field} {stored_name}, got {name}")
    built = replace(built, model=replace(built.model, **quantizers))
    named = {f"model.{field}": name for field, name in quantizers.items()}
    if model is not None:
        stored, arguments = built.model, model.arguments or {}
        if isinstance(stored, Custom):
            stored = replace(stored, name=model.name, arguments={**(stored.arguments or {}), **arguments})
        else:  # a `Trainer` trains a module on images as they are
            stored = Custom.like(stored, name=model.name, arguments=arguments, coding="none")
        built = replace(built, model=stored)
        named["model.name"] = model.name
    built = settle_code(built, named=named)
    if built.model.name not in MODELS and not isinstance(built.model, Custom):
        name = built.model.name
        raise UsageError(f"{source}: the code of its net is not stored: name it with --model FILE.py:{name}")
    input_shape, classes = _shape_and_classes(facts, built, source)
    net = build_model(built.model, input_shape=input_shape, classes=classes)
    load_weights(net, state, source=str(source))
    return Run(built, net.eval(), input_shape, classes, source, facts, hashlib.sha256(data).hexdigest())


def _shape_and_classes(facts: dict[str, Any], recipe: Recipe, source: Path) -> tuple[tuple[int, ...], int]:
    """(C, H, W) and number of logits, stored next to the weights or known for the data set; UsageError if neither."""
    shape, classes = facts.get("input_shape"), facts.get("classes")
    if isinstance(shape, list) and isinstance(classes, list):
        if all(type(size) is int and 0 < size <= MAX_SIZE for size in shape):
            return tuple(shape), len(classes)
        raise FormatError(f"{source}: images of {shape}, expected three sizes up to {MAX_SIZE:,}")
    entry = DATASETS.get(recipe.dataset)
    if entry is None or entry.input_shape is None or entry.classes is None:
        raise UsageError(f"{source}: the shape of its images is not stored: name its data with --dataset")
    return entry.input_shape, len(entry.classes)


def load_recipe_data(
    recipe: Recipe,
    *,
    directory: str | Path | None = None,
    fallback: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The data of a recipe, with its split and preprocessing.

    Args:
        fallback: a directory to search if neither `directory` nor `ONEBIT_DATA` has the data.
    """
    if fallback is not None and directory is None:
        if recipe.dataset in DATASETS:
            with suppress(DataError):
                return load_recipe_data(recipe, progress=progress)
        directory = fallback
    data = load_dataset(
        recipe.dataset,
        validation=recipe.validation,
        split_seed=recipe.split_seed,
        input_size=recipe.input_size,
        workers=recipe.workers,
        skip_broken=recipe.skip_broken,
        directory=directory,
        progress=progress,
    )
    if recipe.whitening is not None:
        data = whiten(data)
    return data if recipe.permutation is None else permute_pixels(data, recipe.permutation)


def load_run_data(
    run: Run, *, dataset: str | None = None, directory: str | Path | None = None, progress: Progress | None = None
) -> Dataset:
    """The data that a net was trained on, or others with the same classes.

    Args:
        dataset: instead of the recipe's.
        directory: of the data; by default that of the training, unless `ONEBIT_DATA` has them.

    Returns:
        The data, with the note `OTHER_FILES` if they are not those of the training.
    """
    recipe, folder = run.recipe, RunFolder(run.source.parent)
    same_name = dataset in (None, recipe.dataset)
    if not same_name:
        recipe = replace(recipe, dataset=dataset or "", validation=None)
    if not recipe.dataset:
        raise UsageError(f"{run.source}: its data are not stored: name them with --dataset")
    known = folder.data_directory if same_name else None
    data = load_recipe_data(recipe, directory=directory, fallback=known, progress=progress)
    data = with_classes(data, run.facts.get("classes"), source=str(run.source))
    return data.noted(OTHER_FILES) if same_name and folder.has_other_files(data) else data
