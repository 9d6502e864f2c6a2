"""Reader of IDX files, the format of MNIST: magic number, sizes, then one byte per element; gzipped or not.

Source: http://yann.lecun.com/exdb/mnist, "FILE FORMATS FOR THE MNIST DATABASE".
"""

from __future__ import annotations

import hashlib
import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onebit.common.files import open_regular
from onebit.errors import DataError

_READ = 1 << 15  # compressed bytes at a time: larger pieces are slower, each one is mapped and unmapped by malloc
_UNPACK = 1 << 22  # most bytes unpacked at a time, whatever the file claims


def read_idx(path: Path, *, shape: tuple[int, ...], sha256: str, remedy: str) -> npt.NDArray[np.uint8]:
    """The array of an IDX file of unsigned bytes, checked before it is believed.

    Args:
        path: the file; a name that ends in `.gz` is unpacked.
        shape: the shape it must have; memory is taken only after the header agrees.
        sha256: of the unpacked file, header included, hex.
        remedy: what the user can do about a damaged file, the end of the message.

    Returns:
        A writable uint8 array of `shape`.

    Raises:
        DataError: unreadable, not unpackable, another header, too short, too long, or another checksum.
    """
    try:
        return _read(path, shape, sha256)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; expected sha256 {sha256} when unpacked; {remedy}") from error


def idx_header(shape: tuple[int, ...]) -> bytes:
    """The header of an IDX file of unsigned bytes: 0x08 is their type, then the rank, then each size big-endian."""
    return struct.pack(f">HBB{len(shape)}I", 0, 0x08, len(shape), *shape)


def _read(path: Path, shape: tuple[int, ...], sha256: str) -> npt.NDArray[np.uint8]:
    chunks = _unpacked(path) if path.suffix == ".gz" else _raw(path, _UNPACK)
    expected = idx_header(shape)
    first = next(chunks, b"")
    header, rest = first[: len(expected)], first[len(expected) :]
    if header != expected:
        raise ValueError(f"got header {header.hex() or 'nothing'}, expected {expected.hex()} for uint8 {shape}")
    digest = hashlib.sha256(header)
    array = np.empty(math.prod(shape), np.uint8)
    view, filled = array.data, 0
    for chunk in itertools.chain([rest], chunks):
        end = filled + len(chunk)
        if end > len(view):
            raise ValueError(f"got more than the {len(expected) + len(view)} bytes that uint8 {shape} takes")
        view[filled:end] = chunk
        digest.update(chunk)
        filled = end
    if filled < len(view):
        raise ValueError(f"got {len(expected) + filled} bytes, expected {len(expected) + len(view)} for uint8 {shape}")
    if digest.hexdigest() != sha256:
        raise ValueError(f"got sha256 {digest.hexdigest()}")
    return array.reshape(shape)


def _raw(path: Path, size: int) -> Iterator[bytes]:
    with open_regular(path) as file:
        while chunk := file.read(size):
            yield chunk


def _unpacked(path: Path) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31)  # 31: a gzip header and its CRC
    for packed in _raw(path, _READ):
        while packed and not unpacker.eof:
            if chunk := unpacker.decompress(packed, _UNPACK):
                yield chunk
            packed = unpacker.unconsumed_tail
        if unpacker.unused_data:
            raise ValueError("bytes follow the end of the gzip stream")
    if not unpacker.eof:
        raise ValueError("the gzip stream ends early")
