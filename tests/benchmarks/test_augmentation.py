"""`python -m benchmarks augmentation` times batches that are the same."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import augmentation
from benchmarks.__main__ import main
from benchmarks.augmentation import (
    LOOP,
    augmentation_speed,
    change_with_numpy,
    change_with_pillow,
    measure,
    one_by_one,
)
from onebit.data import Augmentation, TrainingImages
from onebit.errors import OnebitError, UsageError


def test_the_loops_make_the_batches_of_training() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    chosen, asked = np.array([3, 19, 3, 0, 7]), Augmentation(2, True)
    whole = TrainingImages(images, asked, channels_last=True).batch(chosen, np.random.default_rng(1))
    for given, change in ((images, change_with_numpy), (images.transpose(0, 2, 3, 1), change_with_pillow)):
        loop = one_by_one(np.ascontiguousarray(given), asked, change)(chosen, np.random.default_rng(1))
        np.testing.assert_array_equal(loop, whole)


def test_every_variant_is_timed() -> None:
    told: list[tuple[int, int]] = []
    result = measure(rounds=2, batch=10, seconds=0.01, count=100, on_round=lambda *news: told.append(news))
    rows = {row["variant"]: row for row in result["rows"]}
    assert rows[LOOP]["ratio"] == 1
    assert len(rows) == 5
    assert all(0 < row["images_per_second"] <= row["fastest"] for row in rows.values())
    assert told == [(1, 2), (2, 2)]
    assert json.dumps(result)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["augmentation", "--rounds", "1", "--seconds", "0.001", "--batch", "5", "--count", "50"]) == 0
    assert "whole batches, channels_last" in capsys.readouterr().out
    assert main(["augmentation", "--rounds", "0"]) == 2


def test_speed_counts_images() -> None:
    made: list[int] = []

    def batch(indices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        made.append(len(indices))
        return np.zeros((len(indices), 1, 1, 1), np.uint8)

    assert 0 < augmentation_speed(batch, 50, batch_size=7, seconds=0.01) <= sum(made) / 0.01
    assert set(made) == {7}


def test_variants_that_differ_and_wrong_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="batch at most 20"):
        measure(batch=30, count=20)
    monkeypatch.setattr(augmentation, "change_with_numpy", lambda image, *drawn: image)
    with pytest.raises(OnebitError, match="one by one, numpy: returns other batches than one by one, Pillow"):
        measure(rounds=1, batch=5, seconds=0.001, count=20)
