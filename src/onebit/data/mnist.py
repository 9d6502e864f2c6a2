"""MNIST and Fashion-MNIST: 60,000 training and 10,000 test images of 28×28 gray pixels in 10 classes, in IDX files.

An IDX file has 4 bytes for type and rank, 4 for each size, then one for each element; it may be gzipped. A sample of
MNIST with an equal number of each digit, in random order, is shipped with the package.

Sources: LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist; CC BY-SA 3.0. Xiao, Rasul, Vollgraf 2017,
"Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", arXiv:1708.07747; MIT.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onebit.common.files import open_regular
from onebit.data.fetch import OfficialFiles, find_or_fetch
from onebit.data.splits import DatasetEntry, LoadedFiles, Progress, Source, Split
from onebit.errors import DataError

_GZIP_OVERHEAD = 1 << 16
"""Bytes by which compression may enlarge a file."""


class IdxFile(NamedTuple):
    """A file: its name without `.gz`, its shape, and the sha256 of its uncompressed content and of the `.gz` file."""

    name: str
    shape: tuple[int, ...]
    sha256: str
    gz_sha256: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Its possible names on disk, `.gz` first; some tools write a dot before "idx"."""
        dotted = self.name.replace("-idx", ".idx")
        return f"{self.name}.gz", f"{dotted}.gz", self.name, dotted


def read_idx(path: Path, expected: IdxFile) -> npt.NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes, which is compressed if the path ends in `.gz`.

    It takes no more memory than the expected shape, whatever the file claims.
    """
    start = 4 + 4 * len(expected.shape)
    size = start + math.prod(expected.shape)
    with open_regular(path) as file:
        content = file.read(size + _GZIP_OVERHEAD)
    if path.suffix == ".gz":
        with suppress(zlib.error):  # the digest then differs
            content = zlib.decompressobj(wbits=31).decompress(content, size + 1)  # 31: a gzip header and its CRC
    if (digest := hashlib.sha256(content).hexdigest()) != expected.sha256:
        raise DataError(f"{path} is damaged: got sha256 {digest}, expected {expected.sha256}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(expected.shape).copy()


def idx_files(sha256: Sequence[str], gz_sha256: Sequence[str]) -> tuple[IdxFile, ...]:
    """The four files of a data set: training images and labels, test images and labels."""
    shapes = {
        f"{kind}-{name}-ubyte": (count, *size)
        for kind, count in (("train", 60_000), ("t10k", 10_000))
        for name, size in (("images-idx3", (28, 28)), ("labels-idx1", ()))
    }
    return tuple(map(IdxFile, shapes, shapes.values(), sha256, gz_sha256))


# A copy is valid if its decompressed content has the right checksum, however it was compressed. These checksums were
# computed from full copies; the training images of MNIST have the well-known md5 6bbc9ace898e44ae57da46a324031adb. The
# .gz checksums are those of the original files, as published for the mirrors: of MNIST 9,912,422, 28,881, 1,648,877 and
# 4,542 bytes (md5 f68b3c2d…, d53e105e…, 9fb629c4…, ec29112d…), of Fashion-MNIST md5 8d4fb7e6…, 25c81989…, bef4ecab…,
# bb300cfd….
MNIST_FILES = idx_files(
    (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)
FASHION_FILES = idx_files(
    (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
)
SAMPLE_FILES = (
    IdxFile(
        "mnist_sample.images-idx3-ubyte",
        (10_000, 28, 28),
        "6185237517c2dc4f2318899d509fbf454dac80fbecbb317ca500e92be5e28337",
    ),
    IdxFile(
        "mnist_sample.labels-idx1-ubyte",
        (10_000,),
        "f64d915b4da3276329b7b28ba75c320096a9cdb7cf6aab79541a0b4cff00c3c2",
    ),
)
SAMPLE_COUNTS = (8_000, 2_000)
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


FASHION_MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
FOLDERS = {"mnist": ("mnist", "MNIST/raw"), "fashion-mnist": ("fashion-mnist", "FashionMNIST/raw")}
"""Data set -> where its files may be; the second is where torchvision puts them."""


def read_mnist(
    name: str = "mnist",
    *,
    directory: Source = None,
    progress: Progress | None = None,
    files: Sequence[IdxFile] = MNIST_FILES,
    mirrors: Sequence[str] = MNIST_MIRRORS,
) -> LoadedFiles:
    """Find or download the four files (training images and labels, test images and labels), read and check them."""
    served = {file.names[0]: f"sha256:{file.gz_sha256}" for file in files}
    official = OfficialFiles(name, FOLDERS[name], tuple(file.names for file in files), tuple(mirrors), served)
    paths = find_or_fetch(official, directory=directory, progress=progress)
    train, test = _split(paths[:2], files[:2]), _split(paths[2:], files[2:])
    return LoadedFiles(train, test, str(paths[0].parent), tuple(map(str, paths)))


def read_mnist_sample() -> LoadedFiles:
    """Read and check the shipped files."""
    folder = Path(__file__).parent
    paths = [folder / file.names[0] for file in SAMPLE_FILES]
    whole, trained = _split(paths, SAMPLE_FILES), SAMPLE_COUNTS[0]
    return LoadedFiles(whole[:trained], whole[trained:], str(folder), tuple(map(str, paths)))


def _split(paths: Sequence[Path], files: Sequence[IdxFile]) -> Split:
    images, labels = map(read_idx, paths, files)
    return Split(images[:, np.newaxis], labels.astype(np.int64))


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
FASHION_MNIST = replace(
    MNIST,
    name="fashion-mnist",
    title="articles of clothing, in the format of MNIST",
    read=partial(read_mnist, "fashion-mnist", files=FASHION_FILES, mirrors=FASHION_MIRRORS),
    classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    licence="Zalando Research; MIT",
)
MNIST_SAMPLE = replace(
    MNIST,
    name="mnist-sample",
    title="10,000 digits of MNIST, shipped with onebit",
    read=read_mnist_sample,
    counts=SAMPLE_COUNTS,
    validation=1_000,
    note="a sample of MNIST: 8,000 training and 2,000 test digits",
    stored=False,
)
