"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test color images of 32×32 pixels in 10 or 100 classes.

Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"; https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from onebit.common.files import read_regular, sha256_of
from onebit.data.fetch import OfficialFiles, find_or_fetch
from onebit.data.pickled import read_pickled
from onebit.data.splits import DatasetEntry, LoadedFiles, Progress, Source, Split
from onebit.errors import DataError, first_line

CIFAR_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
PIXELS = 3 * 32 * 32

JPEG_COPY = "cf28711b3059b27ed8a78d6529b5ba5b5c94130096ca62a1a924268a9a9ec05b"
"""sha256 of the test_batch.bin of a copy of CIFAR-10 whose images were once stored as JPEG, quality 75."""
JPEG_NOTE = "a copy stored as JPEG; accuracies are a little lower than on the lossless original"


@dataclasses.dataclass(frozen=True)
class CifarFiles:
    """One of the two data sets on disk.

    Args:
        official: where its files are; each has a name in the binary layout and one in the pickled layout.
        counts: number of images in each file: those of the training images in order, then that of the test images.
        labels: the names of the labels in the pickled layout, in the order of the binary layout, where each is a byte;
            the last one is the class.
    """

    official: OfficialFiles
    counts: tuple[int, ...]
    labels: tuple[str, ...]


CIFAR10_FILES = CifarFiles(
    OfficialFiles(
        "cifar10",
        ("cifar-10-batches-bin", "cifar-10-batches-py"),
        tuple((f"{name}.bin", name) for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")),
        CIFAR_MIRRORS,
        {"cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530"},
    ),
    (10_000,) * 6,
    ("labels",),
)
CIFAR100_FILES = CifarFiles(
    OfficialFiles(
        "cifar100",
        ("cifar-100-binary", "cifar-100-python"),
        (("train.bin", "train"), ("test.bin", "test")),
        CIFAR_MIRRORS,
        {"cifar-100-binary.tar.gz": "md5:03b5dce01913d631647c71ecec9e9cb8"},
    ),
    (50_000, 10_000),
    ("coarse_labels", "fine_labels"),
)


def read_cifar(files: CifarFiles, *, directory: Source = None, progress: Progress | None = None) -> LoadedFiles:
    """Find or download the files in either layout, and read them; training images keep the order of the files."""
    paths = find_or_fetch(files.official, directory=directory, progress=progress)
    *parts, test = (read_file(path, files, count) for path, count in zip(paths, files.counts, strict=True))
    train = Split(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))
    note = JPEG_NOTE if sha256_of(paths[-1]) == JPEG_COPY else ""
    return LoadedFiles(train, test, str(paths[0].parent), tuple(map(str, paths)), note=note)


def read_file(path: Path, files: CifarFiles, count: int) -> Split:
    """The images and labels of a file, in the layout that its name says."""
    labels_of_each = len(files.labels)
    record = labels_of_each + PIXELS  # bytes of an image: its labels, then the red, the green and the blue plane
    try:
        if path.suffix == ".bin":
            content = np.frombuffer(read_regular(path, largest=count * record), np.uint8)
            records = content.reshape(count, record)
            images, labels = records[:, labels_of_each:], records[:, labels_of_each - 1]
        else:  # twice the size, as it also holds the names of the images
            entries = read_pickled(path, largest=2 * count * record)
            images, labels = entries["data"], entries[files.labels[-1]]
        return Split(images.reshape(count, 3, 32, 32), np.array(labels, np.int64))
    except Exception as error:  # a damaged file may hold anything
        raise DataError(f"{path} is not {count:,} images of {files.official.dataset}: {first_line(error)}") from None


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
    read=functools.partial(read_cifar, CIFAR10_FILES),
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
    read=functools.partial(read_cifar, CIFAR100_FILES),
    classes=CIFAR100_CLASSES,
)
