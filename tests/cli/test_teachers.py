"""Teachers, two stages, trackers and what evaluation tells of confidence, on the command line."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from onebit.data import load_dataset
from support.command_line import SMALL, Onebit, Outcome

SHORT = ["--epochs", "0.2", "--method", "bnn"]


def train(onebit: Onebit, folder: Path, *flags: object) -> Outcome:
    return onebit("train", "digits-smoke", *SMALL, *SHORT, "--out", folder, "--json", *flags)


@pytest.mark.parametrize("teacher", ["a run", "mnist-mlp"])
def test_a_run_resumes_with_its_teacher(onebit: Onebit, tmp_path: Path, real_folder: Path, teacher: str) -> None:
    teacher = str(real_folder) if teacher == "a run" else teacher
    taught = train(onebit, tmp_path / "run", "--teacher", teacher, "--teacher_weight", "0.5")
    alone = train(onebit, tmp_path / "alone").json
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert (recipe["teacher"], recipe["teacher_weight"]) == (teacher, 0.5)
    assert taught.json["test"]["binary"]["loss"] != alone["test"]["binary"]["loss"]
    assert onebit("train", "--resume", tmp_path / "run").status == 0


def test_a_teacher_has_the_pixels_and_the_classes_of_the_student(onebit: Onebit, tmp_path: Path) -> None:
    """Labels in another order would teach a wrong net."""
    train(onebit, tmp_path / "teacher", "--permutation", "1")
    taught = ["--teacher", tmp_path / "teacher"]
    assert train(onebit, tmp_path / "same", *taught, "--permutation", "1").status == 0
    assert "permutation" in train(onebit, tmp_path / "other", *taught).line
    assert "permutation" in train(onebit, tmp_path / "other", *taught, "--permutation", "2").line
    sample = load_dataset("mnist-sample").train
    arrays = {"train_images": sample.images[:600], "train_labels": 9 - sample.labels[:600]}
    arrays |= {"test_images": sample.images[:50], "test_labels": 9 - sample.labels[:50], "classes": [*"jihgfedcba"]}
    np.savez(tmp_path / "reversed.npz", **arrays)
    flags = ["--dataset", "arrays", "--data", tmp_path / "reversed.npz", "--validation", "100"]
    refused = train(onebit, tmp_path / "run", *flags, "--teacher", "mnist-mlp")
    assert (refused.status, "classes" in refused.line) == (2, True)
    assert not (tmp_path / "run").exists()


def test_a_warning_of_training_is_a_line_of_talk_and_of_the_log(onebit: Onebit, tmp_path: Path) -> None:
    flags = ["--optimizer.latent_clip", "null", "--optimizer.lr", "1"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        done = train(onebit, tmp_path / "run", *flags)
    (line,) = [line for line in done.err.splitlines() if "latents are beyond" in line]
    assert line.startswith("note: epoch 1")
    assert line in (tmp_path / "run" / "log.txt").read_text().splitlines()


def test_evaluation_tells_entropy_and_calibration(onebit: Onebit, run_folder: Path, packed_file: Path) -> None:
    found: dict[str, Any] = {}
    for mode in ("binary", "packed", "latent", "ensemble:2"):
        found[mode] = onebit("evaluate", run_folder, "--weights", mode, "--json").json
        assert 0 < found[mode]["entropy"] < math.log(10)
        assert 0 < found[mode]["ece"] < 1
        assert "gaps" not in found[mode]
    for key in ("entropy", "ece"):
        assert found["packed"][key] == pytest.approx(found["binary"][key], rel=1e-3)
    said = onebit("evaluate", packed_file)
    assert f"entropy {found['packed']['entropy']:.4f} nats, calibration error " in said.out
    result = json.loads((run_folder / "result.json").read_text())
    assert result["test"]["binary"]["ece"] == pytest.approx(found["binary"]["ece"])
