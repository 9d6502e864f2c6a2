"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test color images of 32×32 pixels in 10 or 100 classes.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"; https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from onebit.common.files import sha256_of
from onebit.data.fetch import OfficialArchive, OfficialFile, OfficialFiles, find_or_fetch
from onebit.data.pickled import read_pickled
from onebit.data.resizing import Images
from onebit.data.splits import DatasetEntry, Labels, LoadedFiles, Progress, Split
from onebit.errors import DataError

CIFAR_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
PIXELS = 3 * 32 * 32

JPEG_COPY = "cf28711b3059b27ed8a78d6529b5ba5b5c94130096ca62a1a924268a9a9ec05b"
"""sha256 of the test_batch.bin of a copy of CIFAR-10 whose images were once stored as JPEG, quality 75."""
JPEG_NOTE = "a copy stored as JPEG; accuracies are a little lower than on the lossless original"


@dataclasses.dataclass(frozen=True)
class CifarFile:
    """A file: its name in the binary layout, its name in the pickled layout, and its number of images."""

    name: str
    pickled_name: str
    count: int


@dataclasses.dataclass(frozen=True)
class CifarFiles:
    """One of the two data sets on disk.

    Args:
        dataset: its name in `DATASETS`.
        folders: of the binary layout and of the pickled layout.
        files: those of the training images in order, then that of the test images.
        labels: the names of the labels in the pickled layout, in the order of the binary layout, where each is a byte;
            the last one is the class.
        archive: the file that the `mirrors` serve.
    """

    dataset: str
    folders: tuple[str, str]
    files: tuple[CifarFile, ...]
    labels: tuple[str, ...]
    archive: OfficialArchive
    mirrors: tuple[str, ...] = CIFAR_MIRRORS

    @property
    def record(self) -> int:
        """Bytes of an image in the binary layout: its labels, then the red, the green and the blue plane."""
        return len(self.labels) + PIXELS


CIFAR10_FILES = CifarFiles(
    "cifar10",
    ("cifar-10-batches-bin", "cifar-10-batches-py"),
    (
        *(CifarFile(f"data_batch_{i}.bin", f"data_batch_{i}", 10_000) for i in range(1, 6)),
        CifarFile("test_batch.bin", "test_batch", 10_000),
    ),
    ("labels",),
    OfficialArchive("cifar-10-binary.tar.gz", "md5:c32a1d4ab5d03f1284b67883e8d87530"),
)
CIFAR100_FILES = CifarFiles(
    "cifar100",
    ("cifar-100-binary", "cifar-100-python"),
    (CifarFile("train.bin", "train", 50_000), CifarFile("test.bin", "test", 10_000)),
    ("coarse_labels", "fine_labels"),
    OfficialArchive("cifar-100-binary.tar.gz", "md5:03b5dce01913d631647c71ecec9e9cb8"),
)


def read_cifar(
    files: CifarFiles, classes: int, *, directory: str | Path | None = None, progress: Progress | None = None
) -> LoadedFiles:
    """Find or download the files in either layout, read and check them; training images keep the order of the files."""
    official = OfficialFiles(
        files.dataset,
        files.folders,
        tuple(OfficialFile((f.name, f.pickled_name), size=f.count * files.record) for f in files.files),
        files.mirrors,
        files.archive,
    )
    paths = find_or_fetch(official, directory=directory, progress=progress)
    parts = []
    for path, file in zip(paths, files.files, strict=True):
        images, labels = (_read_binary if path.name == file.name else _read_pickled)(path, files, file.count)
        if labels.min() < 0 or labels.max() >= classes:
            wrong = int(np.flatnonzero((labels < 0) | (labels >= classes))[0])
            raise DataError(
                f"{path} is damaged: image {wrong} has label {labels[wrong]}, expected 0 to {classes - 1}; "
                f"{_remedy(files)}"
            )
        parts.append(Split(images.reshape(-1, 3, 32, 32), labels))
    train = Split(
        np.concatenate([part.images for part in parts[:-1]]), np.concatenate([part.labels for part in parts[:-1]])
    )
    note = JPEG_NOTE if sha256_of(paths[-1]) == JPEG_COPY else ""
    return LoadedFiles(train, parts[-1], str(paths[0].parent), tuple(map(str, paths)), note=note)


def _remedy(files: CifarFiles) -> str:
    return f"delete it and fetch it again: onebit data {files.dataset}"


def _read_binary(path: Path, files: CifarFiles, count: int) -> tuple[Images, Labels]:
    """Images (N, 3072) and labels of a file in the binary layout."""
    expected = count * files.record
    try:
        size = path.stat().st_size
        if size != expected:
            raise DataError(
                f"{path} is damaged: got {size:,} bytes, expected {expected:,}: {count:,} images of {files.record:,}; "
                f"{_remedy(files)}"
            )
        content = np.fromfile(path, np.uint8).reshape(count, files.record)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    labels = content[:, len(files.labels) - 1].astype(np.int64)
    return np.ascontiguousarray(content[:, len(files.labels) :]), labels


def _read_pickled(path: Path, files: CifarFiles, count: int) -> tuple[Images, Labels]:
    """Images (N, 3072) and labels of a file in the pickled layout."""
    entries = read_pickled(path, largest=2 * count * files.record)  # twice, as it also holds the names of the images
    images, labels = entries.get("data"), entries.get(files.labels[-1])
    if not isinstance(images, np.ndarray) or images.shape != (count, PIXELS):
        raise DataError(f"{path} is damaged: its data is not an array of uint8 ({count}, {PIXELS}); {_remedy(files)}")
    if not (
        isinstance(labels, list)
        and len(labels) == count
        and all(type(label) is int and label.bit_length() < 64 for label in labels)
    ):
        raise DataError(f"{path} is damaged: its {files.labels[-1]} are not {count:,} numbers; {_remedy(files)}")
    return images, np.array(labels, np.int64)


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# fmt: off
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)
# fmt: on

CIFAR10 = DatasetEntry(
    name="cifar10",
    title="color photographs of 10 kinds of things",
    read=functools.partial(read_cifar, CIFAR10_FILES, len(CIFAR10_CLASSES)),
    classes=CIFAR10_CLASSES,
    input_shape=(3, 32, 32),
    counts=(50_000, 10_000),
    validation=5_000,
    licence="Krizhevsky 2009; no license stated",
)
CIFAR100 = dataclasses.replace(
    CIFAR10,
    name="cifar100",
    title="color photographs of 100 kinds of things",
    read=functools.partial(read_cifar, CIFAR100_FILES, len(CIFAR100_CLASSES)),
    classes=CIFAR100_CLASSES,
)
