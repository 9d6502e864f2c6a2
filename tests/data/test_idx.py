"""IDX files: good ones are read, others are refused."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from onebit.data.mnist import idx_header, read_idx
from onebit.errors import DataError

SHAPE = (5, 4, 3)
ARRAY = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
CONTENT = idx_header(SHAPE) + ARRAY.tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def read(path: Path) -> np.ndarray:
    return read_idx(path, shape=SHAPE, sha256=SHA256)


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
        got = read_idx(path, shape=array.shape, sha256=hashlib.sha256(content).hexdigest())
        np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        CONTENT[:7],
        CONTENT[:-1],
        CONTENT + b"\0",
        b"\x00\x00\x0d\x03" + CONTENT[4:],
        idx_header((5, 3, 4)) + CONTENT[16:],
        b"<!DOCTYPE html><html>",
        CONTENT[:40] + bytes([CONTENT[40] ^ 1]) + CONTENT[41:],
    ],
    ids=["empty", "half a header", "truncated", "oversized", "another type", "another shape", "a web page", "a bit"],
)
def test_wrong_content_is_refused(tmp_path: Path, content: bytes) -> None:
    for path in (file(tmp_path, content), file(tmp_path, gzip.compress(content), "images.gz")):
        with pytest.raises(DataError, match="damaged"):
            read(path)


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


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_gzipped_file_is_refused(tmp_path: Path, kept: float) -> None:
    packed = gzip.compress(CONTENT)
    with pytest.raises(DataError, match="damaged"):
        read(file(tmp_path, packed[: int(kept * len(packed))], "images.gz"))


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
