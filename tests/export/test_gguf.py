"""Blocks of Q1_0 byte by byte, and the reader of GGUF files of strangers."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from onebit.errors import FormatError, UsageError
from onebit.export.gguf.target import block_scales
from onebit.packed.gguf_file import pack_q1_0, read_gguf, unpack_q1_0
from support.gguf_models import write_every_kind
from support.hostile_runs import bounded

gguf = pytest.importorskip("gguf")


def test_a_block_is_a_scale_and_128_signs() -> None:
    """d = 1.5 is 0x3E00; weight j is bit j % 8 of byte j // 8."""
    signs = np.full((1, 128), -1)
    signs[0, [0, 9, 127]] = 1
    block = pack_q1_0(signs, np.array([[1.5]], np.float16)).tobytes()
    assert block == b"\x00\x3e" + b"\x01\x02" + bytes(13) + b"\x80"


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3))
def test_packed_blocks_come_back_and_are_those_of_llama_cpp(seed: int, rows: int, groups: int) -> None:
    """llama.cpp takes d = mean|w| of 128 weights, and bit 1 for w >= 0."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1, 1], (rows, 128 * groups))
    scale = rng.uniform(1e-3, 10, (rows, groups)).astype(np.float16)
    packed = pack_q1_0(signs, scale)
    weights = (signs * np.repeat(scale.astype(np.float32), 128, axis=1)).reshape(rows, groups, 128)
    for row, column in np.ndindex(rows, groups):
        one = weights[row, column]
        bits = sum((1 << j) for j, x in enumerate(one) if x >= 0)
        expected = np.float16(np.abs(one).mean()).tobytes() + bits.to_bytes(16, "little")
        assert packed[row, 18 * column : 18 * column + 18].tobytes() == expected
    back = unpack_q1_0(packed)
    assert np.array_equal(back[0], signs)
    assert np.array_equal(back[1], scale)


def test_scales_of_channels_and_groups_become_those_of_blocks() -> None:
    assert (block_scales("w", None, (2, 256)) == np.ones((2, 2))).all()
    assert (block_scales("w", np.array([1.0, 2.0]), (2, 256)) == [[1, 1], [2, 2]]).all()
    assert (block_scales("w", np.array([[1.0, 2.0]]), (1, 512)) == [[1, 1, 2, 2]]).all()


@pytest.mark.parametrize(
    ("scale", "shape"),
    [
        (None, (2, 96)),  # no whole block
        (None, (2, 128, 1)),
        (np.ones((2, 4)), (2, 256)),  # groups of 64
        (np.array([1.0, 3e-5]), (2, 128)),  # subnormal
        (np.array([1.0, 7e4]), (2, 128)),  # infinite
        (np.array([1.0, np.nan]), (2, 128)),
    ],
)
def test_what_blocks_cannot_hold_is_refused(scale: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="w: "):
        block_scales("w", scale, shape)


# -------------------------------------------------------------------------------------------------------------- reader
def test_a_file_is_read_as_the_package_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_every_kind(path)
    found, expected = read_gguf(path), gguf.GGUFReader(path)
    arrays = {"texts", "numbers"}
    assert {key: value for key, value in found.facts.items() if value is not None} == {
        key: field.contents()
        for key, field in expected.fields.items()
        if key not in arrays and not key.startswith("GGUF.")
    }
    assert [*found.tensors] == [tensor.name for tensor in expected.tensors]
    for tensor in expected.tensors:
        mine = found.tensors[tensor.name]
        assert mine.kind == tensor.tensor_type.name
        assert mine.shape == tuple(tensor.shape[::-1])
        assert np.array_equal(mine.data, tensor.data.view(np.uint8).reshape(mine.data.shape))
    assert np.abs(found.tensors["w"].values()).tolist() == np.full((3, 256), 0.5).tolist()
    assert np.abs(found.tensors["Q8_0"].values() - found.tensors["F32"].values()).max() < 0.02


def read_all(content: bytes, folder: Path) -> None:
    path = folder / "x.gguf"
    path.write_bytes(content)
    for tensor in read_gguf(path).tensors.values():
        tensor.values()


def text(name: str) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode()


def file_of(tensors: int, keys: int, *parts: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + b"".join(parts)


HUGE = 2**63
ARRAY = text("a") + struct.pack("<I", 9)


def tensor(name: str, *shape: int, kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize(
    "content",
    [
        file_of(0, HUGE),
        file_of(HUGE, 0),
        file_of(0, 1, ARRAY, struct.pack("<IQ", 0, HUGE)),  # the reader of the package never ends
        file_of(0, 1, ARRAY, struct.pack("<IQ", 8, HUGE)),
        file_of(0, 1, ARRAY, struct.pack("<IQ", 9, 1) * 5000),
        file_of(0, 1, struct.pack("<Q", HUGE)),
        file_of(0, 1, text("a"), struct.pack("<I", 77)),
        file_of(1, 0, tensor("t", 2**40, 2**40), bytes(99)),
        file_of(1, 0, tensor("t", 4, kind=99), bytes(99)),
        file_of(1, 0, tensor("t", 4, offset=HUGE), bytes(99)),
        file_of(1, 0, tensor("t", 100, kind=41), bytes(99)),  # no whole block
        file_of(1, 0, tensor("t"), bytes(99)),
        file_of(1, 0, tensor("t", 0, 4), bytes(99)),
        file_of(2, 0, tensor("t", 4), tensor("t", 4), bytes(99)),
        file_of(3, 0, *(tensor(name, 8) for name in "abc"), bytes(64)),  # the same bytes three times
        file_of(1, 1, text("general.alignment") + struct.pack("<II", 4, 0), tensor("t", 4), bytes(99)),
    ],
)
def test_sizes_of_no_sense_are_refused(tmp_path: Path, content: bytes) -> None:
    with bounded(), pytest.raises(FormatError):
        read_all(content, tmp_path)


def test_a_tensor_without_numbers_is_refused(tmp_path: Path) -> None:
    """Types such as I32 have no weights."""
    with pytest.raises(FormatError, match="I32"):
        read_all(file_of(1, 0, tensor("t", 4, kind=26), bytes(99)), tmp_path)
