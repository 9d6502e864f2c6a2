"""The types of data sets: uint8 images and labels in train, validation and test splits."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onebit.data.decoding import StreamedImages
from onebit.data.mask_scores import VOID, known_labels
from onebit.errors import DataError, UsageError

Source = str | Path | None
"""The folder or file that the user named."""
Progress = Callable[[str, int, int], None]
"""Called during downloads and decoding: the activity ("fetching FILE"), bytes so far, and all bytes (0 if unknown)."""

STATISTICS_IMAGES = 10_000
"""Number of streamed images from which channel statistics are estimated."""
MAX_CLASSES = 1_000_000
DIGEST_IMAGES = 1000
"""Number of images that the digest of an array covers."""
_STATISTICS_PIXELS = 1 << 20
"""Summed at a time, as float64."""


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images with their labels, or with a mask each.

    Args:
        images: (N, C, H, W) uint8, 0..255, contiguous; `StreamedImages` if they do not fit in memory.
        labels: (N,) int64; or uint8 (N, H, W), the class of each pixel of (the center of) an image, `VOID` for none.

    Raises:
        DataError: another dtype, rank or count; `Dataset.from_arrays` also accepts other dtypes and (N, H, W) images.
    """

    images: Any  # Images, or StreamedImages, which are indexed alike
    labels: Any  # int64, or Masks

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(f"images: got {images.dtype} {images.shape}, expected uint8 (N, C, H, W), values 0..255")
        count, _, height, width = images.shape
        if labels.dtype == np.uint8 and labels.ndim == 3:
            if len(labels) != count or labels.shape[1] > height or labels.shape[2] > width:
                raise DataError(f"masks: got {labels.shape}, expected ({count}, {height}, {width})")
        elif labels.dtype != np.int64 or labels.shape != (count,):
            raise DataError(f"labels: got {labels.dtype} {labels.shape}, expected int64 ({count},)")
        if isinstance(images, np.ndarray) and any(images.strides):  # a broadcast of one pixel stays as it is
            # the reshapes reset the strides: torch takes one channel with an odd stride for channels_last
            in_order = np.ascontiguousarray(images).reshape(-1).reshape(images.shape)
            object.__setattr__(self, "images", in_order)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Split:
        """The images and labels at a slice, mask or array of indices; streamed images are not read."""
        streamed = isinstance(self.images, StreamedImages)
        return Split(self.images.subset(index) if streamed else self.images[index], self.labels[index])

    def spread(self, count: int) -> Split:
        """`count` evenly spaced images, including the first and the last; the split itself if it has no more."""
        if count >= len(self):
            return self
        return self[np.linspace(0, len(self) - 1, count).astype(np.int64)]

    def channel_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the pixels of each channel, in pixel units 0–255.

        Exact for images in memory; streamed images are estimated from a fixed random sample of `STATISTICS_IMAGES`.
        """
        images, chosen = self.images, np.arange(len(self))
        if isinstance(images, StreamedImages) and len(images) > STATISTICS_IMAGES:
            chosen = np.sort(np.random.default_rng(0).choice(len(images), STATISTICS_IMAGES, replace=False))
        channels, *side = images.shape[1:]
        chunk, total = max(1, _STATISTICS_PIXELS // max(math.prod(images.shape[1:]), 1)), len(chosen) * math.prod(side)
        sums = np.zeros((2, channels))  # whole numbers below 2**53
        for start in range(0, len(chosen), chunk):
            part = images[chosen[start : start + chunk]].astype(np.float64)
            sums += part.sum(axis=(0, 2, 3)), np.square(part, out=part).sum(axis=(0, 2, 3))
        mean, squares = sums / total
        return mean.tolist(), np.sqrt(squares - np.square(mean)).tolist()

    def __repr__(self) -> str:
        return f"Split({len(self)} images of {'×'.join(map(str, self.images.shape[1:]))})"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set for training.

    Args:
        name: its name in `DATASETS`, or any name for your own data.
        train: for fitting the weights.
        validation: for choosing among nets during training; empty (`len(...) == 0`) if none was held out.
        test: for measuring the result, once.
        classes: the name of each label.
        directory: where the files were read from; "" if there are none.
        note: a remark to show with every result on this data; "" for the complete official set.
        identity: a digest that identifies these images; "" if the name and the labels do.
        files_digest: a digest of `identity` and of all labels that were loaded, however they are split into training
            and validation; "" for data that were not loaded by `load_dataset`.
        preparation: the changes that `whiten` and `permute_pixels` made, in order.

    Raises:
        DataError: two classes of the same name, splits of different image shapes, a label out of range, or a split
            whose pixels are all `VOID`.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    directory: str = ""
    note: str = ""
    identity: str = ""
    files_digest: str = ""
    preparation: tuple[Callable[[Split], Split], ...] = ()

    def __post_init__(self) -> None:
        if len({*self.classes}) < len(self.classes):
            raise DataError(f"classes: got {', '.join(self.classes)}, expected different names")
        for part in ("train", "validation", "test"):
            split: Split = getattr(self, part)
            if split.images.shape[1:] != self.input_shape:
                raise DataError(f"{part} images: got {split.images.shape[1:]}, expected {self.input_shape} as in train")
            known = known_labels(split.labels)
            if len(split) and not len(known):
                raise DataError(f"{part} masks: every pixel is void ({VOID})")
            if len(known) and not 0 <= known.min() <= known.max() < len(self.classes):
                raise DataError(f"{part} labels: got {known.min()}..{known.max()} for {len(self.classes)} classes")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image, (C, H, W)."""
        return self.train.images.shape[1:]

    @property
    def digest(self) -> str:
        """A digest of the training and validation data, whatever their folder."""
        labels = (split.labels for split in (self.train, self.validation))
        return _digest([self.identity, self.input_shape, self.classes], *labels)[:16]

    @property
    def test_digest(self) -> str:
        """A digest of the test labels, which `digest` does not cover."""
        return _digest(None, self.test.labels)[:16]

    def changed(self, change: Callable[[Split], Split], note: str = "") -> Dataset:
        """Apply `change` to each split, and add to the note."""
        train, validation, test = map(change, (self.train, self.validation, self.test))
        note = "; ".join(filter(None, (self.note, note)))
        return replace(self, train=train, validation=validation, test=test, note=note)

    def noted(self, note: str) -> Dataset:
        """Add to the note."""
        return self.changed(lambda split: split, note)

    def prepared_by(self, change: Callable[[Split], Split], note: str) -> Dataset:
        """`changed`, by a change that other images for the same net need too, see `prepared`."""
        return replace(self.changed(change, note), preparation=(*self.preparation, change))

    def prepared(self, split: Split) -> Split:
        """Raw images of the same shape with the same preparation."""
        for change in self.preparation:
            split = change(split)
        return split

    @classmethod
    def from_arrays(
        cls,
        train: tuple[npt.ArrayLike, npt.ArrayLike],
        test: tuple[npt.ArrayLike, npt.ArrayLike],
        *,
        validation: int = 0,
        split_seed: int = 0,
        classes: Sequence[str] | None = None,
        name: str = "arrays",
        note: str = "",
    ) -> Dataset:
        """Make a data set from your own arrays.

        Args:
            train: images (N, C, H, W) or (N, H, W) uint8, and labels (N,) of any integer dtype, or masks (N, H, W).
            test: the same for the test split.
            validation: number of training images to hold out, see `hold_out`.
            split_seed: the seed of that choice.
            classes: the name of each label; by default "0", "1", … up to the largest label.
            name: the name of the data set in logs and results.
            note: a remark to show with every result on this data.

        Raises:
            DataError: another dtype or shape, or a label outside the classes.
            UsageError: `validation` is negative or leaves nothing to train on.

        Example:
            >>> images, labels = np.zeros((6, 8, 8), np.uint8), np.arange(6) % 2
            >>> Dataset.from_arrays((images, labels), (images, labels), validation=2).train
            Split(4 images of 1×8×8)
        """
        all_train, test_split = as_split(*train), as_split(*test)
        if classes is None:
            classes = numbered_classes(all_train.labels)
        kept, held = hold_out(all_train, validation, seed=split_seed)
        identity = arrays_digest(all_train.images, test_split.images)
        return cls(name, kept, held, test_split, tuple(classes), note=note, identity=identity)


class LoadedFiles(NamedTuple):
    """The checked content of the files of a data set.

    train: includes the images to hold out for validation, unless there is a `validation` split.
    note: see `Dataset.note`.
    classes: the name of each label, if the table of data sets does not have it.
    validation: the validation split, if the files have one.
    identity: see `Dataset.identity`.
    """

    train: Split
    test: Split
    directory: str
    files: tuple[str, ...]
    note: str = ""
    classes: tuple[str, ...] = ()
    validation: Split | None = None
    identity: str = ""

    @property
    def digest(self) -> str:
        """See `Dataset.files_digest`."""
        splits = filter(None, (self.train, self.validation, self.test))
        return _digest([self.identity, self.classes], *(split.labels for split in splits))[:16]


@dataclass(frozen=True)
class DatasetEntry:
    """An entry of the table `DATASETS`.

    Args:
        name: its key in the table.
        title: one line for `onebit list datasets`.
        read: `read(directory=..., progress=...) -> LoadedFiles`: finds or downloads the files, reads and checks them;
            for a folder it also takes `input_size`, `workers` and `skip_broken`; nothing if not `stored`.
        classes: the name of each label; None if it depends on the files.
        input_shape: the shape of one image, (C, H, W); None if it depends on the files.
        counts: number of training images (validation included) and of test images; None if they depend on the files.
        validation: default number of training images to hold out; None for a tenth, but at most 10,000.
        licence: the authors and the terms of use.
        note: see `Dataset.note`.
        masks: whether its labels are masks; your own arrays may have masks, too.
        folder: whether it consists of image files of any size.
        input_size: the default side that the images of such a folder are resized to.
        stored: whether its files are in a folder that the user can name; otherwise it is part of onebit.
    """

    name: str
    title: str
    read: Callable[..., LoadedFiles]
    classes: tuple[str, ...] | None = None
    input_shape: tuple[int, int, int] | None = None
    counts: tuple[int, int] | None = None
    validation: int | None = None
    licence: str = "yours"
    note: str = ""
    masks: bool = False
    folder: bool = False
    input_size: int | None = None
    stored: bool = True


def hold_out(train: Split, count: int, *, seed: int) -> tuple[Split, Split]:
    """Split `train` into a training and a validation split.

    The first `count` of `numpy.random.default_rng(seed).permutation(len(train))` are held out. Both splits keep the
    order of `train`.

    Args:
        train: all images that are not test images.
        count: number of images to hold out; 0 gives `train` itself and an empty split.
        seed: the seed of the choice.

    Raises:
        UsageError: `count` is negative or leaves nothing to train on.
    """
    refuse_held_out(count, len(train))
    if count == 0:
        return train, train[:0]
    held_out = np.zeros(len(train), bool)
    held_out[np.random.default_rng(seed).permutation(len(train))[:count]] = True
    return train[~held_out], train[held_out]


def refuse_held_out(count: int, total: int) -> None:
    """Raise a UsageError if `count` of `total` training images is negative or leaves nothing to train on."""
    if not 0 <= count < total:
        raise UsageError(f"validation={count}: expected 0 to {total - 1} of the {total} training images")


def numbered_classes(labels: Any) -> tuple[str, ...]:
    """ "0", "1", … up to the largest label; DataError if that is not below `MAX_CLASSES`."""
    largest = int(known_labels(labels).max(initial=0))
    if largest >= MAX_CLASSES:  # a text for each would take all memory
        raise DataError(f"labels: got {largest}, expected class numbers below {MAX_CLASSES:,}")
    return tuple(str(label) for label in range(largest + 1))


def arrays_digest(*parts: Any) -> str:
    """A digest of up to `DIGEST_IMAGES` evenly spaced images of each array."""
    chosen = (np.linspace(0, len(part) - 1, min(len(part), DIGEST_IMAGES)).astype(np.int64) for part in parts)
    return _digest(None, *(images[some] for images, some in zip(parts, chosen, strict=True)))


def _digest(facts: Any, *arrays: Any) -> str:
    digest = hashlib.sha256(b"" if facts is None else json.dumps(facts).encode())
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


def as_split(images: npt.ArrayLike, labels: npt.ArrayLike) -> Split:
    """Make a split from arrays, with the checks of `Dataset.from_arrays`."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 4 and images.shape[3] in (1, 3, 4) and images.shape[1] not in (1, 3, 4):
        raise DataError(f"images: got {images.shape}, expected (N, C, H, W): use images.transpose(0, 3, 1, 2)")
    if images.ndim == 3:
        images = images[:, np.newaxis]
    if np.issubdtype(labels.dtype, np.integer):
        if labels.ndim == 3 and not 0 <= labels.min(initial=0) <= labels.max(initial=0) <= VOID:
            raise DataError(f"masks: got {labels.min()}..{labels.max()}, expected class numbers, or {VOID} for none")
        labels = labels.astype(np.uint8 if labels.ndim == 3 else np.int64, copy=False)
    return Split(images, labels)
