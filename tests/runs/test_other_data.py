"""Data that changed since a training: it does not go on with them, and what evaluates them says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onebit.data import Dataset, Split, load_dataset
from onebit.errors import CheckpointError, UsageError
from onebit.recipe import Recipe, build_recipe, merge
from onebit.runs import opening
from onebit.runs.continual import train_continual
from onebit.runs.folder import RunFolder
from onebit.runs.opening import OTHER_FILES, load_run_data, open_run
from onebit.runs.run import train_run
from support.image_folders import masked_folder
from support.toy_training import TOY, Stop, stop_after_epoch, toy_data

OWN: Dataset = replace(toy_data(), name="own", directory="somewhere")
OTHER_LABELS = "other images or labels"


def relabeled(split: Split) -> Split:
    return Split(split.images, (split.labels + 1) % 4)


OTHER = replace(OWN, train=relabeled(OWN.train))
OTHER_TEST = replace(OWN, test=relabeled(OWN.test))


def recipe(**settings: Any) -> Recipe:
    return build_recipe(merge(TOY, {"dataset": "own", "precision": "fp32", **settings}))


def train(folder: Path, asked: Recipe, data: Dataset = OWN, *, resume: bool = False, **options: Any) -> dict[str, Any]:
    run = RunFolder(folder, resume=resume)
    run.start(asked)
    return train_run(asked, data, run, **options)


def test_a_finished_first_stage_is_of_the_same_data(tmp_path: Path) -> None:
    asked = recipe(first_stage=1)
    with pytest.raises(Stop):
        train(tmp_path, asked, on_epoch=stop_after_epoch(2))  # the second stage counts from 1 again
    (tmp_path / "last.ckpt").unlink()  # the second stage has not begun
    with pytest.raises(CheckpointError, match=OTHER_LABELS):
        train(tmp_path, asked, OTHER, resume=True)
    train(tmp_path, asked, resume=True)


def test_finished_tasks_are_of_the_same_data(tmp_path: Path) -> None:
    asked = recipe(continual={"tasks": 2}, epochs=1)
    train_continual(asked, OWN, RunFolder(tmp_path))
    with pytest.raises(CheckpointError, match=OTHER_LABELS):
        train_continual(asked, OTHER, RunFolder(tmp_path, resume=True))
    (tmp_path / "continual.json").unlink()
    with pytest.raises(CheckpointError, match=OTHER_LABELS):
        train_continual(asked, OTHER, RunFolder(tmp_path, resume=True))
    train_continual(asked, OWN, RunFolder(tmp_path, resume=True))


def test_other_test_labels_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, recipe())
    with pytest.raises(CheckpointError, match=OTHER_LABELS):
        train(tmp_path, recipe(), OTHER_TEST, resume=True)
    for data, note in ((OWN, False), (OTHER_TEST, True), (OTHER, True)):
        monkeypatch.setattr(opening, "load_recipe_data", lambda *_, data=data, **__: data)
        assert (OTHER_FILES in load_run_data(open_run(tmp_path)).note) == note


def test_files_that_are_split_in_another_way_are_the_same_files(tmp_path: Path) -> None:
    images, test = toy_data(validation=0).train, toy_data().test
    for name, labels in (("own", images.labels), ("other", (images.labels + 1) % 4)):
        parts = {"train_images": images.images, "train_labels": labels}
        np.savez(tmp_path / f"{name}.npz", **parts, test_images=test.images, test_labels=test.labels)
    data = load_dataset("own", directory=tmp_path / "own.npz", validation=20, split_seed=1)
    train(tmp_path / "run", recipe(), data)
    run = open_run(tmp_path / "run")
    for name, other in (("own", False), ("other", True)):
        again = load_run_data(run, directory=tmp_path / f"{name}.npz")
        assert len(again.validation) != 20
        assert (OTHER_FILES in again.note) == other


def test_masks_without_names_are_those_of_a_run_of_two_classes(tmp_path: Path) -> None:
    masked_folder(tmp_path / "masks", 3)
    trained = train(tmp_path / "run", recipe(epochs=0.25)) and open_run(tmp_path / "run")
    named = replace(trained, facts={**trained.facts, "classes": ["membrane", "cell"]})
    data = load_run_data(named, dataset="segmentation", directory=str(tmp_path / "masks"))
    assert data.classes == ("membrane", "cell")
    assert "without classes.txt, the masks mean: 0 is membrane, 255 is cell" in data.note
    with pytest.raises(UsageError, match="was trained on the classes"):
        load_run_data(trained, dataset="segmentation", directory=str(tmp_path / "masks"))
