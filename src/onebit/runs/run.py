"""Training a recipe into a run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onebit.common.files import sha256_of
from onebit.data import Dataset
from onebit.errors import CheckpointError, UsageError
from onebit.evaluation.modes import evaluate
from onebit.evaluation.scores import Score, whole_score
from onebit.layers import binary_layers
from onebit.quantizers import WEIGHT_QUANTIZERS
from onebit.recipe import Recipe
from onebit.runs.folder import RunFolder
from onebit.runs.result import RunResult
from onebit.runs.trackers import tracking
from onebit.runs.training import Machine, prepare, resolve_machine
from onebit.train.fit_data import FitData
from onebit.train.history import RESULT_FILE, STAGE_FOLDER, EpochLog, History
from onebit.train.ranks import ALONE, Ranks
from onebit.train.run_files import is_of_epoch
from onebit.train.weights import load_weights, read_weights, weight_file


def facts_of(recipe: Recipe, data: Dataset | FitData) -> dict[str, Any]:
    """The facts in a weight file from which `open_run` builds the net."""
    return {"recipe": recipe.settings(), "input_shape": data.input_shape, "classes": data.classes}


def first_stage(recipe: Recipe) -> Recipe:
    """The recipe of the first of two stages: the same training with real weights and binary activations.

    The rate falls after the same share of the epochs as in the second stage.

    Source: Martinez et al. 2020, "Training binary neural networks with real-to-binary
    convolutions", arXiv:2003.11535, and ReActNet, arXiv:2003.03488.
    """
    if recipe.model.weight_quantizer is None:
        raise UsageError("first_stage: got a model with real weights, expected binary ones")
    real = replace(recipe.model, weight_quantizer=None, weight_options=None, value=1.0, init="default")
    of_latents = ("latent_clip", "lr_scale", *WEIGHT_QUANTIZERS.entry(recipe.model.weight_quantizer).of_optimizer)
    none: dict[str, Any] = dict.fromkeys(of_latents)
    share, schedule = recipe.first_stage / recipe.epochs, recipe.schedule
    stage = replace(
        recipe,
        schedule=replace(
            schedule,
            milestones=tuple(share * mark for mark in schedule.milestones),
            step_size=schedule.step_size and share * schedule.step_size,
        ),
        name=f"{recipe.name}-stage1",
        summary=f"first stage of {recipe.name}: real weights",
        measured="",
        model=real,
        optimizer=replace(recipe.optimizer, **none),
        epochs=recipe.first_stage,
        first_stage=0.0,
    )
    return stage.with_warmup_of(recipe.epochs)


def train_run(recipe: Recipe, data: Dataset, folder: RunFolder, **options: Any) -> dict[str, Any]:
    """Train a recipe into a folder after its `start`, in one stage or two.

    The first stage has its own run folder `folder/stage1`; the second one starts from its result.

    Args:
        options: of `train_stage`, for both stages.

    Returns:
        The content of result.json; `test` maps each test mode to its counts on the test split.
    """
    if not recipe.first_stage:
        return train_stage(recipe, data, folder, **options)
    stage = folder / STAGE_FOLDER
    train_part(first_stage(recipe), data, stage, **options)
    return train_stage(recipe, data, folder, start=stage, **options)


def train_part(recipe: Recipe, data: Dataset, folder: RunFolder, **options: Any) -> None:
    """Train a stage or a task into its run folder, unless it is finished there."""
    with folder.locked():
        folder.start(recipe)
        if not folder.finished(data):
            train_stage(recipe, data, folder, **options)


def train_stage(
    recipe: Recipe,
    data: Dataset,
    folder: RunFolder,
    *,
    start: RunFolder | None = None,
    trackers: Sequence[str] = (),
    on_epoch: Callable[[EpochLog], Any] | None = None,
    on_model: Callable[[nn.Module, Tensor], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train a recipe into a folder after its `start`, evaluate the chosen weights, write and return result.json.

    Each process evaluates its share of the test split.

    Args:
        start: the run of an earlier stage or task to start from instead of the recipe's `init_from`.
        trackers: names in `onebit.runs.trackers.TRACKERS`.
        on_epoch: see `fit`; on_model: called with the net and blank images before the first step.
        options: of `fit`: `on_step`, `batch_watch`.
    """
    folder.first(lambda: folder.refuse_other_data(data))
    ranks = folder.ranks or ALONE
    machine = resolve_machine(recipe, ranks)
    torch.set_num_threads(machine.threads)
    begun = replace(recipe, precision=machine.precision, init_from=recipe.init_from if start is None else str(start))
    training = prepare(begun, data, device=machine.device, processes=ranks.world)
    if on_model is not None:
        on_model(training.model, torch.zeros(2, *data.input_shape, dtype=torch.uint8))
    with tracking(trackers, recipe, folder.path, ranks=ranks) as tracked:

        def track(row: EpochLog) -> None:
            for tracker in tracked:
                tracker.epoch(row)

        def after_epoch(row: EpochLog) -> Any:
            track(row)
            return on_epoch and on_epoch(row)

        history = training.fit(
            data,
            folder=folder.path,
            resume=folder.resume,
            facts=facts_of(recipe, data),
            ranks=ranks,
            on_epoch=after_epoch,
            on_restored=track,  # a killed training may have written a checkpoint before it told the trackers
            **options,
        )
        folder.first(lambda: _load_best(training.model, folder.path / "best.safetensors", history.best))
        ranks.same_(list(training.model.state_dict().values()))
        scores = _test_scores(recipe, training.model, data, ranks)
    result = _result(recipe, data, training.model, history, machine, ranks)
    result |= {"test": {score.weights: score.as_dict() for score in scores}, "seconds": history.seconds}
    if start is not None and recipe.first_stage:
        before = folder.first(lambda: RunResult.read(start.path))
        result["seconds"] += (before and before.seconds) or 0.0
    result["folder"] = str(folder)
    if ranks.writes:
        result["sha256"] = sha256_of(weight_file(folder.path))  # what the scores are about
    folder.write(RESULT_FILE, result)
    for tracker in tracked:
        tracker.end(result)
    return result


def _test_scores(recipe: Recipe, model: nn.Module, data: Dataset, ranks: Ranks) -> list[Score]:
    """The scores on the test split in each of `test_modes`, without label smoothing; each rank tests its share."""
    share = data.test[ranks.part(len(data.test))]

    def score(mode: str) -> Score | None:
        if not len(share) and ranks.world > 1:
            return None
        return evaluate(model, share, weights=mode, train=data.train, loss=recipe.loss, verbose=False)

    return [whole_score(ranks.gather(score(mode))) for mode in test_modes(model, draws=recipe.draws)]


def _result(
    recipe: Recipe, data: Dataset, model: nn.Module, history: History, machine: Machine, ranks: Ranks
) -> dict[str, Any]:
    """The part of result.json about the training."""
    best, mean_iou, size = history.best, history.best.validation_mean_iou, history.size
    assert size is not None  # `fit` has noted it
    chosen_by = "last epoch" if best.validation_error is None else "validation error"
    return {
        "recipe": recipe.name,
        "dataset": recipe.dataset,
        "note": data.note,
        "classes": list(data.classes),
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "last_epoch": history.rows[-1].epoch,
        "chosen_epoch": best.epoch,
        "chosen_by": chosen_by if mean_iou is None else "validation mean IoU",
        "validation_error": best.validation_error,
        **({} if mean_iou is None else {"validation_mean_iou": mean_iou}),
        "parameters": sum(p.numel() for p in model.parameters()),
        "binary_weights": size.binary,
        "weights": size.weights,
        "packed_bytes": size.bytes,
        "precision": machine.precision,
        "threads": history.threads or machine.threads,
        "processes": ranks.world,
        "batch_per_process": -(-recipe.batch_size // ranks.world),
        "device": str(machine.device),
        "torch": torch.__version__,
    }


def _load_best(model: nn.Module, path: Path, best: EpochLog) -> None:
    """Load the weights of the best epoch by validation; without validation the last weights stay."""
    if best.validation_loss is None:
        return
    state, facts = read_weights(path)
    if not is_of_epoch(facts, best):
        raise CheckpointError(f"{path}: got epoch {facts.get('epoch')}, but the training chose epoch {best.epoch}")
    load_weights(model, state, source=str(path))


def test_modes(model: nn.Module, *, draws: int) -> list[str]:
    """The test modes of a finished training, first that of the packed net.

    Latents that are ±1 are no separate mode. A Bayesian net, whose latents are the parameters of a distribution, is
    tested with its most probable weights (the packed signs), their mean, and an ensemble of `draws` samples.
    """
    layers = [layer for _, layer in binary_layers(model)]
    quantizers = [layer.weight_quantizer for layer in layers]
    if not quantizers:
        return ["real"]
    if all(hasattr(quantizer, "mean") for quantizer in quantizers):
        return ["binary", "mean", *([f"ensemble:{draws}"] if draws else [])]
    random = any(quantizer is not None and quantizer.random for quantizer in quantizers)
    if not random and all(torch.equal(x.latent(), x.binary_weight().signs) for x in layers):
        return ["binary"]
    return ["binary", "latent", *(["sample"] if random else [])]
