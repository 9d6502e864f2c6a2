"""IDX files: good ones are read, others are refused."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from onebit.data.idx import idx_header, read_idx
from onebit.errors import DataError

SHAPE = (5, 4, 3)
ARRAY = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
CONTENT = idx_header(SHAPE) + ARRAY.tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def read(path: Path) -> np.ndarray:
    return read_idx(path, shape=SHAPE, sha256=SHA256, remedy="fetch it again")


def file(tmp_path: Path, content: bytes, name: str = "images") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_header_is_the_documented_one() -> None:
    # "0x00000803(2051) magic number; 60000; 28; 28" on the MNIST page
    assert idx_header((60000, 28, 28)) == struct.pack(">4I", 2051, 60000, 28, 28)
    assert idx_header((60000,)) == struct.pack(">2I", 2049, 60000)


def test_reads_raw_and_gzipped_alike(tmp_path: Path) -> None:
    raw = read(file(tmp_path, CONTENT))
    packed = read(file(tmp_path, gzip.compress(CONTENT), "images.gz"))
    assert raw.dtype == np.uint8
    assert raw.flags.writeable
    np.testing.assert_array_equal(raw, ARRAY)
    np.testing.assert_array_equal(packed, ARRAY)


@pytest.mark.parametrize("values", [1, 4], ids=["packs 1000-fold", "packs little"])
def test_a_large_file_is_read_completely(tmp_path: Path, values: int) -> None:
    array = np.random.default_rng(1).integers(0, values, (5_000_000,)).astype(np.uint8)
    content = idx_header(array.shape) + array.tobytes()
    for path in (file(tmp_path, content), file(tmp_path, gzip.compress(content, 1), "images.gz")):
        got = read_idx(path, shape=array.shape, sha256=hashlib.sha256(content).hexdigest(), remedy="")
        np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "got header nothing"),
        (CONTENT[:7], "got header 00000803000000"),
        (CONTENT[:-1], f"got {len(CONTENT) - 1} bytes, expected {len(CONTENT)}"),
        (CONTENT + b"\0", f"got more than the {len(CONTENT)} bytes"),
        (b"\x00\x00\x0d\x03" + CONTENT[4:], "got header 00000d03"),
        (idx_header((5, 3, 4)) + CONTENT[16:], "expected 00000803000000050000000400000003"),
        (b"<!DOCTYPE html><html>", "got header 3c21444f"),
    ],
    ids=["empty", "half a header", "truncated", "oversized", "another type", "another shape", "a web page"],
)
def test_wrong_content_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    for path in (file(tmp_path, content), file(tmp_path, gzip.compress(content), "images.gz")):
        with pytest.raises(DataError) as caught:
            read(path)
        message = str(caught.value)
        assert says in message
        assert str(path) in message
        assert f"expected sha256 {SHA256}" in message
        assert message.endswith("fetch it again")
        assert "\n" not in message


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    damaged = bytearray(CONTENT)
    damaged[40] ^= 1
    with pytest.raises(DataError) as caught:
        read(file(tmp_path, bytes(damaged)))
    assert f"got sha256 {hashlib.sha256(damaged).hexdigest()}; expected sha256 {SHA256}" in str(caught.value)


def test_no_flipped_bit_of_a_gzipped_file_changes_the_array(tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT, mtime=0)
    refused = 0
    for place in range(len(packed)):
        damaged = bytearray(packed)
        damaged[place] ^= 1
        try:
            np.testing.assert_array_equal(read(file(tmp_path, bytes(damaged), "images.gz")), ARRAY)
        except DataError:
            refused += 1
    assert refused >= len(packed) - 10  # the 10 bytes of gzip's header hold a time and a system, which change nothing


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_gzipped_file_is_refused(tmp_path: Path, kept: float) -> None:
    packed = gzip.compress(CONTENT)
    with pytest.raises(DataError, match=r"is damaged: .*ends early|got header"):
        read(file(tmp_path, packed[: int(kept * len(packed))], "images.gz"))


def test_bytes_after_the_gzip_stream_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="follow the end of the gzip stream"):
        read(file(tmp_path, gzip.compress(CONTENT) + b"more", "images.gz"))


def test_a_file_without_a_gzip_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="incorrect header check"):
        read(file(tmp_path, CONTENT, "images.gz"))


@pytest.mark.parametrize("header", [idx_header((1 << 31, 1 << 12)), idx_header(SHAPE)], ids=["claims", "delivers"])
def test_a_decompression_bomb_takes_little_memory(tmp_path: Path, header: bytes) -> None:
    path = file(tmp_path, gzip.compress(header + bytes(100_000_000), 1), "images.gz")
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_missing_file_and_a_folder_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nowhere: No such file"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"cannot read .*: Is a directory"):
        read(tmp_path)


def test_a_file_without_read_permission_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    path = file(tmp_path, CONTENT)
    monkeypatch.setattr(
        "onebit.data.idx.open_regular", refuse
    )  # file modes do not stop the administrator, who may run the tests
    with pytest.raises(DataError, match=r"cannot read .*images: Permission denied"):
        read(path)
