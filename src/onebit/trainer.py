"""`Trainer`: train a net with a method in three lines, for notebooks. A thin layer over recipes and `fit`."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from onebit.data import Dataset, Split
from onebit.data.splits import as_split
from onebit.errors import UsageError
from onebit.evaluation.metrics import task_of
from onebit.evaluation.modes import Mode, evaluate, mode_outputs, prediction_of
from onebit.evaluation.scores import Score
from onebit.evaluation.sources import as_samples
from onebit.evaluation.trees import mapped
from onebit.recipe import Recipe, flatten, merge
from onebit.recipe.request import request_recipe
from onebit.report import plot_history
from onebit.runs.folder import RunFolder
from onebit.runs.opening import load_recipe_data
from onebit.runs.own_model import binarized_, refuse_other_quantizers
from onebit.runs.resolve import resolve
from onebit.runs.run import facts_of
from onebit.runs.training import prepare, resolve_device
from onebit.train.fit_data import batch_size_of, fit_data
from onebit.train.history import EpochLog, History
from onebit.train.lock import lock_folder


@dataclass(repr=False)
class TrainerHistory(History):
    """The epochs of a run, with a plot; `data` is the name of the data set."""

    data: str = ""

    def plot(self) -> Image.Image:
        """Error, loss and time per epoch."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "history.png"
            plot_history(self, path, data=self.data)
            return Image.open(io.BytesIO(path.read_bytes()))


class Trainer:
    """A net and the method that trains it, with the defaults of `onebit train --model … --method …`.

    Args:
        model: name of a model (`onebit list models`), which each `fit` builds again, so that it gives the same result;
            or a module, which is trained in place on the inputs of the data, such as uint8 images (N, C, H, W) of a
            data set, see `onebit.InputCoding`. A module without binary layers is binarized with the quantizers of the
            method, and its latents are initialized as in a model; options={"init": "default"} keeps its weights.
        method: see `onebit list methods`.
        options: of the model, such as {"widths": (784, 256, 10)}; for a module those of its quantizers.
        settings: fields of a recipe: epochs=5, batch_size=100, optimizer={"lr": 0.01}, seed=1, …

    Attributes:
        model: the trained net; None before `fit`.
        recipe: the settings of the run; `fit` completes them with those of the data set.

    Raises:
        UnknownNameError, UsageError: unknown names or settings, or settings that exclude each other.

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
        self.method = method
        self._given = None if isinstance(model, str) else model
        name = model if isinstance(model, str) else type(model).__name__
        self._settings = merge(settings, {"model": {**(options or {}), "name": name}})
        self.model: Any = None
        self._data: Any = None
        self._about: dict[str, Any] = {}
        self.recipe = self._recipe("mnist")
        if self._given is not None:
            refuse_other_quantizers(self._given, self.recipe.model)
        self.history = TrainerHistory()

    def __repr__(self) -> str:
        """The net, the method, the data, the course of training, and how much of the net is binary."""
        what = f"{self.recipe.model.name} with {self.method}"
        if self.model is None:
            return f"{what}, not trained yet"
        return "\n".join([f"{what} on {self._data.name}", *self.history.outline])

    def fit(
        self,
        data: Any,
        *,
        validation: Any = None,
        metric: Any = None,
        ignore_index: int | None = None,
        epochs: float | None = None,
        steps_per_epoch: int | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        on_epoch: Callable[[EpochLog], Any] | None = None,
        verbose: bool | None = None,
    ) -> TrainerHistory:
        """Train; afterwards the net holds the weights of the last epoch.

        Args:
            data: the name of a data set, or data of any form that `onebit.fit` takes, such as (inputs, targets).
            epochs: instead of those of the settings.
            folder: a run folder for metrics, checkpoint and weights; None writes nothing. Data are not copied there;
                the checkpoint has their digest.
            resume: continue from its last checkpoint.
            validation, metric, ignore_index, steps_per_epoch, on_epoch, verbose: see `onebit.fit`.

        Raises:
            UsageError, DataError, TrainingError, CheckpointError: as `onebit.fit` and `onebit train`.
        """
        about = {"metric": metric, "ignore_index": ignore_index}
        options = {**about, "folder": folder, "resume": resume, "on_epoch": on_epoch, "verbose": verbose}
        given, changes = self._given, {} if epochs is None else {"epochs": epochs}
        read_by_name = () if isinstance(data, str) else ("validation", "permutation", "whitening")
        for name in ("first_stage", "continual", *read_by_name):
            if name in self._settings:
                raise UsageError(f"{name} has no effect here")
        if isinstance(data, str):
            recipe = self._recipe(data, **changes)
            if given is None:
                resolve(recipe)
            data = load_recipe_data(recipe)
        else:
            recipe = self._recipe(data.name if isinstance(data, Dataset) else "data", **changes)
        batch_size, facts = self._settings.get("batch_size"), None
        whole = isinstance(data, Dataset) and validation is None
        source: Any = data if whole else fit_data(data, validation, batch_size=batch_size)
        if given is not None:
            torch.manual_seed(recipe.seed)
            binarized_(given, recipe.model).to(resolve_device(recipe.device))
        with lock_folder(folder), ExitStack() as stack:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(recipe.threads or torch.get_num_threads())
            if isinstance(source.train, Split):
                held_out = source.validation
                recipe = replace(recipe, validation=len(held_out) if isinstance(held_out, Split) else 0)
                facts = facts_of(recipe, source)
            elif given is None:
                raise UsageError(f"{recipe.model.name}: expected uint8 images (N, C, H, W) in memory, or a module")
            else:
                recipe = replace(recipe, batch_size=batch_size_of(source, batch_size, usual=recipe.batch_size))
            training = prepare(recipe, source, model=given, steps_per_epoch=steps_per_epoch)
            if folder is not None and given is None:
                RunFolder(Path(folder), resume=resume).start(recipe)
            self.recipe, self._about, self.model = recipe, about, training.model
            self._data = data if isinstance(data, Dataset) else source
            history = training.fit(source, facts=facts, steps_per_epoch=steps_per_epoch, **options)
        self.history = TrainerHistory(**vars(history), data=source.name)
        return self.history

    def evaluate(
        self, split: Any = "test", *, weights: str = "binary", seed: int = 0, verbose: bool | None = None
    ) -> Score:
        """Loss and metrics in a test mode, of a classification also accuracy and calibration.

        Args:
            split: "test", "validation" or "train" of the data set of the training, or data of any form that
                `onebit.evaluate` takes, with images as they are stored: `whitening` and `permutation` are applied.
            weights, seed, verbose: see `onebit.evaluate`.

        Raises:
            AttributeError: the data of the training have no such split; UsageError: an unknown test mode.
        """
        data = self._data
        split = getattr(data, split) if isinstance(split, str) else self._prepared(split)
        about: dict[str, Any] = {"train": data.train, "loss": self.recipe.loss, **self._about}
        return evaluate(self.model, split, weights=weights, seed=seed, verbose=verbose, **about)

    def predict(self, images: Any, *, weights: str = "binary", seed: int = 0) -> Any:
        """Predictions in a test mode: probabilities (N, classes), of each label, or the outputs of a regression.

        Args:
            images: uint8 images (N, C, H, W) as they are stored, or inputs of the kind that the net was trained on: an
                array, a tensor, a loader or a data set, whose targets are left out.
            weights, seed: see `onebit.evaluate`.

        Raises:
            UsageError: images of another dtype than uint8, or an unknown test mode.
        """
        if isinstance(self._data.train, Split):
            images = np.asarray(images)
            if images.dtype != np.uint8:  # numbers up to 1 would be nearly black
                raise UsageError(f"images: expected uint8, got {images.dtype}")
            images = self._prepared(Split(images, np.zeros(len(images), np.int64))).images
        samples, task = as_samples(images, name="inputs"), task_of(self.recipe.loss)
        mode = Mode(weights, seed=seed, train=self._data.train)
        outputs, _ = mode_outputs(self.model, samples, mode, task=task)
        if isinstance(outputs, Tensor):
            outputs = prediction_of(outputs, task)
        return mapped(lambda tensor: tensor.cpu().numpy(), outputs)

    def _prepared(self, data: Any) -> Any:
        """Given data with the whitening and the permutation of the training data unless they have them."""
        split = data.test if isinstance(data, Dataset) else data
        changed = self.recipe.whitening is not None or self.recipe.permutation is not None
        if not changed or (isinstance(data, Dataset) and data.preparation):
            return split
        return self._data.prepared(split if isinstance(split, Split) else as_split(*split))

    def _recipe(self, dataset: str, **changes: Any) -> Recipe:
        """The method and the settings on top of the defaults for model and data, as on the command line."""
        settings = flatten({**self._settings, **changes, "dataset": dataset})
        return request_recipe(settings, method=self.method)
