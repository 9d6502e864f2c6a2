"""`Trainer`: a net, a method and data in three lines, for notebooks. A thin door to recipes and `fit`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from onebit.data import Dataset, Split
from onebit.errors import UsageError, first_line
from onebit.evaluation import evaluate, mode_logits
from onebit.layers import binarize_, binary_layers, with_options
from onebit.quantizers import INPUT_QUANTIZERS, WEIGHT_QUANTIZERS
from onebit.recipe import Recipe, build_recipe, default_settings, flatten, merge, method_settings, refuse_unused
from onebit.report import plot_history
from onebit.scores import Score
from onebit.train.build import build_training, resolve_device
from onebit.train.history import EpochLog, History
from onebit.train.run import fit_recipe, load_recipe_data, start_folder

OF_FILES = ("validation", "split_seed", "input_size", "permutation", "workers", "skip_broken")
"""Settings that say how a data set is read."""
OF_SEVERAL = ("first_stage", "continual")
"""Settings of several trainings one after the other."""


@dataclass(frozen=True)
class Picture:
    """A PNG that a notebook shows when it is the last line of a cell."""

    png: bytes = field(repr=False)

    def _repr_png_(self) -> bytes:
        return self.png

    def save(self, path: str | Path) -> None:
        """Write it to a file."""
        Path(path).write_bytes(self.png)


@dataclass
class TrainerHistory(History):
    """The epochs of a training, which can draw themselves; `data` is the name of the data set."""

    data: str = ""

    def plot(self) -> Picture:
        """Error, loss and time per epoch.

        Raises:
            DataError: no epoch yet. UsageError: matplotlib is not installed.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "history.png"
            plot_history(self, path, data=self.data)
            return Picture(path.read_bytes())


class Trainer:
    """A net and the method that trains it, with the defaults of `onebit train --model … --method …`.

    Args:
        model: name of a model (`onebit list models`), built anew by each `fit`, which therefore gives the same result
            again; or a module, which is trained on in place. A module takes uint8 images (N, C, H, W), see
            `onebit.InputCoding`; one without binary layers is made binary by the quantizers of the method.
        method: see `onebit list methods`.
        options: of a model that is given by name, such as {"widths": (784, 256, 10)}.
        settings: fields of a recipe: epochs=5, batch_size=100, optimizer={"lr": 0.01}, seed=1, …

    Raises:
        UnknownNameError, UsageError: names or settings that do not exist or do not fit.

    Example:
        >>> trainer = onebit.Trainer("mlp", method="bayesbinn", epochs=5)  # doctest: +SKIP
        >>> trainer.fit("mnist", on_epoch=print).plot()  # doctest: +SKIP
        >>> trainer.evaluate(weights="mean").accuracy  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | nn.Module,
        method: str = "binaryconnect",
        *,
        options: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if options and not isinstance(model, str):
            raise UsageError(f"options belong to a model that is given by its name, got {options} with a module")
        if several := next((name for name in OF_SEVERAL if name in settings), None):
            raise UsageError(f"{several} makes several trainings of one: use onebit train, a Trainer does a single one")
        if "draws" in settings:
            raise UsageError(
                'draws is for the result of onebit train: ask a Trainer for evaluate(weights="ensemble:10")'
            )
        self.method = method
        self._settings = merge(settings, {"model": {**(options or {}), "name": _name(model)}})
        self._given: nn.Module | None = model if isinstance(model, nn.Module) else None
        self._data: Dataset | None = None
        self._model: nn.Module | None = None
        self.recipe = self._recipe("mnist")
        """What is trained; the data set completes it."""
        self.history = TrainerHistory()

    @property
    def model(self) -> nn.Module:
        """The trained net.

        Raises:
            UsageError: there is none yet.
        """
        if self._model is None:
            raise UsageError("nothing is trained yet: call fit(data) first")
        return self._model

    def fit(
        self,
        data: Dataset | str,
        *,
        epochs: float | None = None,
        folder: str | Path | None = None,
        resume: bool = False,
        on_epoch: Callable[[EpochLog], None] | None = None,
    ) -> TrainerHistory:
        """Train; afterwards the net holds the weights of the last epoch.

        Args:
            data: a data set, or the name of one.
            epochs: instead of those of the settings.
            folder: a run folder for metrics, checkpoint and weights; None writes nothing.
            resume: go on from its last checkpoint.
            on_epoch: called with each `EpochLog`; `print` shows them.

        Raises:
            UsageError, DataError, TrainingError, CheckpointError: as `onebit.fit` and `onebit train`.
        """
        name = data if isinstance(data, str) else data.name
        recipe = self._recipe(name, {} if epochs is None else {"epochs": epochs})
        if self._given is None:  # of a module its own quantizers count
            refuse_unused(recipe, flatten(self._settings))
        if isinstance(data, str):
            data = load_recipe_data(recipe)
        elif of_files := next((name for name in OF_FILES if name in self._settings), None):
            raise UsageError(f"{of_files} is for data that is given by its name, got {data.name} as a Dataset")
        self.recipe = recipe = replace(recipe, validation=len(data.validation))
        given = None if self._given is None else _made_binary(self._given, recipe, data)
        training = build_training(recipe, data, model=given)
        files: dict[str, Any] = {"folder": folder, "resume": resume}
        if folder is not None and given is None:
            start_folder(Path(folder), recipe, resume=resume)
            files["facts"] = {"recipe": asdict(recipe), "input_shape": data.input_shape, "classes": data.classes}
        self._data, self._model = data, training.model
        history = fit_recipe(recipe, training, data, on_epoch=on_epoch, **files)
        self.history = TrainerHistory(history.rows, data.name)
        return self.history

    def evaluate(self, split: Split | str = "test", *, weights: str = "binary", seed: int = 0) -> Score:
        """Accuracy, loss, entropy and calibration in a stated test mode; see `onebit.evaluate`.

        Args:
            split: images with labels, or "test", "validation" or "train" of the data that it was trained on.
        """
        model, data = self.model, self._data
        assert data is not None
        chosen: Split = getattr(data, split) if isinstance(split, str) else split
        return evaluate(model, chosen, weights=weights, train=data.train, loss=self.recipe.loss, seed=seed)

    def predict(self, images: np.ndarray, *, weights: str = "binary", seed: int = 0) -> np.ndarray:
        """Probabilities (N, classes) of uint8 images (N, C, H, W) in a stated test mode."""
        model, data = self.model, self._data
        assert data is not None
        logits = mode_logits(model, np.asarray(images), weights=weights, train=data.train, seed=seed)
        return logits.softmax(dim=1).cpu().numpy()

    def _recipe(self, dataset: str, changes: dict[str, Any] | None = None) -> Recipe:
        """The method and the settings over the defaults that suit model and data, as the command line has them."""
        settings = merge(self._settings, {**(changes or {}), "dataset": dataset})
        optimizer = settings.get("optimizer", {}).get("name")
        asked = merge(method_settings(self.method, optimizer=optimizer), settings)
        defaults = default_settings(build_recipe(asked), method=self.method, given=list(flatten(settings)))
        named = {"name": f"{Path(dataset).name}-{settings['model']['name']}-{self.method}"}
        return build_recipe(merge(merge(defaults, named), asked))


def _name(model: str | nn.Module) -> str:
    return model if isinstance(model, str) else type(model).__name__


def _made_binary(model: nn.Module, recipe: Recipe, data: Dataset) -> nn.Module:
    """A module of somebody else, binary in place.

    Raises:
        UsageError: it does not take the images of the data.
    """
    settings = recipe.model
    if settings.weight_quantizer is not None and not any(True for _ in binary_layers(model)):
        binarize_(
            model,
            weight_quantizer=with_options(
                WEIGHT_QUANTIZERS, settings.weight_quantizer, settings.weight_options, kind="weight quantizer"
            ),
            input_quantizer=with_options(
                INPUT_QUANTIZERS, settings.input_quantizer, settings.input_options, kind="input quantizer"
            ),
        )
    model.to(resolve_device(recipe.device))
    training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            device = resolve_device(recipe.device)
            model.eval()(torch.zeros(2, *data.input_shape, dtype=torch.uint8, device=device))
    except (RuntimeError, TypeError, ValueError) as error:
        shape = "×".join(map(str, data.input_shape))
        raise UsageError(
            f"the model does not take the uint8 images {shape} of {data.name} ({first_line(error)}): "
            "begin it with onebit.InputCoding()"
        ) from None
    finally:
        for module, was in training.items():
            module.training = was
    return model
