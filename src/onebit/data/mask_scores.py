"""Masks, a class for each pixel: what they hold, and how predicted ones are counted against true ones."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Masks = npt.NDArray[np.uint8]
"""(N, H, W), class numbers 0, 1, … or `VOID`."""
VOID = 255
"""A pixel of no class: it is neither trained on nor counted."""


class PixelScore(NamedTuple):
    """What a confusion matrix says, each a fraction 0–1; NaN for a class that neither truth nor prediction has.

    accuracy: right pixels of all. iou, dice: per class. mean_iou, mean_dice: over the classes that occur.
    """

    accuracy: float
    iou: tuple[float, ...]
    dice: tuple[float, ...]
    mean_iou: float
    mean_dice: float


def confusion_matrix(truth: npt.ArrayLike, predicted: npt.ArrayLike, *, classes: int) -> npt.NDArray[np.int64]:
    """Counts of pixels, a row for each true class, a column for each predicted one; `VOID` pixels are left out.

    Args:
        truth, predicted: class numbers, arrays of one shape.
        classes: how many there are.
    """
    truth, predicted = np.ravel(truth).astype(np.int64), np.ravel(predicted).astype(np.int64)
    known = truth < classes
    pairs = truth[known] * classes + predicted[known]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def is_counted(labels: npt.NDArray) -> bool:
    """Whether there is anything to count: labels, or a pixel of a mask that is not `VOID`."""
    return bool((labels != VOID).any()) if labels.ndim > 1 else len(labels) > 0


def by_pixel(logits: npt.NDArray, labels: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray]:
    """Logits and labels with a row a sample: of masks each pixel is one, but those that are `VOID`.

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
    """What a result says of predicted masks beside its accuracy; None for a class that never occurs."""
    score = pixel_score(confusion)
    return {
        "mean_iou": score.mean_iou,
        "dice": score.mean_dice,
        "class_iou": [None if math.isnan(value) else value for value in score.iou],  # JSON has no NaN
        "class_dice": [None if math.isnan(value) else value for value in score.dice],
        "confusion": np.asarray(confusion).tolist(),
    }


def pixel_score(confusion: npt.ArrayLike) -> PixelScore:
    """Accuracy, IoU and Dice from counts that were summed over all pixels first.

    With n_kk the pixels of class k that were found, t_k those that there are and p_k those that were predicted:
    IoU_k = n_kk/(t_k + p_k − n_kk) (Jaccard), Dice_k = 2·n_kk/(t_k + p_k).

    Args:
        confusion: (K, K), see `confusion_matrix`.

    Example:
        >>> pixel_score([[3, 1], [1, 3]]).mean_iou
        0.6
    """
    counts = np.asarray(confusion, np.int64)
    found, either = np.diagonal(counts), counts.sum(axis=0) + counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        iou, dice = found / (either - found), 2 * found / either
    occurs = either > 0
    mean_iou, mean_dice = (float(values[occurs].mean()) if occurs.any() else np.nan for values in (iou, dice))
    accuracy = float(found.sum() / counts.sum()) if counts.any() else np.nan
    return PixelScore(accuracy, tuple(iou.tolist()), tuple(dice.tolist()), mean_iou, mean_dice)
