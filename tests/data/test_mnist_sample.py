"""The shipped sample: complete, small, attributed, and really from MNIST."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_mnist import REAL_MNIST, needs_real_mnist

from onebit.data import load_dataset, mnist_sample
from onebit.errors import DataError

PACKAGE = Path(mnist_sample.__file__).parent
FILES = (mnist_sample.IMAGES_FILE, mnist_sample.LABELS_FILE)


def test_counts_and_balance() -> None:
    data = load_dataset("mnist-sample", validation=0)
    assert np.bincount(data.train.labels).tolist() == [800] * 10
    assert np.bincount(data.test.labels).tolist() == [200] * 10
    # mixed order: no stretch of a hundred images is of one class
    assert all(len(np.unique(data.train.labels[start : start + 100])) > 5 for start in range(0, 8000, 100))


def test_no_image_occurs_twice() -> None:
    data = load_dataset("mnist-sample", validation=0)
    images = np.concatenate([data.train.images, data.test.images]).reshape(10_000, -1)
    assert len({image.tobytes() for image in images}) == 10_000


def test_it_is_small_and_attributed() -> None:
    assert sum((PACKAGE / name).stat().st_size for name in FILES) < 2_000_000
    licence = (PACKAGE / "MNIST_SAMPLE_LICENSE.md").read_text(encoding="utf-8")
    for words in (*FILES, "Yann LeCun, Corinna Cortes and Christopher J. C. Burges", "CC BY-SA 3.0"):
        assert words in licence
    assert "sample" in load_dataset("mnist-sample").note


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_copy_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in FILES:
        shutil.copy(PACKAGE / file, tmp_path)
    monkeypatch.setattr(mnist_sample, "__file__", str(tmp_path / "mnist_sample.py"))
    assert len(mnist_sample.read_mnist_sample().test) == 2000
    content = bytearray(gzip.decompress((tmp_path / name).read_bytes()))
    content[5000] ^= 1
    (tmp_path / name).write_bytes(gzip.compress(content, 1))
    with pytest.raises(DataError, match="damaged"):
        mnist_sample.read_mnist_sample()


@needs_real_mnist
def test_every_image_is_one_of_the_right_part_of_mnist() -> None:
    sample = load_dataset("mnist-sample", validation=0)
    mnist = load_dataset("mnist", validation=0, directory=REAL_MNIST)
    for part in ("train", "test"):
        whole, some = getattr(mnist, part), getattr(sample, part)
        known = {image.tobytes(): label for image, label in zip(whole.images, whole.labels, strict=True)}
        assert all(known[image.tobytes()] == label for image, label in zip(some.images, some.labels, strict=True))
