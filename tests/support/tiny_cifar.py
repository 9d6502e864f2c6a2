"""Small files like CIFAR's, in both layouts, and the real CIFAR-10 if it is available."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import numpy as np
import pytest

from onebit.data.cifar import CIFAR10_FILES, CIFAR100_FILES, CifarFiles
from onebit.data.fetch import data_folders


def _find_real_cifar10() -> Path | None:
    official = CIFAR10_FILES.official
    folders = data_folders(None, official.folders[:1])
    return next((f.resolve() for f in folders if all((f / names[0]).is_file() for names in official.files)), None)


REAL_CIFAR10 = _find_real_cifar10()  # looked up before the tests close off the environment
needs_real_cifar10 = pytest.mark.skipif(REAL_CIFAR10 is None, reason="CIFAR-10 is in no folder of ONEBIT_DATA")


def text(value: str) -> bytes:
    """A string as Python 2 pickled it."""
    return b"U" + bytes([len(value)]) + value.encode("latin-1")


def number(value: int) -> bytes:
    return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)


def numbers(values: list[int]) -> bytes:
    return b"](" + b"".join(map(number, values)) + b"e"


def array(values: np.ndarray, *, dtype: str = "u1", order: bytes = b"\x89") -> bytes:
    """A two-dimensional array as cPickle wrote it with numpy 1: what `pickletools.dis` shows of the official files."""
    described = (
        b"cnumpy\ndtype\nq\x0e"
        + text(dtype)
        + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    shape = number(values.shape[0]) + number(values.shape[1]) + b"\x86q\r"
    content = b"T" + struct.pack("<i", values.size) + values.tobytes()
    empty = b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85q\tU\x01bq\n\x87R"
    return empty + b"(K\x01" + shape + described + order + content + b"tb"


def dictionary(**entries: bytes) -> bytes:
    return b"\x80\x02}q\x01(" + b"".join(text(key) + value for key, value in entries.items()) + b"u."


class TinyCifar:
    """A data set of a few random images in the layouts of CIFAR-10 or CIFAR-100."""

    def __init__(self, official: CifarFiles, counts: tuple[int, ...], classes: int, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        here = dataclasses.replace(official.official, mirrors=())
        self.files = dataclasses.replace(official, official=here, counts=counts)
        self.classes = classes
        self.images = [rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8) for count in counts]
        self.labels = [np.arange(count) % classes for count in counts]

    def binary(self, index: int) -> bytes:
        """A file of the binary layout: the coarse label of CIFAR-100 is (fine + 1) % 20."""
        labels = self.labels[index]
        columns = [labels] if len(self.files.labels) == 1 else [(labels + 1) % 20, labels]
        records = [np.stack(columns, axis=1), self.images[index].reshape(len(labels), -1)]
        return np.concatenate(records, axis=1).astype(np.uint8).tobytes()

    def pickled(self, index: int) -> bytes:
        labels = self.labels[index].tolist()
        names = b"](" + b"".join(text(f"image_{i}.png") for i in range(len(labels))) + b"e"
        entries = {name: numbers([(label + 1) % 20 for label in labels]) for name in self.files.labels}
        entries[self.files.labels[-1]] = numbers(labels)
        data = array(self.images[index].reshape(len(labels), -1))
        return dictionary(batch_label=text("a batch"), **entries, data=data, filenames=names)

    def write(self, folder: Path, *, pickled: bool = False) -> Path:
        """Write all files into the sub-folder of the layout."""
        place = folder / self.files.official.folders[pickled]
        place.mkdir(parents=True)
        for index, names in enumerate(self.files.official.files):
            (place / names[pickled]).write_bytes((self.pickled if pickled else self.binary)(index))
        return place


def tiny_cifar10() -> TinyCifar:
    return TinyCifar(CIFAR10_FILES, (12, 10, 11, 10, 10, 13), 10)


def tiny_cifar100() -> TinyCifar:
    return TinyCifar(CIFAR100_FILES, (210, 105), 100)
