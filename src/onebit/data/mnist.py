"""MNIST: 60,000 training and 10,000 test images of handwritten digits, 28×28 gray pixels.

Source: LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist; CC BY-SA 3.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onebit.data.fetch import OfficialFile, OfficialFiles, find_or_fetch
from onebit.data.idx import read_idx
from onebit.data.splits import DatasetEntry, LoadedFiles, Progress, Split


@dataclass(frozen=True)
class IdxFile:
    """One of the four files: its name without `.gz`, its shape, and the sha256 of its content and of the `.gz` file."""

    name: str
    shape: tuple[int, ...]
    sha256: str
    gz_sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """Its names on disk: some tools write a dot before "idx", some decompress it. `.gz` is preferred."""
        dotted = self.name.replace("-idx", ".idx")
        return f"{self.name}.gz", f"{dotted}.gz", self.name, dotted


# A copy is valid if its decompressed content has the right checksum, however it was compressed. These checksums were
# computed from a full copy, whose training images have the well-known md5 6bbc9ace898e44ae57da46a324031adb. The .gz
# checksums are those of the original files (9,912,422, 28,881, 1,648,877 and 4,542 bytes, md5 f68b3c2d…, d53e105e…,
# 9fb629c4…, ec29112d…), as published in TensorFlow Datasets and elsewhere for both mirrors.
MNIST_FILES = (
    IdxFile(
        "train-images-idx3-ubyte",
        (60_000, 28, 28),
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    IdxFile(
        "train-labels-idx1-ubyte",
        (60_000,),
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    IdxFile(
        "t10k-images-idx3-ubyte",
        (10_000, 28, 28),
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    IdxFile(
        "t10k-labels-idx1-ubyte",
        (10_000,),
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


def read_mnist(
    *,
    directory: str | Path | None = None,
    progress: Progress | None = None,
    files: Sequence[IdxFile] = MNIST_FILES,
    mirrors: Sequence[str] = MNIST_MIRRORS,
) -> LoadedFiles:
    """Find or download the four files (training images and labels, test images and labels), read and check them."""
    official = OfficialFiles(
        "mnist",
        ("mnist", "MNIST/raw"),  # the second is where torchvision puts them
        tuple(OfficialFile(file.names, file.gz_sha256) for file in files),
        tuple(mirrors),
        substitute=", or use the shipped 'mnist-sample'",
    )
    paths = find_or_fetch(official, directory=directory, progress=progress)
    remedy = "delete it and fetch it again: onebit data mnist"
    arrays = [
        read_idx(path, shape=file.shape, sha256=file.sha256, remedy=remedy)
        for path, file in zip(paths, files, strict=True)
    ]
    train, test = (Split(images[:, np.newaxis], labels.astype(np.int64)) for images, labels in (arrays[:2], arrays[2:]))
    return LoadedFiles(train, test, str(paths[0].parent), tuple(map(str, paths)))


MNIST = DatasetEntry(
    name="mnist",
    title="handwritten digits",
    read=read_mnist,
    classes=tuple("0123456789"),
    input_shape=(1, 28, 28),
    counts=(60_000, 10_000),
    validation=10_000,
    licence="LeCun, Cortes, Burges; CC BY-SA 3.0",
)
