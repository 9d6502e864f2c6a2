"""CIFAR-10 and CIFAR-100: small generated files in both layouts, bad files, and the copy that was stored as JPEG."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_cifar import REAL_CIFAR10, TinyCifar, needs_real_cifar10, tiny_cifar10, tiny_cifar100
from tiny_mnist import Mirror

from onebit.data import DATASETS, LoadedFiles, cifar, load_dataset
from onebit.data.cifar import CIFAR10_FILES, CIFAR100_FILES, JPEG_NOTE, read_cifar
from onebit.data.fetch import OfficialArchive
from onebit.errors import DataError

BOTH = pytest.mark.parametrize("tiny", [tiny_cifar10(), tiny_cifar100()], ids=["cifar10", "cifar100"])


def read(tiny: TinyCifar, directory: Path | None) -> LoadedFiles:
    return read_cifar(tiny.files, tiny.classes, directory=directory)


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
    place = tiny.write(tmp_path, pickled=pickled)
    for directory in (tmp_path, place):
        loaded = read(tiny, directory)
        check(loaded, tiny)
        assert loaded.directory == str(place)


def test_the_official_sizes() -> None:
    # "30730000 bytes long"; a record of CIFAR-100 is <1 x coarse label><1 x fine label><3072 x pixel>
    assert [f.count * CIFAR10_FILES.record for f in CIFAR10_FILES.files] == [30_730_000] * 6
    assert [f.count * CIFAR100_FILES.record for f in CIFAR100_FILES.files] == [50_000 * 3074, 10_000 * 3074]
    for name in ("cifar10", "cifar100"):
        classes = DATASETS[name].classes
        assert classes is not None
        assert sorted(set(classes)) == list(classes)
        assert len(classes) == int(name.removeprefix("cifar"))


@BOTH
@pytest.mark.parametrize("change", [-1, 1, -3073, "empty"])
def test_a_file_of_wrong_length_is_one_clear_line(tiny: TinyCifar, tmp_path: Path, change: int | str) -> None:
    file = tiny.write(tmp_path) / tiny.files.files[-1].name
    content = file.read_bytes()
    changed = b"" if change == "empty" else content[:change] if int(change) < 0 else content + bytes(int(change))
    file.write_bytes(changed)
    with pytest.raises(DataError) as caught:
        read(tiny, tmp_path)
    count = len(tiny.labels[-1])
    assert str(caught.value) == (
        f"{file} is damaged: got {len(changed):,} bytes, expected {len(content):,}: {count:,} images of "
        f"{tiny.files.record:,}; delete it and fetch it again: onebit data {tiny.files.dataset}"
    )


@BOTH
@pytest.mark.parametrize("pickled", [False, True], ids=["binary", "pickled"])
def test_a_label_out_of_range_is_one_clear_line(tiny: TinyCifar, tmp_path: Path, pickled: bool) -> None:
    tiny.labels[-1] = tiny.labels[-1].copy()
    tiny.labels[-1][7] = tiny.classes
    place = tiny.write(tmp_path, pickled=pickled)
    tiny.labels[-1][7] = 7
    with pytest.raises(DataError, match=f"{place}.*image 7 has label {tiny.classes}, expected 0 to {tiny.classes - 1}"):
        read(tiny, tmp_path)


def test_a_label_beyond_64_bits_is_one_clear_line(tmp_path: Path) -> None:
    tiny = tiny_cifar100()
    path = tiny.write(tmp_path, pickled=True) / "test"
    entries = pickle.loads(path.read_bytes(), encoding="latin1")
    entries["fine_labels"][0] = 2**70
    path.write_bytes(pickle.dumps(entries, protocol=2))
    with pytest.raises(DataError, match="its fine_labels are not"):
        read(tiny, tmp_path)


def test_missing_files_are_listed_with_the_searched_folders(tmp_path: Path) -> None:
    tiny = tiny_cifar100()
    (tiny.write(tmp_path) / "test.bin").unlink()
    with pytest.raises(DataError) as caught:
        read(tiny, tmp_path)
    message = str(caught.value)
    for words in (
        "train.bin, test.bin",
        f"{tmp_path} has 1 of the 2 files",
        "cifar-100-binary, cifar-100-python",
    ):
        assert words in message


def archive(tiny: TinyCifar, folder: Path, **changes: bytes | str | None) -> OfficialArchive:
    """A tar.gz like the official ones; `changes` by file: other content, a link (str), or None to leave it out."""
    folder.mkdir()
    path = folder / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for index, file in enumerate(tiny.files.files):
            content = changes.get(file.name.removesuffix(".bin"), tiny.binary(index))
            info = tarfile.TarInfo(f"{tiny.files.folders[0]}/{file.name}")
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            elif content is not None:
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
        other = tarfile.TarInfo("../escaped.html")
        other.size = 4
        tar.addfile(other, io.BytesIO(b"page"))
    return OfficialArchive(path.name, "md5:" + hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest())


def fetched(tiny: TinyCifar, archive: OfficialArchive, mirror: Mirror) -> LoadedFiles:
    files = dataclasses.replace(tiny.files, archive=archive, mirrors=(mirror.address,))
    return read_cifar(files, tiny.classes)


@BOTH
def test_the_archive_is_downloaded_extracted_and_found_again(
    tiny: TinyCifar, tmp_path: Path, serve: Callable[[Path], Mirror]
) -> None:
    packed = archive(tiny, tmp_path / "mirror")
    mirror = serve(tmp_path / "mirror")
    for _ in range(2):
        loaded = fetched(tiny, packed, mirror)
        check(loaded, tiny)
    place = tmp_path / "cache" / tiny.files.folders[0]
    assert loaded.directory == str(place)
    assert {path.name for path in place.iterdir()} == {file.name for file in tiny.files.files}  # and no archive
    assert mirror.requests == ["/cifar.tar.gz"]
    assert not list(tmp_path.rglob("escaped.html"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"test": None}, "does not hold cifar-100-binary/test.bin"),
        ({"test": b"short"}, "test.bin is damaged: got 5 bytes, expected a regular file of"),
        ({"train": "/etc/passwd"}, "train.bin is damaged: got 0 bytes, expected a regular file of"),
    ],
)
def test_an_archive_with_other_files_is_refused(
    tmp_path: Path, serve: Callable[[Path], Mirror], change: dict[str, bytes | str | None], says: str
) -> None:
    tiny = tiny_cifar100()
    packed = archive(tiny, tmp_path / "mirror", **change)
    with pytest.raises(DataError, match=says):
        fetched(tiny, packed, serve(tmp_path / "mirror"))


def test_a_damaged_archive_is_refused(tmp_path: Path, serve: Callable[[Path], Mirror]) -> None:
    tiny = tiny_cifar100()
    packed = archive(tiny, tmp_path / "mirror")
    path = tmp_path / "mirror" / packed.name
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=f"expected {packed.checksum} but got"):
        fetched(tiny, packed, serve(tmp_path / "mirror"))
    cut_short = OfficialArchive(packed.name, "md5:" + hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest())
    with pytest.raises(DataError, match=r"is damaged: .*; delete it and fetch it again"):
        fetched(tiny, cut_short, serve(tmp_path / "mirror"))


def test_the_copy_that_was_stored_as_jpeg_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
