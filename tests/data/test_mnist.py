"""MNIST and Fashion-MNIST: IDX files, small generated ones, the real ones if available, and the shipped sample."""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from onebit.data import load_dataset, mnist
from onebit.data.mnist import IdxFile, read_idx, read_mnist
from onebit.errors import DataError
from support.tiny_mnist import REAL, TinyMnist, idx_header, needs_real

PACKAGE = Path(mnist.__file__).parent
SAMPLE = [file.names[0] for file in mnist.SAMPLE_FILES]
SHAPE = (5, 4, 3)
ARRAY = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
CONTENT = idx_header(SHAPE) + ARRAY.tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def read(path: Path) -> np.ndarray:
    return read_idx(path, IdxFile("images", SHAPE, SHA256))


def file(tmp_path: Path, content: bytes, name: str = "images") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_a_decompression_bomb_takes_little_memory(tmp_path: Path) -> None:
    path = file(tmp_path, gzip.compress(CONTENT + bytes(30_000_000), 1), "images.gz")
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


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


@needs_real["mnist"]
def test_the_real_one() -> None:
    data = load_dataset("mnist", directory=REAL["mnist"], validation=0)
    assert (data.train.images.shape, data.test.images.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    # published facts: the first labels, the class counts, the mean pixel 0.1307 that everybody subtracts
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(data.train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.train.images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    content = bytes.fromhex("000008030000ea600000001c0000001c") + data.train.images.tobytes()
    assert hashlib.md5(content, usedforsecurity=False).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"


@needs_real["fashion-mnist"]
def test_the_real_fashion_mnist() -> None:
    data = load_dataset("fashion-mnist", directory=REAL["fashion-mnist"], validation=0)
    # published facts: 6,000 and 1,000 of each class, the first labels, the mean pixel 0.2860
    assert np.bincount(data.train.labels).tolist() == [6000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert [data.classes[label] for label in data.train.labels[:3]] == ["Ankle boot", "T-shirt/top", "T-shirt/top"]
    assert data.train.images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)


def test_files_of_the_other_data_set_are_refused(tiny: TinyMnist, tmp_path: Path) -> None:
    """Their names are the same: only the checksums tell them apart, and their own folders keep them apart."""
    folder = tiny.write(tmp_path / "mnist").parent
    others = tuple(file._replace(sha256="0" * 64) for file in tiny.files)
    with pytest.raises(DataError, match="fashion-mnist"):
        read_mnist("fashion-mnist", directory=folder, files=others, mirrors=())
    with pytest.raises(DataError, match="sha256"):
        read_mnist("fashion-mnist", directory=folder / "mnist", files=others, mirrors=())
    tiny.write(tmp_path / "fashion-mnist")
    assert read_mnist("fashion-mnist", directory=folder, files=tiny.files).directory == str(tmp_path / "fashion-mnist")


def test_the_sample_is_balanced() -> None:
    data = load_dataset("mnist-sample", validation=0)
    assert np.bincount(data.train.labels).tolist() == [800] * 10
    assert np.bincount(data.test.labels).tolist() == [200] * 10


def test_the_sample_is_small_and_attributed() -> None:
    assert sum((PACKAGE / name).stat().st_size for name in SAMPLE) < 2_000_000
    licence = (PACKAGE / "MNIST_SAMPLE_LICENSE.md").read_text(encoding="utf-8")
    for words in (*SAMPLE, "Yann LeCun, Corinna Cortes and Christopher J. C. Burges", "CC BY-SA 3.0"):
        assert words in licence
    assert "sample" in load_dataset("mnist-sample").note
