"""Signs as bits: the packing that all files, kernels and exports share, and its reference arithmetic.

A *word* has 64 signs. Bit 1 means +1, bit 0 means -1, the first sign is the lowest bit (little-endian), and the tail
bits of the last word are 0. A file stores the same bits in *rows* of ceil(count / 8) bytes, which is shorter.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onebit.errors import FormatError, NotBinaryError

WORD_BITS = 64
_BLOCK_VALUES = 1 << 16  # values per block of xnor_dot, whose temporaries then fit into the second-level cache


def sign(x: np.ndarray) -> np.ndarray:
    """The sign: +1 where x >= 0 (also -0.0), else -1.

    Raises:
        NotBinaryError: some values are NaN, which has no sign.

    Example:
        >>> sign(np.array([-0.5, -0.0, 2.0]))
        array([-1,  1,  1], dtype=int8)
    """
    x = np.asarray(x)
    if x.dtype.kind == "f" and (count := int(np.count_nonzero(np.isnan(x)))):
        raise NotBinaryError(f"{count} of {x.size} values are NaN, which has no sign")
    result = (x >= 0).astype(np.int8)
    return np.subtract(np.add(result, result, out=result), 1, out=result)


def pack_signs(signs: np.ndarray) -> np.ndarray:
    """Pack an array of ±1 into words, along the last axis.

    Args:
        signs: (…, count), exactly +1 and -1, any real dtype.

    Returns:
        (…, ceil(count / 64)) uint64.

    Raises:
        NotBinaryError: some values are neither +1 nor -1.

    Example:
        >>> pack_signs(np.array([1, -1, 1, 1]))
        array([13], dtype=uint64)
    """
    signs = np.asarray(signs)
    if not (np.abs(signs) == 1).all():
        raise NotBinaryError("some values are neither +1 nor -1; take their sign first")
    return bytes_to_words(np.packbits(signs > 0, axis=-1, bitorder="little"), signs.shape[-1])


def unpack_signs(words: np.ndarray, count: int, *, dtype: Any = np.int8) -> np.ndarray:
    """The ±1 array of packed words; inverse of `pack_signs`.

    Args:
        words: (…, ceil(count / 64)) uint64.
        count: number of signs along the last axis.
        dtype: signed dtype of the result.
    """
    rows = words_to_bytes(words, count)
    signs = np.unpackbits(rows, axis=-1, count=count, bitorder="little").view(np.int8)
    np.subtract(np.add(signs, signs, out=signs), 1, out=signs)
    return signs.astype(dtype, copy=False)


def words_to_bytes(words: np.ndarray, count: int) -> np.ndarray:
    """File rows of words: (…, ceil(count / 64)) uint64 -> (…, ceil(count / 8)) uint8, contiguous."""
    rows = np.ascontiguousarray(words, dtype="<u8").view(np.uint8)  # "<u8" swaps bytes on a big-endian machine
    return np.ascontiguousarray(rows[..., : byte_count(count)])


def bytes_to_words(rows: np.ndarray, count: int) -> np.ndarray:
    """Words of file rows: (…, ceil(count / 8)) uint8 -> (…, ceil(count / 64)) uint64; inverse of `words_to_bytes`."""
    padded = np.zeros((*rows.shape[:-1], word_count(count) * 8), np.uint8)
    padded[..., : byte_count(count)] = rows
    words = padded.view("<u8").astype(np.uint64, copy=False)
    check_tail(words, count)
    return words


def check_tail(words: np.ndarray, count: int) -> None:
    """Raise FormatError if a bit after the last sign is set, because xnor products would count it."""
    used = count % WORD_BITS
    if used and (rows := int(np.count_nonzero(words[..., -1] >> np.uint64(used)))):
        raise FormatError(f"{rows} rows have bits set after their {count} signs, expected zeros")


def word_count(count: int) -> int:
    """Number of words for `count` signs."""
    return -(-count // WORD_BITS)


def byte_count(count: int) -> int:
    """Number of bytes of a file row for `count` signs."""
    return -(-count // 8)


def xnor_dot(a: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    """Products of packed ±1 rows: out[n, o] = sum_k a[n, k] b[o, k] = count - 2 popcount(a[n] xor b[o]), exactly.

    Args:
        a: (N, W) uint64 words, tail bits 0.
        b: (O, W) uint64 words, tail bits 0.
        count: signs per row, W = ceil(count / 64).

    Returns:
        (N, O) int32. Temporary memory is limited to blocks of about 64 thousand values.

    Example:
        >>> xnor_dot(pack_signs(np.array([[1, -1, 1]])), pack_signs(np.array([[1, 1, 1], [-1, 1, -1]])), 3)
        array([[ 1, -3]], dtype=int32)
    """
    out = np.empty((len(a), len(b)), np.int32)
    columns = np.ascontiguousarray(b.T)  # (W, O): the same word of all outputs is contiguous
    step = max(1, _BLOCK_VALUES // max(1, len(b)))
    for start in range(0, len(a), step):
        block = a[start : start + step]
        differing = np.zeros((len(block), len(b)), np.min_scalar_type(count))
        for index, column in enumerate(columns):
            differing += np.bitwise_count(block[:, index, None] ^ column)
        np.subtract(count, differing.astype(np.int32) * 2, out=out[start : start + step])
    return out
