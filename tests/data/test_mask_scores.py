"""Scores of predicted masks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix as sklearn_confusion, f1_score, jaccard_score

from onebit.data import VOID, by_pixel, confusion_matrix, known_labels, pixel_scores


def test_scores_equal_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (4, 9, 7))
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 3, truth.shape))
    counts = confusion_matrix(truth, predicted, classes=3)
    assert np.array_equal(counts, sklearn_confusion(truth.ravel(), predicted.ravel()))
    scores = pixel_scores(counts)
    both = truth.ravel(), predicted.ravel()
    assert scores["accuracy"] == pytest.approx((truth == predicted).mean())
    assert scores["class_iou"] == pytest.approx(jaccard_score(*both, average=None))
    assert scores["class_dice"] == pytest.approx(f1_score(*both, average=None))
    assert scores["mean_iou"] == pytest.approx(jaccard_score(*both, average="macro"))
    assert scores["dice"] == pytest.approx(f1_score(*both, average="macro"))
    assert scores["confusion"] == counts.tolist()


def test_void_pixels_and_classes_that_do_not_occur_do_not_count() -> None:
    counts = confusion_matrix([0, 0, VOID, 1], [0, 1, 1, 1], classes=3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    scores = pixel_scores(counts)
    assert scores["class_iou"] == [0.5, 0.5, None]  # which JSON has a word for
    assert scores["class_dice"] == pytest.approx([2 / 3, 2 / 3, None])
    assert (scores["mean_iou"], scores["dice"]) == (0.5, pytest.approx(2 / 3))
    assert np.isnan(pixel_scores(np.zeros((2, 2)))["mean_iou"])
    assert [len(known_labels(np.array(labels))) for labels in ([3], [], [[VOID, 0]], [[VOID, VOID]])] == [1, 0, 1, 0]


def test_each_pixel_is_a_sample() -> None:
    logits = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    labels = np.array([[[0, VOID], [1, 2]], [[VOID] * 2] * 2], np.uint8)
    rows, classes = by_pixel(logits, labels)
    assert rows.tolist() == [[0, 4, 8], [2, 6, 10], [3, 7, 11]]
    assert classes.tolist() == [0, 1, 2]
    assert by_pixel(logits, np.array([1, 2]))[0] is logits
