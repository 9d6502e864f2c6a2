"""Blocks of Q1_0, and a reader of GGUF files of strangers.

The reader of the package `gguf` does not end on an array that claims to be longer than its file, and takes a kilobyte
for each token.
"""

from __future__ import annotations

import struct
from math import prod
from typing import Any, NamedTuple

import numpy as np

from onebit.common.files import AnyPath, open_regular
from onebit.errors import FormatError, UsageError, short

GROUP = 128
"""Weights of a row that share a scale."""
Q1_0 = "Q1_0"
CARD = "onebit.card"
_NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
"""Type of a value -> its format in `struct`."""
_TEXT, _ARRAY = 8, 9


def gguf_package() -> Any:
    try:
        import gguf
    except ModuleNotFoundError:
        raise UsageError("GGUF files need the package gguf: pip install 'onebit[export]'") from None
    return gguf


def pack_q1_0(signs: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Blocks of 18 bytes: the scale as float16, then 128 bits, the first weight in the lowest bit; bit 1 means +scale.

    Args:
        signs: (O, I) of ±1. scale: (O, I/128) float16.

    Returns:
        (O, I/128 · 18) bytes.
    """
    bits = np.packbits((signs > 0).reshape(*scale.shape, GROUP), axis=2, bitorder="little")
    return np.concatenate([scale.astype("<f2")[..., None].view(np.uint8), bits], axis=2).reshape(len(scale), -1)


def unpack_q1_0(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `pack_q1_0`: (signs, scale), signs as int8."""
    blocks = blocks.reshape(len(blocks), -1, 2 + GROUP // 8)
    bits = np.unpackbits(blocks[..., 2:], axis=2, bitorder="little").view(np.int8)
    return (2 * bits - 1).reshape(len(blocks), -1), np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0]


class GgufTensor(NamedTuple):
    """A tensor of a GGUF file.

    kind: its type, as "Q1_0" or "F16". shape: as in torch, (O, I). data: its bytes, (…, bytes of a row).
    """

    kind: str
    shape: tuple[int, ...]
    data: np.ndarray

    def values(self) -> np.ndarray:
        """The numbers in float32, with `shape`."""
        if self.kind == Q1_0:
            signs, scale = unpack_q1_0(self.data.reshape(-1, self.data.shape[-1]))
            return (signs.reshape(-1, GROUP) * scale.reshape(-1, 1).astype(np.float32)).reshape(self.shape)
        gguf = gguf_package()
        try:
            return gguf.dequantize(self.data, gguf.GGMLQuantizationType[self.kind]).reshape(self.shape)
        except NotImplementedError:
            raise FormatError(f"tensors of type {self.kind} cannot be read") from None


class GgufFile(NamedTuple):
    """facts: key -> number or text, or None for an array, such as the tokens. tensors: by name."""

    facts: dict[str, Any]
    tensors: dict[str, GgufTensor]


class _Stream:
    """The bytes of a file, taken in order."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> np.ndarray:
        self.at += count
        if self.at > len(self.data):
            raise ValueError(f"it ends before byte {self.at:,}")
        return self.data[self.at - count : self.at]

    def number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)).tobytes())[0]

    def text(self) -> str:
        return self.take(self.number("Q")).tobytes().decode("utf-8")

    def value(self, kind: int) -> Any:
        """A number or text; None for an array, which is skipped."""
        if kind == _ARRAY:
            kind, count = self.number("I"), self.number("Q")
            for _ in range(count if kind == _TEXT else 0):
                self.take(self.number("Q"))
            self.take(0 if kind == _TEXT else count * struct.calcsize(_NUMBERS[kind]))
            return None
        return self.text() if kind == _TEXT else self.number(_NUMBERS[kind])


def read_gguf(path: AnyPath) -> GgufFile:
    """Read a GGUF file; the tensors stay on disk until their values are asked for.

    Raises:
        FormatError: the file is damaged or of another format. UsageError: the package `gguf` is missing.
    """
    sizes = {kind.value: (kind.name, *size) for kind, size in gguf_package().GGML_QUANT_SIZES.items()}
    try:
        with open_regular(path) as file:
            return _parsed(_Stream(np.memmap(file, np.uint8, "r")), sizes)
    except (ValueError, TypeError, LookupError, ArithmeticError, OSError) as error:
        reason = f"type {error} is unknown" if isinstance(error, KeyError) else error
        raise FormatError(f"{path}: damaged, or not a GGUF file ({reason})") from None


def _parsed(stream: _Stream, sizes: dict[int, tuple[str, int, int]]) -> GgufFile:
    if stream.take(4).tobytes() != b"GGUF" or stream.number("I") not in (2, 3):
        raise ValueError("no GGUF of version 2 or 3")
    count, keys = stream.number("Q"), stream.number("Q")
    facts = {stream.text(): stream.value(stream.number("I")) for _ in range(keys)}
    entries, total = {}, 0
    for _ in range(count):
        name, axes = stream.text(), stream.number("I")
        shape = tuple(np.flip(stream.take(8 * axes).copy().view("<u8")).tolist())
        entries[name] = shape, *sizes[stream.number("I")], stream.number("Q")
    rest = stream.data[stream.at + -stream.at % facts.get("general.alignment", 32) :]
    tensors = {}
    for name, (shape, kind, block, bytes_, offset) in entries.items():
        length = prod(shape) // block * bytes_
        total += length
        # the sum: tensors that share their bytes would multiply the work on a small file
        fits = prod(shape) and shape and not shape[-1] % block and max(total, offset + length) <= len(rest)
        if not fits or len(entries) < count:
            raise ValueError(f"tensor {short(name)} of shape {short(shape)} does not fit, or comes twice")
        data = rest[offset : offset + length]
        tensors[name] = GgufTensor(kind, shape, data.reshape(*shape[:-1], shape[-1] // block * bytes_))
    return GgufFile(facts, tensors)
