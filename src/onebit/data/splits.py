"""The shape of every data set: uint8 images and labels in train, validation and test."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onebit.common.arguments import check_kind, check_number, described
from onebit.data.images import StreamedImages
from onebit.data.masks import VOID, is_counted
from onebit.errors import DataError, UsageError, WrongTypeError

Labels = npt.NDArray[np.int64]
"""(N,); of images with masks `Masks`, (N, H, W) uint8."""
Progress = Callable[[str, int, int], None]
"""Called during a download, or while images are decoded: what is done (such as "fetching FILE"), bytes so far, bytes in
all (0 when not known)."""

STATISTICS_IMAGES = 10_000
"""How many streamed images stand for all of them in the statistics of a channel."""
FROM_ARRAYS = "onebit.Dataset.from_arrays((images, labels), (test_images, test_labels)) makes one of your own arrays"
DIGEST_IMAGES = 1000
"""How many images of an array stand for all of them in its digest."""
_STATISTICS_PIXELS = 1 << 22
"""Counted at a time: `bincount` makes 8 bytes of each."""


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images with their labels, or with a mask each.

    Args:
        images: (N, C, H, W) uint8, 0..255, laid out in this order in memory; `StreamedImages` where they are too many.
        labels: (N,) int64; or uint8 (N, H, W), the class of each pixel of (the centre of) an image, `VOID` for none.

    Raises:
        WrongTypeError: not arrays.
        DataError: another dtype, rank or count; `Dataset.from_arrays` converts what can be converted.
    """

    images: Any  # Images, or StreamedImages, which are indexed alike
    labels: Any  # Labels, or Masks

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        for name, value in (("images", images), ("labels", labels)):
            if not hasattr(value, "dtype") or not hasattr(value, "shape"):
                raise WrongTypeError(f"{name}: got {described(value)}, expected an array: numpy.asarray({name})")
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(f"images: got {images.dtype} {images.shape}, expected uint8 (N, C, H, W), values 0..255")
        if labels.dtype == np.uint8 and labels.ndim == 3:
            height, width = images.shape[2:]
            if len(labels) != len(images) or labels.shape[1] > height or labels.shape[2] > width:
                raise DataError(f"masks: got uint8 {labels.shape}, expected ({len(images)}, {height}, {width})")
        elif labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            raise DataError(f"labels: got {labels.dtype} {labels.shape}, expected int64 ({len(images)},): one an image")
        if isinstance(images, np.ndarray) and any(images.strides):  # else all are one pixel: a copy would take memory
            # reshaped for its strides: torch takes an axis of one channel with another stride for channels_last
            in_order = np.ascontiguousarray(images).reshape(-1).reshape(images.shape)
            object.__setattr__(self, "images", in_order)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Split:
        """The images and labels at a slice, mask or array of indices; streamed images stay unread."""
        streamed = isinstance(self.images, StreamedImages)
        return Split(self.images.subset(index) if streamed else self.images[index], self.labels[index])

    def spread(self, count: int) -> Split:
        """`count` images at even distances, the first and the last among them; itself where there are no more."""
        if count >= len(self):
            return self
        return self[np.linspace(0, len(self) - 1, count).astype(np.int64)]

    def channel_statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the pixels of each channel, in pixel units 0–255.

        Exact for images in memory; of streamed images `STATISTICS_IMAGES` are read, drawn with a fixed seed.
        """
        images, chosen = self.images, np.arange(len(self))
        if isinstance(images, StreamedImages) and len(images) > STATISTICS_IMAGES:
            chosen = np.sort(np.random.default_rng(0).choice(len(images), STATISTICS_IMAGES, replace=False))
        step = max(1, _STATISTICS_PIXELS // max(math.prod(images.shape[1:]), 1))
        counts = np.zeros((images.shape[1], 256), np.int64)
        for start in range(0, len(chosen), step):
            part = images[chosen[start : start + step]]
            for channel in range(len(counts)):
                counts[channel] += np.bincount(part[:, channel].ravel(), minlength=256)
        levels, total = np.arange(256), counts.sum(axis=1)
        mean = counts @ levels / total
        variance = counts @ np.square(levels) / total - np.square(mean)
        return mean.tolist(), np.sqrt(variance).tolist()

    def __repr__(self) -> str:
        return f"Split({len(self)} images of {'×'.join(map(str, self.images.shape[1:]))})"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set as training sees it.

    Args:
        name: its name in `DATASETS`, or the name of own data.
        train: what the net learns from.
        validation: what training may look at to choose; empty (`len(...) == 0`) when none was held out.
        test: looked at once, at the end.
        classes: the name of each label.
        directory: where the files were read from; "" when there are none.
        note: what must be said beside every number on this data; "" for the complete official set.
        identity: a digest that tells these images from others; "" where name and labels do.

    Raises:
        DataError: the splits differ in image shape, a label stands for no class, or all pixels of a split are `VOID`.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    directory: str = ""
    note: str = ""
    identity: str = ""

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            split: Split = getattr(self, part)
            check_kind(part, split, Split, "a Split", {"object": FROM_ARRAYS})
            if split.images.shape[1:] != self.input_shape:
                raise DataError(
                    f"{part} images: got shape {split.images.shape[1:]}, expected {self.input_shape} as in train"
                )
            if len(split) and not is_counted(split.labels):
                raise DataError(
                    f"{part} masks: every pixel of all {len(split)} is void ({VOID}), expected some of a class"
                )
            low, high = _label_range(split.labels)
            if len(split) and not 0 <= low <= high < len(self.classes):
                raise DataError(
                    f"{part} labels: got {low}..{high}, "
                    f"expected 0..{len(self.classes) - 1} for {len(self.classes)} classes"
                )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image, (C, H, W)."""
        return self.train.images.shape[1:]

    @property
    def digest(self) -> str:
        """Of what is learnt from and validated on: equal for the same data, wherever they lie."""
        found = hashlib.sha256(json.dumps([self.identity, self.input_shape, self.classes]).encode())
        for split in (self.train, self.validation):
            found.update(split.labels.tobytes())
        return found.hexdigest()[:16]

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
        """A data set of own arrays.

        Args:
            train: images (N, C, H, W) or (N, H, W) uint8, and labels (N,) of any integer dtype, or masks (N, H, W).
            test: the same for the test split.
            validation: how many training images to hold out, see `hold_out`.
            split_seed: the seed of that choice.
            classes: the name of each label; by default "0", "1", … up to the largest label.
            name: what the data set is called in logs and results.
            note: what must be said beside every number on this data.

        Raises:
            DataError: no pair of images and labels, an array of another dtype or shape, or a label outside the classes.
            UsageError: `validation` leaves nothing to train on.

        Example:
            >>> images, labels = np.zeros((6, 8, 8), np.uint8), np.arange(6) % 2
            >>> Dataset.from_arrays((images, labels), (images, labels), validation=2).train
            Split(4 images of 1×8×8)
        """
        all_train, test_split = as_split(*_pair("train", train)), as_split(*_pair("test", test))
        if classes is None:
            classes = numbered_classes(all_train.labels)
        kept, held_out = hold_out(all_train, validation, seed=split_seed)
        identity = arrays_digest(all_train.images, test_split.images)
        return cls(name, kept, held_out, test_split, tuple(classes), note=note, identity=identity)


def check_dataset(data: object) -> None:
    """Refuse what is not a data set.

    Raises:
        WrongTypeError: see above.
    """
    ways = {
        "Split": "pass the whole data set: data, not data.train",
        "str": "read it first: onebit.load_dataset(name)",
        "object": FROM_ARRAYS,
    }
    check_kind("data", data, Dataset, "a onebit.Dataset", ways)


def check_split(split: object) -> None:
    """Refuse what is not images with their labels.

    Raises:
        WrongTypeError: see above.
    """
    made = "pass one of a data set, as in data.test, or make one: onebit.data.Split(images, labels)"
    check_kind("split", split, Split, "images with their labels, a Split", {"object": made})


class LoadedFiles(NamedTuple):
    """What the reader of a data set returns: everything it has, checked.

    train: also what will be held out for validation, unless `validation` is there.
    note: what must be said beside every number on these files, see `Dataset.note`.
    classes: the name of each label, where the table of data sets cannot know it.
    validation: a validation split that the files themselves make.
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


@dataclass(frozen=True)
class DatasetEntry:
    """A line of the table `DATASETS`.

    Args:
        name: its key in the table.
        title: one line for `onebit list datasets`.
        read: `read(directory=..., progress=...) -> LoadedFiles`: finds or fetches the files, reads and checks them; of
            a folder it also takes `input_size`, `workers` and `skip_broken`.
        classes: the name of each label; None where only the files know them.
        input_shape: the shape of one image, (C, H, W); None where only the files know it.
        counts: images to train on (validation included) and to test on; None where only the files know them.
        validation: how many training images are held out unless the user says otherwise; None for a tenth of them, but
            at most `MOST_VALIDATION`.
        licence: who made it, under which terms.
        note: see `Dataset.note`.
        masks: whether its labels are masks; of own arrays only the file knows.
        folder: whether it is made of image files of any size.
        input_size: side that the images of such a folder get unless the user says otherwise.
        stored: whether it is made of files that a folder can be named for; else it is part of onebit.
    """

    name: str
    title: str
    read: Callable[..., LoadedFiles]
    classes: tuple[str, ...] | None
    input_shape: tuple[int, int, int] | None
    counts: tuple[int, int] | None
    validation: int | None
    licence: str
    note: str = ""
    masks: bool = False
    folder: bool = False
    input_size: int | None = None
    stored: bool = True


MOST_VALIDATION = 10_000


def _label_range(labels: Any) -> tuple[int, int]:
    """The lowest and the highest class; `VOID` pixels are of none."""
    if labels.ndim > 1:
        labels = np.flatnonzero(np.bincount(labels.ravel(), minlength=VOID + 1)[:VOID])
    return (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)


def hold_out(train: Split, count: int, *, seed: int) -> tuple[Split, Split]:
    """Split `train` into what is trained on and what is validated on.

    The first `count` entries of the seeded permutation `numpy.random.default_rng(seed).permutation(len(train))` are
    held out. Inside each part the images keep the order they have in `train`.

    Args:
        train: all images that are not test images.
        count: how many to hold out; 0 gives `train` itself and an empty split.
        seed: the seed of the choice.

    Raises:
        UsageError: `count` is negative or leaves nothing to train on.
    """
    check_number("validation", count, whole=True)
    refuse_held_out(count, len(train))
    if count == 0:
        return train, train[:0]
    held_out = np.zeros(len(train), bool)
    held_out[np.random.default_rng(seed).permutation(len(train))[:count]] = True
    return train[~held_out], train[held_out]


def refuse_held_out(count: int, total: int) -> None:
    """Refuse to hold out `count` of `total` images where that cannot be done.

    Raises:
        UsageError: `count` is negative or leaves nothing to train on.
    """
    if not 0 <= count < max(total, 1):
        raise UsageError(f"validation={count}: expected 0 to {total - 1} of the {total} training images")


def numbered_classes(labels: Any) -> tuple[str, ...]:
    """ "0", "1", … up to the largest label."""
    return tuple(str(label) for label in range(_label_range(labels)[1] + 1))


def arrays_digest(*parts: Any) -> str:
    """A digest of up to `DIGEST_IMAGES` images of each array, spread over it."""
    found = hashlib.sha256()
    for images in parts:
        chosen = np.linspace(0, len(images) - 1, min(len(images), DIGEST_IMAGES)).astype(np.int64)
        found.update(images[chosen].tobytes())
    return found.hexdigest()


def _pair(part: str, given: Any) -> tuple[npt.ArrayLike, npt.ArrayLike]:
    """The images and labels of a split; an array is no pair, even of two images."""
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return given[0], given[1]
    got = f"an array {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
    raise DataError(f"{part}: got {got}, expected a pair (images, labels); {FROM_ARRAYS}")


def as_split(images: npt.ArrayLike, labels: npt.ArrayLike) -> Split:
    """A split of arrays as `Dataset.from_arrays` takes them.

    Raises:
        DataError: see there.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 4 and images.shape[3] in (1, 3, 4) and images.shape[1] not in (1, 3, 4):
        raise DataError(
            f"images: got shape {images.shape}, which looks like (N, H, W, C); expected (N, C, H, W): "
            "pass images.transpose(0, 3, 1, 2)"
        )
    if images.ndim == 3:
        images = images[:, np.newaxis]
    if np.issubdtype(labels.dtype, np.integer):
        if labels.ndim == 3 and not 0 <= labels.min(initial=0) <= labels.max(initial=0) <= VOID:
            raise DataError(f"masks: got {labels.min()}..{labels.max()}, expected class numbers, or {VOID} for none")
        labels = labels.astype(np.uint8 if labels.ndim == 3 else np.int64, copy=False)
    return Split(images, labels)
