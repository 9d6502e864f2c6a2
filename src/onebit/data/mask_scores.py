"""Masks, a class for each pixel, and scores of predicted masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onebit.data.resizing import Integers
from onebit.errors import UsageError

Masks = npt.NDArray[np.uint8]
"""(N, H, W), class numbers 0, 1, … or `VOID`."""
VOID = 255
"""The value of a pixel without a class: training and scores ignore it."""


def check_mask_classes(classes: int) -> None:
    """UsageError if `VOID` is the number of a class."""
    if classes > VOID:
        raise UsageError(f"got masks of {classes} classes, expected at most {VOID}")


def confusion_matrix(truth: npt.ArrayLike, predicted: npt.ArrayLike, *, classes: int) -> Integers:
    """Count pixels, with a row for each true class and a column for each predicted class; `VOID` pixels are ignored.

    Args:
        truth, predicted: class numbers, arrays of the same shape.
        classes: number of classes.
    """
    truth, predicted = np.ravel(truth).astype(np.int64), np.ravel(predicted).astype(np.int64)
    known = truth < classes
    pairs = truth[known] * classes + predicted[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def known_labels(labels: npt.NDArray) -> npt.NDArray:
    """Labels as they are; of masks the pixels that are not `VOID`, (M,)."""
    return labels[labels != VOID] if labels.ndim > 1 else labels


def by_pixel(logits: npt.NDArray, labels: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray]:
    """Logits and labels with a row for each sample; for masks, each pixel that is not `VOID` is a sample.

    Args:
        logits: (N, K), or (N, K, h, w).
        labels: (N,), or masks (N, h, w).

    Returns:
        (M, K) and (M,).
    """
    if labels.ndim == 1:
        return logits, labels
    known = labels != VOID
    return np.moveaxis(logits, 1, -1)[known], labels[known]


def class_scores(confusion: npt.ArrayLike) -> dict[str, Any]:
    """Accuracy and F1 in 0–1 of all classes and of each, as a result stores them.

    With n_kk correct samples of class k, t_k samples of the true class k and p_k predicted ones: the accuracy of the
    class is n_kk/t_k (its recall), F1_k = 2·n_kk/(t_k + p_k). A class that occurs in neither truth nor prediction has
    None, and does not count in the mean `f1` (macro F1).

    Args:
        confusion: (K, K), see `confusion_matrix`.
    """
    counts = np.asarray(confusion, np.int64)
    correct, truth, total = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0) + counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        accuracy, f1 = correct / truth, 2 * correct / total
        overall = float(correct.sum() / counts.sum())
    return {
        "accuracy": overall,
        "f1": _mean(f1),
        "class_accuracy": _known_values(accuracy),
        "class_f1": _known_values(f1),
        "confusion": counts.tolist(),
    }


def pixel_scores(confusion: npt.ArrayLike) -> dict[str, Any]:
    """`class_scores` of pixels, with IoU_k = n_kk/(t_k + p_k − n_kk) (Jaccard); F1 is called Dice.

    Example:
        >>> pixel_scores([[3, 1], [1, 3]])["mean_iou"]
        0.6
    """
    scores, counts = class_scores(confusion), np.asarray(confusion, np.int64)
    correct = np.diagonal(counts)
    with np.errstate(invalid="ignore"):
        iou = correct / (counts.sum(axis=0) + counts.sum(axis=1) - correct)
    return {
        "accuracy": scores["accuracy"],
        "mean_iou": _mean(iou),
        "dice": scores["f1"],
        "class_iou": _known_values(iou),
        "class_dice": scores["class_f1"],
        "confusion": scores["confusion"],
    }


def _known_values(values: npt.NDArray) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]  # JSON has no NaN


def _mean(values: npt.NDArray) -> float:
    """The mean of those that are numbers."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
