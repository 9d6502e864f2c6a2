"""Masks, a class for each pixel, and scores of predicted masks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onebit.errors import UsageError

Masks = npt.NDArray[np.uint8]
"""(N, H, W), class numbers 0, 1, … or `VOID`."""
VOID = 255
"""The value of a pixel without a class: training and scores ignore it."""


def check_mask_classes(classes: int) -> None:
    """UsageError if `VOID` is the number of a class."""
    if classes > VOID:
        raise UsageError(f"masks of {classes} classes: expected at most {VOID}; {VOID} is for pixels without one")


class PixelScore(NamedTuple):
    """Scores in 0–1 from a confusion matrix; NaN for a class that occurs in neither truth nor prediction.

    accuracy: share of correct pixels. iou, dice: for each class. mean_iou, mean_dice: over the classes that occur.
    """

    accuracy: float
    iou: tuple[float, ...]
    dice: tuple[float, ...]
    mean_iou: float
    mean_dice: float


def confusion_matrix(truth: npt.ArrayLike, predicted: npt.ArrayLike, *, classes: int) -> npt.NDArray[np.int64]:
    """Count pixels, with a row for each true class and a column for each predicted class; `VOID` pixels are ignored.

    Args:
        truth, predicted: class numbers, arrays of the same shape.
        classes: number of classes.
    """
    truth, predicted = np.ravel(truth).astype(np.int64), np.ravel(predicted).astype(np.int64)
    known = truth < classes
    pairs = truth[known] * classes + predicted[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def is_counted(labels: npt.NDArray) -> bool:
    """Whether there is anything to score: a label, or a mask pixel that is not `VOID`."""
    return bool((labels != VOID).any()) if labels.ndim > 1 else len(labels) > 0


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


def mask_facts(confusion: npt.ArrayLike) -> dict[str, Any]:
    """The scores of masks in a result, besides the accuracy; None for a class that does not occur."""
    score = pixel_score(confusion)
    return {
        "mean_iou": score.mean_iou,
        "dice": score.mean_dice,
        "class_iou": [None if math.isnan(value) else value for value in score.iou],  # JSON has no NaN
        "class_dice": [None if math.isnan(value) else value for value in score.dice],
        "confusion": np.asarray(confusion).tolist(),
    }


def pixel_score(confusion: npt.ArrayLike) -> PixelScore:
    """Accuracy, IoU and Dice from counts over all pixels.

    With n_kk correctly predicted pixels of class k, t_k pixels of the true class k and p_k predicted ones:
    IoU_k = n_kk/(t_k + p_k − n_kk) (Jaccard), Dice_k = 2·n_kk/(t_k + p_k).

    Args:
        confusion: (K, K), see `confusion_matrix`.

    Example:
        >>> pixel_score([[3, 1], [1, 3]]).mean_iou
        0.6
    """
    counts = np.asarray(confusion, np.int64)
    correct, total = np.diagonal(counts), counts.sum(axis=0) + counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        iou, dice = correct / (total - correct), 2 * correct / total
    occurs = total > 0
    mean_iou, mean_dice = (float(values[occurs].mean()) if occurs.any() else np.nan for values in (iou, dice))
    accuracy = float(correct.sum() / counts.sum()) if counts.any() else np.nan
    return PixelScore(accuracy, tuple(iou.tolist()), tuple(dice.tolist()), mean_iou, mean_dice)
