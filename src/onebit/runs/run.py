"""A training on disk: the run folder, its result, and opening it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onebit.common.files import write_atomic
from onebit.data import DATASETS, Dataset, Progress, load_dataset, permute_pixels, whiten
from onebit.errors import CheckpointError, UsageError
from onebit.evaluation.modes import evaluate
from onebit.evaluation.precision import resolve_precision
from onebit.evaluation.scores import whole_score
from onebit.layers import BinaryLayer, binary_layers
from onebit.recipe import Recipe, build_recipe, check_keys, read_settings, recipe_path, shrink_warmup
from onebit.recipe.bounded import checked_tree
from onebit.runs.model import Training, build_model, build_training, resolve_device
from onebit.runs.trackers import open_trackers
from onebit.train.batch_log import BatchWatch
from onebit.train.distillation import Teacher, refuse_teacher
from onebit.train.history import STAGE_FOLDER, EpochLog, History, read_seconds, refuse_used
from onebit.train.lock import lock_folder
from onebit.train.loop import fit
from onebit.train.ranks import ALONE, Ranks, rank_device
from onebit.train.weights import load_weights, read_state, read_weights, trained_file


def load_recipe_data(
    recipe: Recipe, *, directory: str | Path | None = None, progress: Progress | None = None
) -> Dataset:
    """The data of a recipe, split as it says.

    Raises:
        UsageError: whitened images with black borders.
    """
    if recipe.whitening is not None and recipe.augmentation.crop_padding:
        raise UsageError("whitening and augmentation.crop_padding: black borders are not whitened; leave one out")
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
    write_atomic(folder / "recipe.yaml", recipe.to_yaml().encode())
    return any((part / "last.ckpt").exists() for part in (folder, folder / STAGE_FOLDER))


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
        files_and_talk: `folder`, `resume`, `facts`, `ranks`, `on_step`, `on_epoch`, `verbose` of `fit`.
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
        teacher=open_teacher(recipe, data),
        compile=recipe.compile,
        sync_norm=recipe.sync_norm,
        **files_and_talk,
    )


def open_teacher(recipe: Recipe, data: Dataset) -> Teacher | None:
    """The teacher that a recipe names.

    Raises:
        UsageError: no trained net there, or one of other images or classes.
        FormatError, CheckpointError: damaged.
    """
    if recipe.teacher is None:
        return None
    run = open_run(recipe.teacher)
    refuse_teacher(run.input_shape, run.classes, data, name=recipe.teacher)
    return Teacher(run.model, recipe.teacher_weight, recipe.teacher_temperature)


def first_stage(recipe: Recipe) -> Recipe:
    """The recipe of the first of two stages: the same training with real weights; activations are as binary as ever.

    Activations first, then weights: Martinez et al. 2020, "Training binary neural networks with real-to-binary
    convolutions", arXiv:2003.11535, and ReActNet, arXiv:2003.03488.

    Raises:
        UsageError: there is no second stage with binary weights, or the optimizer moves such weights only.
    """
    if recipe.model.weight_quantizer is None:
        raise UsageError("first_stage trains real weights before binary ones: leave it out, all weights are real")
    if recipe.optimizer.name in ("bop", "bayesbinn"):
        raise UsageError(
            f"first_stage trains real weights, which {recipe.optimizer.name} cannot: leave it out, or train them with "
            "another recipe and name its run with --init_from"
        )
    real = replace(recipe.model, weight_quantizer=None, weight_options=None, value=1.0, init="default")
    optimizer = replace(recipe.optimizer, latent_clip=None, lr_scale=None, prox_strength=None, compile=False)
    stage = replace(
        recipe,
        name=f"{recipe.name}-stage1",
        summary=f"first stage of {recipe.name}: real weights",
        measured="",
        model=real,
        optimizer=optimizer,
        epochs=recipe.first_stage,
        first_stage=0.0,
    )
    return shrink_warmup(stage, epochs=recipe.epochs)


def train_run(recipe: Recipe, data: Dataset, folder: Path, *, resume: bool = False, **talk: Any) -> dict[str, Any]:
    """Train a recipe into a folder made by `start_folder`, in one stage or two.

    A first stage is a run of its own in `folder/stage1`; what it reached is where the second one starts.

    Args:
        talk: `ranks`, `trackers`, `on_step`, `on_epoch`, `on_model`, `batch_watch` of `train_stage`, for both stages.

    Returns:
        What stands in result.json; `test` maps each test mode to its counts on the test split.
    """
    if recipe.first_stage:
        ranks, stage, before = talk.get("ranks", ALONE), folder / STAGE_FOLDER, first_stage(recipe)
        with lock_folder(stage, ranks):
            ranks.first(lambda: start_folder(stage, before, resume=resume))
            if not ranks.first((stage / "result.json").exists):
                train_stage(before, data, stage, resume=resume, **talk)
        return train_stage(recipe, data, folder, resume=resume, start=stage, **talk)
    return train_stage(recipe, data, folder, resume=resume, **talk)


def train_stage(
    recipe: Recipe,
    data: Dataset,
    folder: Path,
    *,
    resume: bool = False,
    start: Path | None = None,
    ranks: Ranks = ALONE,
    trackers: Sequence[str] = (),
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
    batch_watch: BatchWatch | None = None,
    on_model: Callable[[nn.Module], None] | None = None,
) -> dict[str, Any]:
    """Train a recipe into a folder made by `start_folder`, evaluate the chosen weights, write result.json.

    Args:
        start: the run to start from instead of the recipe's `init_from`.
        trackers: names in `onebit.runs.trackers.TRACKERS`, which are told of every epoch as well.
        ranks: which process of several this is; all of them call this, each evaluates its share of the test split.
        on_step, on_epoch: see `fit`; on_model: called with the net before its first step.

    Returns:
        What stands in result.json; `test` maps each test mode to its counts on the test split.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    device = rank_device(resolve_device(recipe.device), ranks)
    origin = recipe if start is None else replace(recipe, init_from=str(start))
    training = build_training(origin, data, device=device, processes=ranks.world)
    if on_model is not None:
        on_model(training.model)
    tracked = open_trackers(trackers, recipe, folder, ranks=ranks)

    def epoch_done(row: EpochLog) -> None:
        for tracker in tracked:
            tracker.epoch(row)
        if on_epoch is not None:
            on_epoch(row)

    try:
        history = fit_recipe(
            recipe,
            training,
            data,
            folder=folder,
            resume=resume,
            facts={"recipe": asdict(recipe), "input_shape": data.input_shape, "classes": data.classes},
            ranks=ranks,
            on_step=on_step,
            on_epoch=epoch_done,
            batch_watch=batch_watch,
        )
    except BaseException:  # Ctrl-C too
        for tracker in tracked:
            tracker.stop()
        raise
    model = training.model
    ranks.first(lambda: _load_best(model, folder))
    ranks.same_(list(model.state_dict().values()))
    share = data.test[ranks.part(len(data.test))]
    scores = [
        whole_score(
            ranks.gather(
                evaluate(model, share, weights=mode, train=data.train, loss=training.loss, verbose=False)
                if len(share) or ranks.world == 1
                else None
            )
        )
        for mode in test_modes(model, draws=recipe.draws)
    ]
    result = {
        "recipe": recipe.name,
        "dataset": recipe.dataset,
        "note": data.note,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "chosen_epoch": history.best.epoch,
        "chosen_by": _chosen_by(history),
        "validation_error": history.best.validation_error,
        **(
            {}
            if history.best.validation_mean_iou is None
            else {"validation_mean_iou": history.best.validation_mean_iou}
        ),
        "test": {score.weights: score.as_dict() for score in scores},
        "seconds": history.seconds + (0 if start is None else read_seconds(start)),
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
    for tracker in tracked:
        tracker.end(result)
    return result


def _chosen_by(history: History) -> str:
    """What chose the reported epoch."""
    if history.best.validation_mean_iou is not None:
        return "validation mean IoU"
    return "validation error" if history.best.validation_error is not None else "last epoch"


def _load_best(model: nn.Module, folder: Path) -> None:
    """Load the weights that validation chose, where it did."""
    best = folder / "best.safetensors"
    if best.exists():
        load_weights(model, read_weights(best)[0], source=str(best))


def test_modes(model: nn.Module, *, draws: int) -> list[str]:
    """The test modes in which a finished training is reported: what ships first.

    Latents that are ±1 themselves, as those of Bop, are no mode of their own. A Bayesian net, whose latents are the
    parameters of a distribution, is reported with its most probable weights (the signs that ship), their mean, and an
    ensemble of so many `draws`.
    """
    quantizers = [layer.weight_quantizer for _, layer in binary_layers(model)]
    if not quantizers:
        return ["real"]
    if all(hasattr(quantizer, "mean") for quantizer in quantizers):
        return ["binary", "mean", *([f"ensemble:{draws}"] if draws else [])]
    random = any(quantizer is not None and quantizer.random for quantizer in quantizers)
    if not random and all(_is_its_sign(layer) for _, layer in binary_layers(model)):
        return ["binary"]
    return ["binary", "latent", *(["sample"] if random else [])]


def _is_its_sign(layer: BinaryLayer) -> bool:
    """Whether the latent weight of a layer holds the signs that ship of it."""
    return torch.equal(layer.outputs_first(layer.weight), layer.binary_weight().signs)


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
    source = trained_file(Path(path))
    state, facts = read_state(source)
    if recipe is not None:
        settings = read_settings(recipe_path(recipe))
    elif isinstance(facts.get("recipe"), dict):
        settings = facts["recipe"]
        check_keys(checked_tree(settings, where=f"{source}: "), Recipe, source=str(source))
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
