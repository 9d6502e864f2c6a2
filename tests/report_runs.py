"""Made-up run folders, and what every picture must be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from onebit.recipe import ModelRecipe, Recipe
from onebit.train.history import EpochLog, History

RECIPE = Recipe(name="tiny", model=ModelRecipe(widths=(4, 6, 10)), epochs=3)


def row(epoch: int, **changes: Any) -> EpochLog:
    """One line of metrics.jsonl."""
    values: dict[str, Any] = {
        "epoch": epoch,
        "epochs": 3,
        "step": 10 * epoch,
        "train_loss": 1.0 / epoch,
        "train_error": 0.2 / epoch,
        "validation_loss": 0.9 / epoch,
        "validation_error": 0.1 / epoch,
        "validation_weights": "binary",
        "lr": 1e-3,
        "seconds": 2.0,
        "images_per_second": 1000.0,
        "flip_ratio": 0.1,
        "saturation": 0.05,
    }
    return EpochLog(**(values | changes))


def make_run(
    folder: Path,
    *,
    recipe: Recipe | None = RECIPE,
    rows: list[EpochLog] | None = None,
    accuracy: float | None = 0.98,
    weights: bool = False,
) -> Path:
    """A run folder as `onebit train` writes it."""
    folder.mkdir(parents=True)
    history = History([row(epoch) for epoch in (1, 2, 3)] if rows is None else rows)
    (folder / "metrics.jsonl").write_text(history.to_jsonl())
    if recipe is not None:
        (folder / "recipe.yaml").write_text(recipe.to_yaml())
    if accuracy is not None:
        score = {"accuracy": accuracy, "error": 1 - accuracy, "correct": round(accuracy * 1000), "count": 1000}
        latent = score | {"accuracy": accuracy - 0.1, "bn": "reestimate"}
        result = {"test": {"binary": score, "latent": latent}, "seconds": 7.5, "parameters": 12345}
        (folder / "result.json").write_text(json.dumps(result))
    if weights:
        rng = np.random.default_rng(0)
        state = {f"linear{i}.weight": rng.uniform(-1, 1, (6, 4)).astype(np.float32) for i in (1, 2)}
        state["norm1.weight"] = np.ones(6, np.float32)
        save_file(state, folder / "best.safetensors", metadata={"onebit": '{"epoch": 3}'})
    return folder


def check_picture(path: Path) -> tuple[int, int]:
    """The file is a whole PNG with ink of several colours on white; returns its size in pixels."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    ink = (pixels != 255).any(axis=2).mean()
    assert 0.005 < ink < 0.9
    assert len(np.unique(pixels.astype(np.int32) @ [1, 256, 65536])) > 10
    return pixels.shape[1], pixels.shape[0]
