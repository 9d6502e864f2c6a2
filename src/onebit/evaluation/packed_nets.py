"""Evaluate a packed net on a data set with the executor of `onebit.runtime`, without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from onebit.data import (
    Dataset,
    Progress,
    Split,
    StreamedImages,
    by_pixel,
    fitted,
    load_dataset,
    with_classes,
)
from onebit.errors import UsageError
from onebit.evaluation.scores import score_logits
from onebit.packed import PackedNet
from onebit.packed.net import resized
from onebit.runtime import run


def load_packed_data(
    net: PackedNet, name: str, *, directory: str | Path | None, progress: Progress | None, source: str
) -> Dataset:
    """A data set with images of the input size of a packed net.

    A segmentation net takes images of any size, in tiles, and gives masks of two unnamed classes the names of its own.
    A net for gray images takes RGB images of a folder that are gray.

    Args:
        name, directory, progress: see `onebit.load_dataset`; source: the net, for messages.
    """
    if net.certificate and net.certificate.compared != "labels":
        raise UsageError(f"{source} has no labels")
    _, height, width = net.input.shape
    square = height == width and len(net.values[net.only_output].shape) == 1
    data = load_dataset(name, input_size=height if square else None, directory=directory, progress=progress)
    data = with_classes(data, net.classes, source=source)
    return _gray(data, source) if net.input.shape[0] == 1 and data.input_shape[0] == 3 else data


def _gray(data: Dataset, source: str) -> Dataset:
    """RGB images that are gray, with one channel; UsageError for others."""
    for split in (data.train, data.validation, data.test):
        # streamed images are not all read here
        if isinstance(split.images, StreamedImages) or (split.images != split.images[:, :1]).any():
            raise UsageError(f"{source} takes gray images, {data.name} has color images")
    return data.changed(lambda split: Split(split.images[:, :1], split.labels))


def score_packed(
    net: PackedNet, split: Split, *, on_images: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Counts, cross-entropy and calibration of a packed net on a split.

    Args:
        on_images: called with the number of images done and of all.
    """
    split = fitted_to(net, split)
    logits, labels = by_pixel(run(net, split.images, on_images=on_images).astype(np.float64), split.labels)
    peak = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - peak).sum(axis=1)) + peak[:, 0]
    loss = float((log_sum - logits[np.arange(len(labels)), labels]).mean())
    score = score_logits(logits, labels, loss=loss, masked=split.labels.ndim > 1, weights="packed", bn="trained")
    return score.as_dict() | {"loss_name": "cross_entropy"}


def fitted_to(net: PackedNet, split: Split) -> Split:
    """`fitted` for a packed net; a split without masks is returned unchanged. UsageError as `mask_shape`."""
    return split if split.labels.ndim == 1 else fitted(split, net.input.shape, mask_shape(net))


def mask_shape(net: PackedNet) -> tuple[int, int, int]:
    """(K, H, W) of the mask that a packed net predicts for the center of its input (C, H', W').

    Raises:
        UsageError: the mask has another scale: a larger input does not enlarge it by as many pixels.
    """
    _, height, width = net.input.shape
    classes, *sides = net.values[net.only_output].shape
    try:
        larger = resized(net, dict.fromkeys(net.inputs, (2 * height, 2 * width)))
        _, *grown = larger.values[net.only_output].shape
    except UsageError:  # a size that such a net does not take
        grown = [sides[0] + height, sides[1] + width]
    if grown != [sides[0] + height, sides[1] + width]:
        raise UsageError(f"the net predicts {sides[0]}×{sides[1]} pixels for images of {height}×{width}, another scale")
    return classes, sides[0], sides[1]
