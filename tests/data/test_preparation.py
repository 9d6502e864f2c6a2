"""Whitening: fitted on the training images, the same for all splits, not supported by packed nets. Permuted pixels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from onebit.__main__ import main
from onebit.data import Dataset, load_dataset, permute_pixels, whiten
from onebit.data.preparation import fit_zca, normalized
from onebit.errors import UsageError


@pytest.fixture(scope="module")
def toy() -> Dataset:
    data = load_dataset("toy")
    return dataclasses.replace(data, train=data.train[:500])


def test_the_covariance_is_white_where_there_is_variance(toy: Dataset) -> None:
    mean, matrix = fit_zca(toy.train.images)
    flat = normalized(toy.train.images).astype(np.float64)
    assert np.abs(flat.mean(axis=1)).max() < 1e-6
    assert flat.std(axis=1) == pytest.approx(1, abs=1e-5)
    eigenvalues, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    white = (flat - mean) @ matrix
    assert np.abs(white.mean(axis=0)).max() < 1e-4
    found = vectors.T @ np.cov(white.T, bias=True) @ vectors
    assert np.diag(found) == pytest.approx(eigenvalues.clip(0) / (eigenvalues.clip(0) + 0.1), abs=1e-4)
    assert np.abs(found - np.diag(np.diag(found))).max() < 1e-4
    assert np.array_equal(matrix, matrix.T) or np.abs(matrix - matrix.T).max() < 1e-5


def test_all_splits_are_whitened_with_the_training_statistics(toy: Dataset) -> None:
    white = whiten(toy)
    mean, matrix = fit_zca(toy.train.images)
    expected = (normalized(toy.test.images) - mean) @ matrix
    found = (white.test.images.reshape(len(toy.test), -1).astype(np.float32) - 128) / 32
    inside = np.abs(expected) < 3.9
    assert np.abs(found - expected)[inside].max() <= 0.5 / 32 + 1e-5
    assert inside.mean() > 0.99
    assert white.note == "generated data; contrast normalized and ZCA whitened"
    fewer = dataclasses.replace(toy, test=toy.test[:7], validation=toy.validation[:0])
    assert np.array_equal(whiten(fewer).test.images, white.test.images[:7])
    assert np.array_equal(white.train.labels, toy.train.labels)


def test_uniform_images_give_finite_values() -> None:
    assert not normalized(np.full((2, 1, 2, 2), 9, np.uint8)).any()


def test_a_whitened_net_trains_and_is_evaluated_but_not_packed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, flags = str(tmp_path / "run"), ["--model.widths", "[64,16,4]", "--epochs", "0.2", "--threads", "1"]
    assert main(["train", "--dataset", "toy", "--whitening", "zca", *flags, "--out", run]) == 0
    assert "ZCA whitened" in capsys.readouterr().err
    assert main(["evaluate", run]) == 0
    capsys.readouterr()
    monkeypatch.setattr("onebit.runs.opening.load_run_data", None)  # refused before data are read
    pack, export = ["pack", run, "-o", str(tmp_path / "net.1bit")], ["export", run, "--to", "torch", "-o"]
    for verb in (pack, ["verify", run], [*export, str(tmp_path / "net.pth")]):
        assert main(verb) == 2
        assert "whitened" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert main(["train", "--dataset", "toy", "--whitening", "zca", "--augmentation.cutout", "2"]) == 2
    assert "cutout" in capsys.readouterr().err


def colors() -> Dataset:
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 5, 4), dtype=np.uint8)
    labels = np.arange(12) % 3
    return Dataset.from_arrays((images[:8], labels[:8]), (images[8:], labels[8:]), validation=2)


def test_every_image_has_its_pixels_in_the_same_new_order() -> None:
    data = colors()
    permuted = permute_pixels(data, 7)
    order = np.random.default_rng(7).permutation(20)
    for part in ("train", "validation", "test"):
        was, now = getattr(data, part), getattr(permuted, part)
        assert np.array_equal(now.labels, was.labels)
        for i in range(len(was)):
            for channel in range(3):
                assert np.array_equal(now.images[i, channel].ravel(), was.images[i, channel].ravel()[order])
    assert permuted.note == "pixels permuted with seed 7"


def test_masks_are_refused() -> None:
    masks = np.zeros((12, 5, 4), np.uint8)
    images = colors().train.images
    data = Dataset.from_arrays((images, masks[:6]), (images, masks[:6]), classes=("a", "b"))
    with pytest.raises(UsageError, match="masks"):
        permute_pixels(data, 1)
