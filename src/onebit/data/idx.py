"""Reader of IDX files, the format of MNIST: magic number, sizes, then one byte for each element; gzipped or not.

Source: http://yann.lecun.com/exdb/mnist, "FILE FORMATS FOR THE MNIST DATABASE".
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onebit.common.files import open_regular
from onebit.errors import DataError

_GZIP_OVERHEAD = 1 << 16
"""The most bytes by which compression makes a file larger."""


def read_idx(path: Path, *, shape: tuple[int, ...], sha256: str, remedy: str) -> npt.NDArray[np.uint8]:
    """Read and check the array in an IDX file of unsigned bytes; the array is writable.

    Args:
        path: the file; compressed if its name ends in `.gz`.
        shape: the expected shape; no more memory is used, whatever the file claims.
        sha256: of the uncompressed file including its header, hex.
        remedy: what the user can do about a damaged file, the end of the message.
    """
    try:
        return _read(path, shape, sha256)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; expected sha256 {sha256} when uncompressed; {remedy}") from error


def idx_header(shape: tuple[int, ...]) -> bytes:
    """The header of an IDX file of unsigned bytes: 0x08 is their type, then the rank, then each size, big-endian."""
    return struct.pack(f">HBB{len(shape)}I", 0, 0x08, len(shape), *shape)


def _read(path: Path, shape: tuple[int, ...], sha256: str) -> npt.NDArray[np.uint8]:
    expected = idx_header(shape)
    size = len(expected) + math.prod(shape)
    with open_regular(path) as file:
        content = file.read(size + _GZIP_OVERHEAD)
    if path.suffix == ".gz":
        stream = zlib.decompressobj(wbits=31)  # 31: a gzip header and its CRC
        content = stream.decompress(content, size + 1)  # never more, whatever the file claims
        if len(content) <= size and not stream.eof:
            raise ValueError("the gzip stream ends early")
        if stream.unused_data:
            raise ValueError("bytes follow the end of the gzip stream")
    header = content[: len(expected)]
    if header != expected:
        raise ValueError(f"got header {header.hex() or 'nothing'}, expected {expected.hex()} for uint8 {shape}")
    if len(content) > size:
        raise ValueError(f"got more than the {size} bytes of uint8 {shape}")
    if len(content) < size:
        raise ValueError(f"got {len(content)} bytes, expected {size} for uint8 {shape}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ValueError(f"got sha256 {digest}")
    return np.frombuffer(content, np.uint8, offset=len(expected)).reshape(shape).copy()
