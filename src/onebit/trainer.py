"""`Trainer`: a net, a method and data in three lines, for notebooks. A thin layer over recipes and `fit`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onebit.common.arguments import described
from onebit.common.tables import did_you_mean, resolve
from onebit.data import Dataset, Split
from onebit.data.splits import as_split
from onebit.errors import UsageError
from onebit.evaluation.metrics import labels_per_sample, task_of
from onebit.evaluation.misfits import check_takes_inputs, explained_samples
from onebit.evaluation.model_inputs import check_takes
from onebit.evaluation.modes import evaluate, mode_outputs, parse_weights, prediction_of
from onebit.evaluation.nested import mapped
from onebit.evaluation.scores import Score
from onebit.evaluation.sources import ArraySamples, Samples, as_samples
from onebit.layers import binary_layers, check_model
from onebit.models import MODELS
from onebit.recipe import Recipe, build_recipe, default_settings, flatten, merge, method_settings, refuse_unused
from onebit.report import plot_history
from onebit.runs.machine import own_threads
from onebit.runs.model import build_own_training, build_training, resolve_device
from onebit.runs.own_model import binarized_, refuse_other_quantizers
from onebit.runs.resolve import resolve as resolve_recipe
from onebit.runs.run import facts_of, fit_recipe, load_recipe_data, start_folder
from onebit.train.fit_data import FitData, batch_size_of, epoch_size, fit_data
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
        """Error, loss and time per epoch."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "history.png"
            plot_history(self, path, data=self.data)
            return Picture(path.read_bytes())


class Trainer:
    """A net and the method that trains it, with the defaults of `onebit train --model … --method …`.

    Args:
        model: name of a model (`onebit list models`), which each `fit` builds again, so that it gives the same result;
            or a module, which is trained in place. It takes the inputs of the data: uint8 images (N, C, H, W) of a data
            set, see `onebit.InputCoding`, or what your own data have. A module without binary layers is binarized
            with the quantizers of the method, and its latents are initialized as in a model;
            options={"init": "default"} keeps its weights. A module with binary layers is not
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
        self._trained: tuple[nn.Module, Dataset | FitData] | None = None
        self._metric: Any = None
        self.recipe = self._recipe("mnist")
        """The settings of the training; `fit` completes them with those of the data set."""
        if self._given is None:
            resolve(MODELS, self.recipe.model.name, kind="model")
        else:
            _refuse_unfit(self._given, self.recipe, method, options or {})
        self.history = TrainerHistory()

    def __repr__(self) -> str:
        """The net, the method and the data; how the training went, and how much of the net is binary."""
        what = f"{self.recipe.model.name} with {self.method}"
        if self._trained is None:
            return f"{what}, not trained yet"
        return "\n".join([f"{what} on {self._trained[1].name}", *self.history.outline])

    @property
    def model(self) -> nn.Module:
        """The trained net.

        Raises:
            UsageError: `fit` was not called yet.
        """
        return self._model_and_data()[0]

    def _model_and_data(self) -> tuple[nn.Module, Dataset | FitData]:
        if self._trained is None:
            raise UsageError("nothing is trained yet: call fit(data) first")
        return self._trained

    def fit(
        self,
        data: Any,
        *,
        validation: Any = None,
        metric: Any = None,
        epochs: float | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        on_epoch: Callable[[EpochLog], None] | None = None,
        verbose: bool | None = None,
    ) -> TrainerHistory:
        """Train; afterwards the net holds the weights of the last epoch.

        Args:
            data: the name of a data set, or data of any form that `onebit.fit` takes, such as (inputs, targets).
            validation, metric: see `onebit.fit`.
            epochs: instead of those of the settings.
            folder: a run folder for metrics, checkpoint and weights; None writes nothing. Your own data are not copied
                there: the checkpoint has a digest of them.
            resume: continue from its last checkpoint.
            on_epoch, verbose: see `onebit.fit`.

        Raises:
            UsageError, DataError, TrainingError, CheckpointError: as `onebit.fit` and `onebit train`.

        A layer of a module whose binary inputs are all equal, as after a ReLU, causes a warning.
        """
        source = data if isinstance(data, str) else _own_data(data, validation, self._settings.get("batch_size"))
        name = source if isinstance(source, str) else source.name
        recipe = self._recipe(name, {} if epochs is None else {"epochs": epochs})
        refuse_unused(recipe, flatten(self._settings))
        self._metric = metric
        options: dict[str, Any] = {"folder": folder, "resume": resume, "metric": metric}
        options |= {"on_epoch": on_epoch, "verbose": verbose}
        if isinstance(source, str):
            if self._given is None:
                resolve_recipe(recipe, given=flatten(self._settings))
            source = load_recipe_data(recipe)
        elif unused := next((name for name in OF_FILES if name in self._settings), None):
            raise UsageError(f"{unused} is for data that is given by its name, got {source.name} as a Dataset")
        if isinstance(source, FitData):
            return self._fit_own(source, recipe, **options)
        if isinstance(data, (str, Dataset)) and validation is not None:
            options["validation"] = validation
        self.recipe = recipe = replace(recipe, validation=len(source.validation))
        given = None if self._given is None else _made_binary(self._given, recipe)
        if given is not None:
            check_takes(given, source.input_shape, data=source.name)
        training = build_training(recipe, source, model=given)
        with own_threads(recipe), lock_folder(folder):
            if folder is not None:
                options["facts"] = facts_of(recipe, source)
            if folder is not None and given is None:
                start_folder(Path(folder), recipe, resume=resume)
            self._trained = training.model, source
            history = fit_recipe(recipe, training, source, **options)
        self.history = TrainerHistory(**vars(history), data=source.name)
        return self.history

    def _fit_own(self, data: FitData, recipe: Recipe, **options: Any) -> TrainerHistory:
        """`fit` of a module on data that are not images in memory."""
        if self._given is None:
            raise UsageError(
                f"model {self._settings['model']['name']!r} takes uint8 images (N, C, H, W) in memory: "
                "pass a module that takes these data"
            )
        assert not isinstance(data.train, Split)  # else it is a Dataset
        batch_size = self._settings.get("batch_size")
        self.recipe = recipe = replace(recipe, batch_size=batch_size_of(data, batch_size, usual=recipe.batch_size))
        model = _made_binary(self._given, recipe)
        inputs, targets = next(data.train.batches())
        check_takes_inputs(model, inputs, name=data.name)
        samples, steps = epoch_size(data, recipe.batch_size)
        labels = samples * labels_per_sample(targets, task_of(recipe.loss))
        training = build_own_training(recipe, model, labels=labels, steps=steps)
        self._trained = model, data
        with own_threads(recipe):
            history = fit_recipe(recipe, training, data, **options)
        self.history = TrainerHistory(**vars(history), data=data.name)
        return self.history

    def evaluate(
        self, split: Any = "test", *, weights: str = "binary", seed: int = 0, verbose: bool | None = None
    ) -> Score:
        """Loss and metrics in a test mode, of a classification also accuracy and calibration; see `onebit.evaluate`.

        Args:
            split: "test", "validation" or "train" of the data set of the training, or data of any form that
                `onebit.evaluate` takes; your own data have no test split. The settings `whitening` and `permutation`
                are applied: pass images as they are stored.
            weights, seed, verbose: see `onebit.evaluate`.

        Raises:
            UsageError: an unknown split, images of another shape than in training, or an unknown test mode.
        """
        model, data = self._model_and_data()
        prepared = isinstance(split, str) or not self._prepares or (isinstance(split, Dataset) and split.preparation)
        if isinstance(split, str):
            if split not in SPLITS:
                raise UsageError(f"unknown split {split!r}{did_you_mean(split, SPLITS)}")
            split = getattr(data, split, None)
            if split is None:
                raise UsageError("the data of this training have no such split: pass data, as (inputs, targets)")
        elif isinstance(split, Dataset):
            split = split.test
        elif isinstance(split, (np.ndarray, Tensor)):
            raise UsageError(
                f"split must be a Split or one of {', '.join(SPLITS)}, got {type(split).__name__}; of arrays pass "
                "(inputs, targets)"
            )
        if not prepared:
            split = _as_images(split)
        if isinstance(split, Split) and isinstance(data, Dataset):
            self._check_images(split.images)
            split = split if prepared else data.prepared(split)
        loss, metric = self.recipe.loss, self._metric
        return evaluate(
            model, split, weights=weights, train=data.train, loss=loss, metric=metric, seed=seed, verbose=verbose
        )

    def predict(self, images: Any, *, weights: str = "binary", seed: int = 0) -> Any:
        """Predictions in a test mode: probabilities (N, classes), of each label, or the outputs of a regression.

        Args:
            images: uint8 images (N, C, H, W), or inputs of the kind that the net was trained on: an array, a tensor, a
                loader or a data set, whose targets are left out. The settings `whitening` and `permutation` are
                applied: pass images as they are stored.
            weights, seed: see `onebit.evaluate`.

        Raises:
            UsageError: images of another dtype or shape than in training, or an unknown test mode.
        """
        model, data = self._model_and_data()
        parse_weights(weights)
        if isinstance(data, Dataset):
            images = np.asarray(images)
            self._check_images(images)
            if not len(images):
                return np.zeros((0, *getattr(model, "output_shape", (len(data.classes),))), np.float32)
            if self._prepares:
                images = data.prepared(Split(images, np.zeros(len(images), np.int64))).images
            samples: Samples = ArraySamples(images)
        else:
            samples = as_samples(images, name="inputs")
        task = task_of(self.recipe.loss)
        with explained_samples(model, samples):
            outputs, _ = mode_outputs(model, samples, weights=weights, train=data.train, seed=seed, task=task)
        if isinstance(outputs, Tensor):
            outputs = prediction_of(outputs, task)
        return mapped(lambda tensor: tensor.cpu().numpy(), outputs)

    @property
    def _prepares(self) -> bool:
        """Whether the settings change images; those who whiten a data set on their own do so with other images, too."""
        return self.recipe.whitening is not None or self.recipe.permutation is not None

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
    """Refuse a module and options that the recipe would not describe."""
    layers = [layer for _, layer in binary_layers(model)]
    usable, kind = (OF_BINARY, "with binary layers") if layers else (OF_QUANTIZERS, "without binary layers")
    if wrong := [name for name in options if name not in usable]:
        known = ", ".join(usable)
        raise UsageError(
            f"options: {wrong[0]} belongs to a model that is given by its name; for a module {kind}: {known}"
        )
    way = "choose the method of the module, or pass options={{'{kind}_quantizer': {name!r}}}"
    refuse_other_quantizers(model, recipe.model, way=way, owner=f"method {method!r}")


def _as_images(given: Any) -> Split:
    """The images and labels of an argument of `evaluate`, for a net that was trained on prepared images."""
    if isinstance(given, Split):
        return given
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return as_split(*given)
    raise UsageError(f"split: got {described(given)}, expected (images, labels), which are whitened or permuted first")


def _made_binary(model: nn.Module, recipe: Recipe) -> nn.Module:
    """A module of the user, binarized in place, with latents that are initialized as the recipe says."""
    torch.manual_seed(recipe.seed)
    binarized_(model, recipe.model)
    return model.to(resolve_device(recipe.device))


def _own_data(data: Any, validation: Any, batch_size: int | None) -> Dataset | FitData:
    """Data that are not named: images with labels as a `Dataset` without a test split, all other data as they are."""
    if isinstance(data, Dataset):
        return data
    own = fit_data(data, validation, batch_size=batch_size)
    if not isinstance(own.train, Split) or not isinstance(own.validation, (Split, type(None))):
        return own
    empty = own.train[:0]
    return Dataset(own.name, own.train, own.validation or empty, empty, own.classes)
