"""Training and validation data from any form of data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from onebit.data import Dataset, Split, StreamedImages, known_labels
from onebit.data.splits import as_split, numbered_classes
from onebit.errors import UsageError
from onebit.evaluation.loaders import batch_samples
from onebit.evaluation.sources import BATCH_SIZE, ArraySamples, LoaderSamples, Samples, as_samples, batch_bounds


@dataclass(frozen=True, eq=False)
class FitData:
    """Training and validation data.

    Args:
        train, validation: images with labels as a `Split`, which can be augmented, or any samples.
        classes: the name of each label; () if unknown.
        dataset: the source of both; None for other data.
        named: whether the targets were names of classes.
    """

    train: Split | Samples
    validation: Split | Samples | None
    classes: tuple[str, ...] = ()
    dataset: Dataset | None = None
    named: bool = False

    @property
    def name(self) -> str:
        return "data" if self.dataset is None else self.dataset.name

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample; () for a loader."""
        return as_samples(self.train).shape

    @property
    def count(self) -> int | None:
        """Number of training samples; None if unknown."""
        return as_samples(self.train).count

    def identity(self) -> str:
        """A digest of all data, which a checkpoint must have been trained on; reads all arrays."""
        digests = ["" if self.dataset is None else self.dataset.digest]
        digests += [as_samples(part).digest for part in (self.train, self.validation) if part is not None]
        return " | ".join(filter(None, digests))


def fit_data(data: Any, validation: Any = None, *, batch_size: int | None = None) -> FitData:
    """Convert data for `fit`; `validation` replaces that of a `Dataset`, and `batch_size` does not apply to loaders."""
    if isinstance(data, FitData):
        return data
    if isinstance(data, Dataset):
        given = None if validation is None else _part(validation, name="validation", classes=data.classes)[0]
        held_out = data.validation if given is None and len(data.validation) else given
        return FitData(data.train, held_out, data.classes, data)
    train, names = _part(data, name="data", batch_size=batch_size)
    held_out = None if validation is None else _part(validation, name="validation", classes=names)[0]
    parts = (train, held_out) if isinstance(train, Split) else ()
    known = [numbered_classes(part.labels) for part in parts if isinstance(part, Split)]
    return FitData(train, held_out, names or max(known, key=len, default=()), named=bool(names))


def _part(
    data: Any, *, name: str, batch_size: int | None = None, classes: tuple[str, ...] | None = None
) -> tuple[Split | Samples, tuple[str, ...]]:
    """Images with integer labels or masks as a `Split`, other data as samples with targets; and names of classes."""
    if isinstance(data, Dataset):
        data = data.validation
    if isinstance(data, Split):
        return data, ()
    samples = as_samples(data, name=name, batch_size=batch_size, classes=classes)
    if not isinstance(samples, ArraySamples):
        return samples, ()
    inputs, targets = samples.inputs, samples.targets
    if targets is None:
        raise UsageError(f"{name}: got inputs without targets, expected a pair (inputs, targets)")
    pixels = str(getattr(inputs, "dtype", "")).removeprefix("torch.") == "uint8" and inputs.ndim == 4
    on_device = isinstance(inputs, Tensor) and inputs.device.type != "cpu"
    array = targets.cpu().numpy() if isinstance(targets, Tensor) else targets
    fits = pixels and not on_device and isinstance(array, np.ndarray) and _are_labels(array, inputs)
    return as_split(inputs, array) if fits else samples, samples.classes


def _are_labels(array: Any, inputs: Any) -> bool:
    """Whether targets are class numbers, (N,), or masks of class numbers, uint8 (N, H, W)."""
    if array.dtype.kind not in "iu" or array.min() < 0:
        return False
    if array.ndim == 3:
        fits = array.shape[1] <= inputs.shape[2] and array.shape[2] <= inputs.shape[3]
        return array.dtype == np.uint8 and fits and len(known_labels(array)) > 0
    return bool(array.ndim == 1) and not isinstance(inputs, StreamedImages)


def batch_size_of(data: FitData, batch_size: int | None, *, usual: int = BATCH_SIZE) -> int:
    """Samples per batch: of the loader (1 if unknown), the argument, or `usual`; data may have fewer than `usual`."""
    train = data.train
    if isinstance(train, LoaderSamples):
        return batch_samples(train.loader) or 1
    if batch_size is not None:
        return batch_size
    return usual if data.dataset is not None else min(usual, len(train))


def epoch_size(data: FitData, batch_size: int, steps_per_epoch: int | None = None) -> tuple[int, int]:
    """Samples of a pass, as far as known, and batches of an epoch."""
    train = data.train
    if not isinstance(train, LoaderSamples):
        return len(train), steps_per_epoch or len(batch_bounds(len(train), batch_size))
    if (steps := steps_per_epoch or train.length) is None:
        raise UsageError(f"{train.name}: a loader without length needs steps or steps_per_epoch")
    return train.count or steps * batch_size, steps
