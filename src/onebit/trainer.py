"""`Trainer`: a net, a method and data in three lines, for notebooks. A thin layer over recipes and `fit`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from onebit.common.tables import did_you_mean, resolve
from onebit.data import Dataset, Split, check_dataset
from onebit.errors import UsageError
from onebit.evaluation.batches import fitting_batch
from onebit.evaluation.model_inputs import check_takes
from onebit.evaluation.modes import evaluate, mode_logits, parse_weights
from onebit.evaluation.scores import Score
from onebit.layers import binary_layers, check_model
from onebit.models import MODELS
from onebit.recipe import Recipe, build_recipe, default_settings, flatten, merge, method_settings, refuse_unused
from onebit.report import plot_history
from onebit.runs.constant_sign import one_sign_warning
from onebit.runs.model import build_training, resolve_device
from onebit.runs.own_model import binarized_, refuse_other_quantizers
from onebit.runs.resolve import resolve as resolve_recipe
from onebit.runs.run import facts_of, fit_recipe, load_recipe_data, start_folder
from onebit.train.history import EpochLog, History
from onebit.train.lock import lock_folder

OF_FILES = ("validation", "split_seed", "input_size", "permutation", "whitening", "workers", "skip_broken")
"""Settings for reading a data set."""
OF_SEVERAL = ("first_stage", "continual")
"""Settings of several consecutive training runs."""
OF_BINARY = ("weight_quantizer", "input_quantizer")
"""Options of a model that apply to a module with binary layers."""
OF_QUANTIZERS = (*OF_BINARY, "weight_options", "input_options", "value", "init")
"""Options of a model that say how to binarize a module."""
SPLITS = ("test", "validation", "train")
LOOK_IMAGES = 100
"""Number of training images on which a module is checked before it is trained."""


@dataclass(frozen=True)
class Picture:
    """A PNG that a notebook shows when it is the last line of a cell."""

    png: bytes = field(repr=False)

    def _repr_png_(self) -> bytes:
        return self.png

    def save(self, path: str | Path) -> None:
        """Write it to a file."""
        Path(path).write_bytes(self.png)


@dataclass(repr=False)
class TrainerHistory(History):
    """The epochs of a training, with a plot; `data` is the name of the data set."""

    data: str = ""

    def plot(self) -> Picture:
        """Error, loss and time per epoch.

        Raises:
            DataError: no epochs yet. UsageError: matplotlib is not installed.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "history.png"
            plot_history(self, path, data=self.data)
            return Picture(path.read_bytes())


class Trainer:
    """A net and the method that trains it, with the defaults of `onebit train --model … --method …`.

    Args:
        model: name of a model (`onebit list models`), which each `fit` builds again, so that it gives the same result;
            or a module, which is trained in place. A module takes uint8 images (N, C, H, W), see `onebit.InputCoding`.
            A module without binary layers is binarized with the quantizers of the method, and its latents are
            initialized as in a model; options={"init": "default"} keeps its weights. A module with binary layers is not
            changed.
        method: see `onebit list methods`.
        options: of the model, such as {"widths": (784, 256, 10)}; for a module those of its quantizers.
        settings: fields of a recipe: epochs=5, batch_size=100, optimizer={"lr": 0.01}, seed=1, …

    Raises:
        UnknownNameError, UsageError: names or settings that do not exist or do not go together, such as a module whose
            binary layers have other quantizers than the method.

    Example:
        >>> trainer = onebit.Trainer("mlp", method="bnn", epochs=5)  # doctest: +SKIP
        >>> trainer.fit("mnist").plot()  # doctest: +SKIP
        >>> trainer.evaluate(weights="binary").accuracy  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | nn.Module,
        method: str = "binaryconnect",
        *,
        options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(model, str):
            check_model(model)
        if several := next((name for name in OF_SEVERAL if name in settings), None):
            raise UsageError(f"{several} needs several training runs, a Trainer does a single one: use onebit train")
        if "draws" in settings:
            raise UsageError('draws belongs to onebit train: with a Trainer, use evaluate(weights="ensemble:10")')
        self.method = method
        name = model if isinstance(model, str) else type(model).__name__
        self._settings = merge(settings, {"model": {**(options or {}), "name": name}})
        self._given: nn.Module | None = model if isinstance(model, nn.Module) else None
        self._trained: tuple[nn.Module, Dataset] | None = None
        self.recipe = self._recipe("mnist")
        """The settings of the training; `fit` completes them with those of the data set."""
        if self._given is None:
            resolve(MODELS, self.recipe.model.name, kind="model")
        else:
            _refuse_unfit(self._given, self.recipe, method, options or {})
        self.history = TrainerHistory()

    @property
    def model(self) -> nn.Module:
        """The trained net.

        Raises:
            UsageError: `fit` was not called yet.
        """
        return self._model_and_data()[0]

    def _model_and_data(self) -> tuple[nn.Module, Dataset]:
        if self._trained is None:
            raise UsageError("nothing is trained yet: call fit(data) first")
        return self._trained

    def fit(
        self,
        data: Dataset | str,
        *,
        epochs: float | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        on_epoch: Callable[[EpochLog], None] | None = None,
        verbose: bool | None = None,
    ) -> TrainerHistory:
        """Train; afterwards the net holds the weights of the last epoch.

        Args:
            data: a data set, or the name of one.
            epochs: instead of those of the settings.
            folder: a run folder for metrics, checkpoint and weights; None writes nothing.
            resume: continue from its last checkpoint.
            on_epoch, verbose: see `onebit.train.options.Monitor`.

        Raises:
            UsageError, DataError, TrainingError, CheckpointError: as `onebit.fit` and `onebit train`.

        A layer of a module whose binary inputs are all equal, as after a ReLU, causes a warning.
        """
        if not isinstance(data, str):
            check_dataset(data)
        name = data if isinstance(data, str) else data.name
        recipe = self._recipe(name, {} if epochs is None else {"epochs": epochs})
        refuse_unused(recipe, flatten(self._settings))
        if isinstance(data, str):
            if self._given is None:
                resolve_recipe(recipe)
            data = load_recipe_data(recipe)
        elif unused := next((name for name in OF_FILES if name in self._settings), None):
            raise UsageError(f"{unused} is for data that is given by its name, got {data.name} as a Dataset")
        self.recipe = recipe = replace(recipe, validation=len(data.validation))
        given = None if self._given is None else _made_binary(self._given, recipe, data)
        training = build_training(recipe, data, model=given)
        if given is not None and len(data.train) > 1 and (text := one_sign_warning(given, _sample(data))):
            warnings.warn(text, stacklevel=2)
        files: dict[str, Any] = {"folder": folder, "resume": resume}
        with lock_folder(folder):
            if folder is not None:
                files["facts"] = facts_of(recipe, data)
            if folder is not None and given is None:
                start_folder(Path(folder), recipe, resume=resume)
            self._trained = training.model, data
            history = fit_recipe(recipe, training, data, on_epoch=on_epoch, verbose=verbose, **files)
        self.history = TrainerHistory(history.rows, data.name)
        return self.history

    def evaluate(
        self, split: Split | str = "test", *, weights: str = "binary", seed: int = 0, verbose: bool | None = None
    ) -> Score:
        """Accuracy, loss, entropy and calibration in a test mode; see `onebit.evaluate`.

        Args:
            split: images with labels, or "test", "validation" or "train" of the training data set.
            weights, seed, verbose: see `onebit.evaluate`.

        Raises:
            UsageError: an unknown split, images of another shape than in training, or an unknown test mode.
        """
        model, data = self._model_and_data()
        if isinstance(split, str) and split not in SPLITS:
            raise UsageError(f"unknown split {split!r}{did_you_mean(split, SPLITS)}")
        chosen: Split = getattr(data, split) if isinstance(split, str) else split
        if not isinstance(chosen, Split):
            raise UsageError(f"split must be a Split or one of {', '.join(SPLITS)}, got {type(chosen).__name__}")
        self._check_images(chosen.images)
        return evaluate(
            model, chosen, weights=weights, train=data.train, loss=self.recipe.loss, seed=seed, verbose=verbose
        )

    def predict(self, images: np.ndarray, *, weights: str = "binary", seed: int = 0) -> np.ndarray:
        """Probabilities (N, classes) of uint8 images (N, C, H, W) in a test mode.

        Raises:
            UsageError: images of another dtype or shape than in training, or an unknown test mode.
        """
        model, data = self._model_and_data()
        images = np.asarray(images)
        self._check_images(images)
        parse_weights(weights)
        if not len(images):
            return np.zeros((0, *getattr(model, "output_shape", (len(data.classes),))), np.float32)
        logits = mode_logits(model, images, weights=weights, train=data.train, seed=seed)
        return logits.softmax(dim=1).cpu().numpy()

    def _check_images(self, images: Any) -> None:
        """Refuse all but uint8 (N, C, H, W), C × H × W as in training; a U-Net takes other sizes as well."""
        model, data = self._model_and_data()
        shape = data.input_shape
        sides = images.shape[2:] if hasattr(model, "output_shape") else shape[1:]
        if images.dtype != np.uint8 or len(images.shape) != 4 or images.shape[1:] != (shape[0], *sides):
            raise UsageError(
                f"images: got {images.dtype} {images.shape}, expected uint8 (N, {', '.join(map(str, shape))}), "
                "values 0..255"
            )

    def _recipe(self, dataset: str, changes: dict[str, Any] | None = None) -> Recipe:
        """The method and the settings on top of the defaults for model and data, as on the command line."""
        settings = merge(self._settings, {**(changes or {}), "dataset": dataset})
        optimizer = settings.get("optimizer", {}).get("name")
        chosen = merge(method_settings(self.method, optimizer=optimizer), settings)
        defaults = default_settings(build_recipe(chosen), method=self.method, given=list(flatten(settings)))
        named = {"name": f"{Path(dataset).name}-{settings['model']['name']}-{self.method}"}
        return build_recipe(merge(merge(defaults, named), chosen))


def _refuse_unfit(model: nn.Module, recipe: Recipe, method: str, options: dict[str, Any]) -> None:
    """Refuse a module and options that the recipe would not describe.

    Raises:
        UsageError: binary layers with other quantizers than the recipe's, or options that do not apply to a module.
    """
    layers = [layer for _, layer in binary_layers(model)]
    usable, kind = (OF_BINARY, "with binary layers") if layers else (OF_QUANTIZERS, "without binary layers")
    if wrong := [name for name in options if name not in usable]:
        known = ", ".join(usable)
        raise UsageError(
            f"options: {wrong[0]} belongs to a model that is given by its name; for a module {kind}: {known}"
        )
    way = "choose the method of the module, or pass options={{'{kind}_quantizer': {name!r}}}"
    refuse_other_quantizers(model, recipe.model, way=way, owner=f"method {method!r}")


def _sample(data: Dataset) -> Any:
    """A few training images, evenly spread over the split."""
    count = min(LOOK_IMAGES, max(2, fitting_batch(data.input_shape)), len(data.train))
    return data.train[np.linspace(0, len(data.train) - 1, count).astype(np.int64)].images


def _made_binary(model: nn.Module, recipe: Recipe, data: Dataset) -> nn.Module:
    """A module of the user, binarized in place, with latents that are initialized as the recipe says.

    Raises:
        UsageError: it does not take the images of the data.
    """
    torch.manual_seed(recipe.seed)
    binarized_(model, recipe.model)
    model.to(resolve_device(recipe.device))
    check_takes(model, data.input_shape, data=data.name)
    return model
