"""A training on disk: the run folder, its result, and opening it again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onebit.data import Dataset, Progress, load_dataset
from onebit.errors import CheckpointError, FormatError, UsageError
from onebit.evaluation import evaluate
from onebit.files import write_atomic
from onebit.layers import binary_layers
from onebit.precision import resolve_precision
from onebit.recipe import Recipe, build_recipe, check_keys, read_settings, recipe_path
from onebit.train.build import Training, build_model, build_training, resolve_device
from onebit.train.checkpoint import load_weights, read_torch_file, read_weights, strip_prefixes
from onebit.train.history import WEIGHT_FILES, EpochLog, History, refuse_used
from onebit.train.loop import fit


def load_recipe_data(
    recipe: Recipe, *, directory: str | Path | None = None, progress: Progress | None = None
) -> Dataset:
    """The data of a recipe, split as it says."""
    return load_dataset(
        recipe.dataset,
        validation=recipe.validation,
        split_seed=recipe.split_seed,
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
    if refuse_used(folder, resume=resume) and (folder / "recipe.yaml").exists():
        before = build_recipe(read_settings(folder / "recipe.yaml"))
        changed = recipe.changed_from(before)
        if changed:
            name, was, now = changed[0]
            raise CheckpointError(
                f"{folder}: was trained with {name} = {was!r}, now it is {now!r}; "
                "resume with the same recipe or choose another --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "recipe.yaml", recipe.to_yaml().encode())
    return (folder / "last.ckpt").exists()


def fit_recipe(recipe: Recipe, training: Training, data: Dataset, **files_and_talk: Any) -> History:
    """`fit` with the settings of a recipe and what `build_training` made of it.

    Args:
        files_and_talk: `folder`, `resume`, `facts`, `on_step`, `on_epoch` of `fit`.
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
        augmentation=training.augmentation,
        **files_and_talk,
    )


def train_run(
    recipe: Recipe,
    data: Dataset,
    folder: Path,
    *,
    resume: bool = False,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
) -> dict[str, Any]:
    """Train a recipe into a folder made by `start_folder`, evaluate the chosen weights, write result.json.

    Returns:
        What stands in result.json; `test` maps each test mode to its counts on the test split.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    training = build_training(recipe, data)
    history = fit_recipe(
        recipe,
        training,
        data,
        folder=folder,
        resume=resume,
        facts={"recipe": asdict(recipe)},
        on_step=on_step,
        on_epoch=on_epoch,
    )
    model = training.model
    if (folder / "best.safetensors").exists():
        load_weights(model, read_weights(folder / "best.safetensors")[0], source=str(folder / "best.safetensors"))
    scores = [
        evaluate(model, data.test, weights=mode, train=data.train, loss=training.loss) for mode in test_modes(model)
    ]
    device = resolve_device(recipe.device)
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
        "device": str(device),
        "torch": torch.__version__,
        "folder": str(folder),
    }
    write_atomic(folder / "result.json", (json.dumps(result, indent=2) + "\n").encode())
    return result


def test_modes(model: nn.Module) -> list[str]:
    """The test modes in which a finished training is reported: what ships first."""
    layers = [layer for _, layer in binary_layers(model)]
    if not layers:
        return ["real"]
    random = any(layer.weight_quantizer is not None and layer.weight_quantizer.random for layer in layers)
    return ["binary", "latent", *(["sample"] if random else [])]


@dataclass(frozen=True)
class Run:
    """A trained net opened from a run folder or a weight file.

    source: the weight file; sha256: of its bytes; facts: what was stored beside the weights (epoch, validation error).
    """

    recipe: Recipe
    model: nn.Module
    source: Path
    facts: dict[str, Any]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source.read_bytes()).hexdigest()


def weight_file(path: Path) -> Path:
    """The weight file of a run folder, or the file itself.

    Raises:
        UsageError: nothing there, or a folder without weights.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such run folder or file")
    if path.is_file():
        return path
    for name in (*WEIGHT_FILES, "last.ckpt"):
        if (path / name).is_file():
            return path / name
    raise UsageError(f"{path}: holds no weights ({', '.join(WEIGHT_FILES)}); is it a run folder?")


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state_dict, facts) of any weight file: safetensors, a plain torch file, or a training checkpoint.

    A torch file may hold the state_dict itself or under "state_dict", "model_state_dict" or "model"; wrapper prefixes
    are dropped. Facts are what stands beside it: epoch, accuracy, recipe.

    Raises:
        FormatError: unreadable, damaged, or without tensors.
    """
    with path.open("rb") as file:
        is_zip_or_pickle = file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    if not is_zip_or_pickle:
        state, facts = read_weights(path)
    else:
        held = read_torch_file(path)
        facts = {}
        if isinstance(held, dict):
            inner = next(
                (held[k] for k in ("state_dict", "model_state_dict", "model") if isinstance(held.get(k), dict)), None
            )
            if inner is not None:
                facts = {k: v for k, v in held.items() if isinstance(v, (str, int, float, bool))}
                facts |= _checkpoint_facts(held)
                held = inner
        state = {k: v for k, v in held.items() if isinstance(v, Tensor)} if isinstance(held, dict) else {}
    if not state or not all(isinstance(name, str) for name in state):
        raise FormatError(f"{path}: holds no tensors by name")
    odd = next((n for n, t in state.items() if t.layout != torch.strided or t.is_quantized or 0 in t.shape), None)
    if odd is not None:
        raise FormatError(f"{path}: tensor {odd!r} is sparse, quantized or empty; weights are plain dense tensors")
    return strip_prefixes(state), facts


def _checkpoint_facts(held: dict[str, Any]) -> dict[str, Any]:
    rows = held.get("rows")
    if not isinstance(rows, list) or not rows or not isinstance(rows[-1], dict):
        return {}
    return {"epoch": rows[-1].get("epoch"), "validation_error": rows[-1].get("validation_error")}


def open_run(path: str | Path, *, recipe: str | None = None) -> Run:
    """A trained net from a run folder or a weight file, on the CPU in eval mode.

    Args:
        recipe: name or file, for a weight file that neither carries its recipe nor lies in a run folder.

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
    else:
        raise UsageError(f"{source}: the net is not known: it carries no recipe; name one with --recipe")
    built = build_recipe(settings)
    model = build_model(built.model)
    load_weights(model, state, source=str(source))
    return Run(built, model.eval(), source, facts)
