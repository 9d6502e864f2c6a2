"""The part of MNIST that is shipped with the package, for offline use.

It has 8,000 of the official training images and 2,000 of the official test images, an equal number of each digit, in
random order. The files are gzipped like MNIST itself: xz would be 15 % smaller, but takes three times as long.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onebit.data.mnist import read_idx
from onebit.data.splits import DatasetEntry, LoadedFiles, Progress, Split

TRAIN_COUNT = 8_000
TEST_COUNT = 2_000
IMAGES_FILE = "mnist_sample.images-idx3-ubyte.gz"
LABELS_FILE = "mnist_sample.labels-idx1-ubyte.gz"
IMAGES_SHA256 = "6185237517c2dc4f2318899d509fbf454dac80fbecbb317ca500e92be5e28337"
LABELS_SHA256 = "f64d915b4da3276329b7b28ba75c320096a9cdb7cf6aab79541a0b4cff00c3c2"


def read_mnist_sample(*, directory: str | Path | None = None, progress: Progress | None = None) -> LoadedFiles:
    """Read and check the shipped files; `directory` and `progress` have no effect."""
    here = Path(__file__).parent
    count = TRAIN_COUNT + TEST_COUNT
    images = read_idx(here / IMAGES_FILE, shape=(count, 28, 28), sha256=IMAGES_SHA256)[:, np.newaxis]
    labels = read_idx(here / LABELS_FILE, shape=(count,), sha256=LABELS_SHA256).astype(np.int64)
    return LoadedFiles(
        Split(images[:TRAIN_COUNT], labels[:TRAIN_COUNT]),
        Split(images[TRAIN_COUNT:], labels[TRAIN_COUNT:]),
        str(here),
        (str(here / IMAGES_FILE), str(here / LABELS_FILE)),
    )


MNIST_SAMPLE = DatasetEntry(
    name="mnist-sample",
    title="10,000 digits of MNIST, shipped with onebit",
    read=read_mnist_sample,
    classes=tuple("0123456789"),
    input_shape=(1, 28, 28),
    counts=(TRAIN_COUNT, TEST_COUNT),
    validation=1_000,
    licence="LeCun, Cortes, Burges; CC BY-SA 3.0",
    note="a sample of MNIST: 8,000 training and 2,000 test digits",
    stored=False,
)
