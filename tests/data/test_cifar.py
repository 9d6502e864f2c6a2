"""CIFAR-10 and CIFAR-100: small generated files in both layouts, bad files, and the copy that was stored as JPEG."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onebit.data import DATASETS, LoadedFiles, cifar, load_dataset
from onebit.data.cifar import CIFAR10_FILES, CIFAR100_FILES, JPEG_NOTE, read_cifar
from onebit.errors import DataError
from support.tiny_cifar import REAL_CIFAR10, TinyCifar, needs_real_cifar10, tiny_cifar10, tiny_cifar100
from support.tiny_mnist import Mirror

BOTH = pytest.mark.parametrize("tiny", [tiny_cifar10(), tiny_cifar100()], ids=["cifar10", "cifar100"])


def read(tiny: TinyCifar, directory: Path | None) -> LoadedFiles:
    return read_cifar(tiny.files, directory=directory)


def check(loaded: LoadedFiles, tiny: TinyCifar) -> None:
    np.testing.assert_array_equal(loaded.train.images, np.concatenate(tiny.images[:-1]))
    np.testing.assert_array_equal(loaded.train.labels, np.concatenate(tiny.labels[:-1]))
    np.testing.assert_array_equal(loaded.test.images, tiny.images[-1])
    np.testing.assert_array_equal(loaded.test.labels, tiny.labels[-1])
    assert loaded.train.images.flags.c_contiguous
    assert loaded.train.images.flags.writeable
    assert loaded.note == ""


@BOTH
@pytest.mark.parametrize("pickled", [False, True], ids=["binary", "pickled"])
def test_both_layouts_are_read(tiny: TinyCifar, tmp_path: Path, pickled: bool) -> None:
    folder = tiny.write(tmp_path, pickled=pickled)
    for directory in (tmp_path, folder):
        loaded = read(tiny, directory)
        check(loaded, tiny)
        assert loaded.directory == str(folder)


def test_the_official_sizes() -> None:
    # "30730000 bytes long"; a record of CIFAR-100 is <1 x coarse label><1 x fine label><3072 x pixel>
    for files, sizes in ((CIFAR10_FILES, [30_730_000] * 6), (CIFAR100_FILES, [50_000 * 3074, 10_000 * 3074])):
        assert [count * (len(files.labels) + 3072) for count in files.counts] == sizes
    for name in ("cifar10", "cifar100"):
        classes = DATASETS[name].classes
        assert classes is not None
        assert sorted(set(classes)) == list(classes)
        assert len(classes) == int(name.removeprefix("cifar"))


@pytest.mark.parametrize(
    "labels",
    [[3] * 104, [3] * 104 + [2**70], [3] * 104 + [None], [[3, 3]] * 105, b"3" * 105],
    ids=["too few", "beyond 64 bits", "None", "pairs", "bytes"],
)
def test_pickled_labels_that_are_not_numbers_are_refused(tmp_path: Path, labels: Any) -> None:
    tiny = tiny_cifar100()
    path = tiny.write(tmp_path, pickled=True) / "test"
    entries = pickle.loads(path.read_bytes(), encoding="latin1")
    entries["fine_labels"] = labels
    path.write_bytes(pickle.dumps(entries, protocol=4))
    with pytest.raises(DataError):
        read(tiny, tmp_path)


def archive(tiny: TinyCifar, folder: Path) -> dict[str, str]:
    """A tar.gz like the official ones, with a file beside; its name and checksum."""
    folder.mkdir()
    path = folder / "cifar.tar.gz"
    official = tiny.files.official
    with tarfile.open(path, "w:gz") as tar:
        contents = {f"{official.folders[0]}/{names[0]}": tiny.binary(i) for i, names in enumerate(official.files)}
        for name, content in {**contents, "../escaped.html": b"page"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return {path.name: "md5:" + hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}


def fetched(tiny: TinyCifar, served: dict[str, str], mirror: Mirror) -> LoadedFiles:
    official = dataclasses.replace(tiny.files.official, served=served, mirrors=(mirror.address,))
    return read_cifar(dataclasses.replace(tiny.files, official=official))


@BOTH
def test_the_archive_is_downloaded_extracted_and_found_again(
    tiny: TinyCifar, tmp_path: Path, serve: Callable[[Path], Mirror]
) -> None:
    served = archive(tiny, tmp_path / "mirror")
    mirror = serve(tmp_path / "mirror")
    for _ in range(2):
        loaded = fetched(tiny, served, mirror)
        check(loaded, tiny)
    folder = tmp_path / "cache" / tiny.files.official.folders[0]
    assert loaded.directory == str(folder)
    assert {path.name for path in folder.iterdir()} == {names[0] for names in tiny.files.official.files}  # no archive
    assert mirror.requests == ["/cifar.tar.gz"]
    assert not list(tmp_path.rglob("escaped.html"))


def test_a_copy_stored_as_jpeg_has_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_cifar10()
    tiny.write(tmp_path)
    monkeypatch.setattr(cifar, "JPEG_COPY", hashlib.sha256(tiny.binary(5)).hexdigest())
    assert read(tiny, tmp_path).note == JPEG_NOTE
    monkeypatch.setattr(cifar, "JPEG_COPY", hashlib.sha256(tiny.binary(4)).hexdigest())
    assert read(tiny, tmp_path).note == ""


@needs_real_cifar10
def test_the_real_one() -> None:
    data = load_dataset("cifar10", directory=REAL_CIFAR10, validation=0)
    assert (data.train.images.shape, data.test.images.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    # published facts: equal classes, the mean and deviation that everybody subtracts and divides by
    assert np.bincount(data.train.labels).tolist() == [5_000] * 10
    assert np.bincount(data.test.labels).tolist() == [1_000] * 10
    mean, deviation = data.train.channel_statistics()
    assert np.array(mean) / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)
    assert np.array(deviation) / 255 == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-3)
    first = (REAL_CIFAR10 or Path()) / "data_batch_1.bin"
    assert data.train.images[9_999].tobytes() == first.read_bytes()[-3072:]
    is_copy = hashlib.sha256(((REAL_CIFAR10 or Path()) / "test_batch.bin").read_bytes()).hexdigest() == cifar.JPEG_COPY
    assert (data.note == JPEG_NOTE) == is_copy
