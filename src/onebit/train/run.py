"""A training on disk: the run folder, its result, and opening it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onebit.data import DATASETS, Dataset, Progress, load_dataset
from onebit.errors import CheckpointError, UsageError
from onebit.evaluation import evaluate, whole_score
from onebit.files import remove_leftovers, write_atomic
from onebit.layers import binary_layers
from onebit.precision import resolve_precision
from onebit.recipe import Recipe, build_recipe, check_keys, read_settings, recipe_path
from onebit.train.build import Training, build_model, build_training, resolve_device
from onebit.train.history import EpochLog, History, refuse_used
from onebit.train.loop import fit
from onebit.train.ranks import ALONE, Ranks, rank_device
from onebit.train.weights import load_weights, read_state, read_weights, weight_file

ENSEMBLE = 10
"""Draws of the ensemble that the training of a Bayesian net reports."""


def load_recipe_data(
    recipe: Recipe, *, directory: str | Path | None = None, progress: Progress | None = None
) -> Dataset:
    """The data of a recipe, split as it says."""
    return load_dataset(
        recipe.dataset,
        validation=recipe.validation,
        split_seed=recipe.split_seed,
        input_size=recipe.input_size,
        workers=recipe.workers,
        skip_broken=recipe.skip_broken,
        directory=directory,
        progress=progress,
    )


def start_folder(folder: Path, recipe: Recipe, *, resume: bool) -> bool:
    """Prepare a run folder and write recipe.yaml.

    Returns:
        Whether there is a checkpoint to go on from.

    Raises:
        UsageError: the folder holds a run and `resume` was not asked for.
        CheckpointError: it holds a run of another recipe.
    """
    if refuse_used(folder, resume=resume):
        refuse_other_recipe(folder, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    write_atomic(folder / "recipe.yaml", recipe.to_yaml().encode())
    return (folder / "last.ckpt").exists()


def refuse_other_recipe(folder: Path, recipe: Recipe) -> None:
    """Keep a training out of the run folder of another one.

    Raises:
        CheckpointError: its recipe.yaml says something else.
    """
    if not (folder / "recipe.yaml").exists():
        return
    changed = recipe.changed_from(build_recipe(read_settings(folder / "recipe.yaml")))
    if changed:
        name, was, now = changed[0]
        raise CheckpointError(
            f"{folder}: was trained with {name} = {was!r}, now it is {now!r}; "
            "resume with the same recipe or choose another --out"
        )


def fit_recipe(recipe: Recipe, training: Training, data: Dataset, **files_and_talk: Any) -> History:
    """`fit` with the settings of a recipe and what `build_training` made of it.

    Args:
        files_and_talk: `folder`, `resume`, `facts`, `ranks`, `on_step`, `on_epoch` of `fit`.
    """
    return fit(
        training.model,
        data,
        training.optimizer,
        epochs=recipe.epochs,
        loss=training.loss,
        schedule=training.schedule,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        precision=recipe.precision,
        memory_format=recipe.memory_format,
        augmentation=training.augmentation,
        step_settings=training.step_settings,
        ema=recipe.ema,
        compile=recipe.compile,
        sync_norm=recipe.sync_norm,
        **files_and_talk,
    )


def train_run(
    recipe: Recipe,
    data: Dataset,
    folder: Path,
    *,
    resume: bool = False,
    ranks: Ranks = ALONE,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
) -> dict[str, Any]:
    """Train a recipe into a folder made by `start_folder`, evaluate the chosen weights, write result.json.

    Args:
        ranks: which process of several this is; all of them call this, each evaluates its share of the test split.

    Returns:
        What stands in result.json; `test` maps each test mode to its counts on the test split.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    device = rank_device(resolve_device(recipe.device), ranks)
    training = build_training(recipe, data, device=device, processes=ranks.world)
    history = fit_recipe(
        recipe,
        training,
        data,
        folder=folder,
        resume=resume,
        facts={"recipe": asdict(recipe), "input_shape": data.input_shape, "classes": data.classes},
        ranks=ranks,
        on_step=on_step,
        on_epoch=on_epoch,
    )
    model = training.model
    ranks.first(lambda: _load_best(model, folder))
    ranks.same_(list(model.state_dict().values()))
    share = data.test[ranks.part(len(data.test))]
    scores = [
        whole_score(
            ranks.gather(
                evaluate(model, share, weights=mode, train=data.train, loss=training.loss)
                if len(share) or ranks.world == 1
                else None
            )
        )
        for mode in test_modes(model)
    ]
    result = {
        "recipe": recipe.name,
        "dataset": recipe.dataset,
        "note": data.note,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "chosen_epoch": history.best.epoch,
        "chosen_by": "validation error" if len(data.validation) else "last epoch",
        "validation_error": history.best.validation_error,
        "test": {score.weights: score.as_dict() for score in scores},
        "seconds": history.seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "binary_weights": sum(layer.weight.numel() for _, layer in binary_layers(model)),
        "precision": resolve_precision(recipe.precision, device),
        "threads": torch.get_num_threads(),
        "processes": ranks.world,
        "batch_per_process": -(-recipe.batch_size // ranks.world),
        "device": str(device),
        "torch": torch.__version__,
        "folder": str(folder),
    }
    if ranks.writes:
        write_atomic(folder / "result.json", (json.dumps(result, indent=2) + "\n").encode())
    return result


def _load_best(model: nn.Module, folder: Path) -> None:
    """Load the weights that validation chose, where it did."""
    best = folder / "best.safetensors"
    if best.exists():
        load_weights(model, read_weights(best)[0], source=str(best))


def test_modes(model: nn.Module) -> list[str]:
    """The test modes in which a finished training is reported: what ships first.

    A Bayesian net, whose latents are the parameters of a distribution, is reported with its most probable weights (the
    signs that ship), their mean, and an ensemble of ENSEMBLE draws.
    """
    quantizers = [layer.weight_quantizer for _, layer in binary_layers(model)]
    if not quantizers:
        return ["real"]
    if all(hasattr(quantizer, "mean") for quantizer in quantizers):
        return ["binary", "mean", f"ensemble:{ENSEMBLE}"]
    random = any(quantizer is not None and quantizer.random for quantizer in quantizers)
    return ["binary", "latent", *(["sample"] if random else [])]


@dataclass(frozen=True)
class Run:
    """A trained net opened from a run folder or a weight file.

    input_shape: (C, H, W) of its images; classes: number of its logits. source: the weight file; sha256: of its bytes;
    facts: what was stored beside the weights (epoch, validation error).
    """

    recipe: Recipe
    model: nn.Module
    input_shape: tuple[int, ...]
    classes: int
    source: Path
    facts: dict[str, Any]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source.read_bytes()).hexdigest()


def open_run(path: str | Path, *, recipe: str | None = None, fallback: Recipe | None = None) -> Run:
    """A trained net from a run folder or a weight file, on the CPU in eval mode.

    Args:
        recipe: name or file, for a weight file that neither carries its recipe nor lies in a run folder.
        fallback: the recipe of such a file where no `recipe` is named.

    Raises:
        UsageError: nothing there, or no recipe to be found.
        FormatError: a damaged file. CheckpointError: the weights are those of another net.
    """
    source = weight_file(Path(path))
    state, facts = read_state(source)
    if recipe is not None:
        settings = read_settings(recipe_path(recipe))
    elif isinstance(facts.get("recipe"), dict):
        settings = facts["recipe"]
        check_keys(settings, Recipe, source=str(source))
    elif (source.parent / "recipe.yaml").is_file():
        settings = read_settings(source.parent / "recipe.yaml")
    elif fallback is not None:
        settings = asdict(fallback)
    else:
        raise UsageError(f"{source}: the net is not known: it carries no recipe; name one with --recipe")
    built = build_recipe(settings)
    input_shape, classes = _shape_and_classes(facts, built, source)
    model = build_model(built.model, input_shape=input_shape, classes=classes)
    load_weights(model, state, source=str(source))
    return Run(built, model.eval(), input_shape, classes, source, facts)


def _shape_and_classes(facts: dict[str, Any], recipe: Recipe, source: Path) -> tuple[tuple[int, ...], int]:
    """What the net takes and how many logits it makes: stored beside the weights, or known of the data set.

    Raises:
        UsageError: neither.
    """
    shape, classes = facts.get("input_shape"), facts.get("classes")
    if isinstance(shape, list) and isinstance(classes, list) and all(type(size) is int for size in shape):
        return tuple(shape), len(classes)
    entry = DATASETS.get(recipe.dataset)
    if entry is None or entry.input_shape is None or entry.classes is None:
        raise UsageError(f"{source}: does not say what images it takes, nor is that known of {recipe.dataset!r}")
    return entry.input_shape, len(entry.classes)
