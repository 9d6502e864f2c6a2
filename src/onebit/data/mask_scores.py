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


def pixel_scores(confusion: npt.ArrayLike) -> dict[str, Any]:
    """Accuracy, IoU and Dice in 0–1 from counts over all pixels, as a result stores them.

    With n_kk correctly predicted pixels of class k, t_k pixels of the true class k and p_k predicted ones:
    IoU_k = n_kk/(t_k + p_k − n_kk) (Jaccard), Dice_k = 2·n_kk/(t_k + p_k). A class that occurs in neither truth nor
    prediction has None, and does not count in the means.

    Args:
        confusion: (K, K), see `confusion_matrix`.

    Example:
        >>> pixel_scores([[3, 1], [1, 3]])["mean_iou"]
        0.6
    """
    counts = np.asarray(confusion, np.int64)
    correct, total = np.diagonal(counts), counts.sum(axis=0) + counts.sum(axis=1)
    occurs = total > 0
    with np.errstate(invalid="ignore"):
        iou, dice = correct / (total - correct), 2 * correct / total
        accuracy = float(correct.sum() / counts.sum())
    return {
        "accuracy": accuracy,
        "mean_iou": float(iou[occurs].mean()) if occurs.any() else math.nan,
        "dice": float(dice[occurs].mean()) if occurs.any() else math.nan,
        "class_iou": [None if math.isnan(value) else value for value in iou.tolist()],  # JSON has no NaN
        "class_dice": [None if math.isnan(value) else value for value in dice.tolist()],
        "confusion": counts.tolist(),
    }
