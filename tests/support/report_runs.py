"""Made-up run folders, and what every picture must be."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from onebit.models.settings import Mlp
from onebit.recipe import Recipe
from onebit.report.run_folders import Group, RunResults
from onebit.runs.result import Cell
from onebit.train.history import EpochLog, History

RECIPE = Recipe(name="tiny", model=Mlp(widths=(4, 6, 10)), epochs=3)


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


def history_group(rows: list[EpochLog], *, label: str = "", seeds: int = 1) -> Group[RunResults]:
    """Runs with the same epochs, as one curve."""
    return Group(label, (RunResults("", {}, History(rows)),) * seeds)


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
        result |= {"binary_weights": 2200, "weights": 10_000, "packed_bytes": 34_567}
        (folder / "result.json").write_text(json.dumps(result))
    if weights:
        rng = np.random.default_rng(0)
        state = {f"linear{i}.weight": rng.uniform(-1, 1, (6, 4)).astype(np.float32) for i in (1, 2)}
        state["norm1.weight"] = np.ones(6, np.float32)
        save_file(
            state, folder / "best.safetensors", metadata={"onebit": json.dumps({"epoch": 3, "latents": [*state][:2]})}
        )
    return folder


def task_cells(learned: Mapping[str, Sequence[Sequence[float]]], *, bn: str = "trained") -> list[Cell]:
    """The cells of methods with these accuracies on the tasks seen, after each task, on 100 images each."""
    return [
        Cell(method, task, seen, "binary", bn, round(100 * accuracy), 100, 0.5)
        for method, rows in learned.items()
        for task, row in enumerate(rows, start=1)
        for seen, accuracy in enumerate(row, start=1)
    ]


def write_tasks(folder: Path, cells: Sequence[Cell], *, tasks: int, recipe: Recipe | None = None) -> Path:
    """A folder of several tasks as `onebit train` writes it, without the runs in it."""
    folder.mkdir(parents=True)
    values = {"tasks": tasks, "cells": [asdict(cell) for cell in cells], "seconds": 12.5, "parameters": 2176}
    (folder / "continual.json").write_text(json.dumps(values))
    if recipe is not None:
        (folder / "recipe.yaml").write_text(recipe.to_yaml())
    return folder


def page_text(folder: Path) -> str:
    """What a reader sees of the page, tags replaced by blanks."""
    page = (folder / "index.html").read_text(encoding="utf-8")
    body = re.sub(r'src="data:[^"]*"', "", page.partition("<body>")[2])
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))


def check_picture(path: Path) -> tuple[int, int]:
    """The file is a whole PNG with ink of several colors on white; returns its size in pixels."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    ink = (pixels != 255).any(axis=2).mean()
    assert 0.005 < ink < 0.9
    assert len(np.unique(pixels.astype(np.int32) @ [1, 256, 65536])) > 10
    return pixels.shape[1], pixels.shape[0]
