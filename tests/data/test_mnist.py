"""MNIST: small generated files, and the real ones if they are available."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_mnist import REAL_MNIST, Mirror, TinyMnist, needs_real_mnist

from onebit.data import load_dataset
from onebit.data.mnist import read_mnist
from onebit.errors import DataError


def test_compressed_and_uncompressed_files_give_the_same(tiny: TinyMnist, tmp_path: Path) -> None:
    packed = read_mnist(directory=tiny.write(tmp_path / "packed"), files=tiny.files, mirrors=())
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for file, content in zip(tiny.files, tiny.contents, strict=True):
        (folder / file.name.replace("-idx", ".idx")).write_bytes(content)
    unpacked = read_mnist(directory=folder, files=tiny.files, mirrors=())
    assert unpacked.directory == str(folder)
    for got in (packed, unpacked):
        np.testing.assert_array_equal(got.train.images[:, 0], tiny.arrays[0])
        np.testing.assert_array_equal(got.train.labels, tiny.arrays[1])
        np.testing.assert_array_equal(got.test.images[:, 0], tiny.arrays[2])
        np.testing.assert_array_equal(got.test.labels, tiny.arrays[3])
        assert got.train.labels.dtype == np.int64


def test_downloaded_files_are_read(tiny: TinyMnist, tmp_path: Path, serve: Callable[[Path], Mirror]) -> None:
    mirror = serve(tiny.write(tmp_path / "mirror"))
    loaded = read_mnist(files=tiny.files, mirrors=(mirror.address,))
    assert loaded.directory == str(tmp_path / "cache" / "mnist")
    np.testing.assert_array_equal(loaded.test.images[:, 0], tiny.arrays[2])


def test_a_damaged_or_swapped_file_is_refused(tiny: TinyMnist, tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "own", which=(0, 1, 2))
    damaged = bytearray(tiny.contents[3])
    damaged[-1] ^= 4
    (folder / tiny.files[3].name).write_bytes(damaged)
    with pytest.raises(DataError, match=tiny.files[3].sha256):
        read_mnist(directory=folder, files=tiny.files, mirrors=())
    (folder / f"{tiny.files[0].name}.gz").write_bytes(tiny.packed[2])
    with pytest.raises(DataError, match="train-images"):
        read_mnist(directory=folder, files=tiny.files, mirrors=())


@needs_real_mnist
def test_the_real_one() -> None:
    data = load_dataset("mnist", directory=REAL_MNIST, validation=0)
    assert (data.train.images.shape, data.test.images.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    # published facts: the first labels, the class counts, the mean pixel 0.1307 that everybody subtracts
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(data.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.train.images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    content = bytes.fromhex("000008030000ea600000001c0000001c") + data.train.images.tobytes()
    assert hashlib.md5(content, usedforsecurity=False).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
