"""Blocks of Q1_0, and a reader of GGUF files of strangers.

The reader of the package `gguf` never ends on an array that claims to be longer than its file, so it reads only files
that onebit has just written.
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
"""The key of the card."""
_NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
"""Type of a value -> its format in `struct`."""
_TEXT, _ARRAY, _MOST_AXES = 8, 9, 4


def gguf_package() -> Any:
    """The package `gguf`."""
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
    scales = scale.astype("<f2")[..., None].view(np.uint8)
    return np.concatenate([scales, bits], axis=2).reshape(len(scale), -1)


def unpack_q1_0(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `pack_q1_0`: (signs, scale), signs as int8."""
    blocks = blocks.reshape(len(blocks), -1, 2 + GROUP // 8)
    scale = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0]
    bits = np.unpackbits(blocks[..., 2:], axis=2, bitorder="little").view(np.int8)
    return (2 * bits - 1).reshape(len(blocks), -1), scale


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
    """facts: key -> number or text; arrays, such as the tokens, are left out. tensors: name -> tensor."""

    facts: dict[str, Any]
    tensors: dict[str, GgufTensor]


class _Stream:
    """The bytes of a file, taken in order."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        start = self.skip(count)
        return self.data[start : self.at].tobytes()

    def skip(self, count: int) -> int:
        if count > len(self.data) - self.at:
            raise FormatError(f"it ends before byte {self.at + count:,}")
        self.at += count
        return self.at - count

    def number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        """A number or text; None for an array, which is skipped."""
        if kind == _TEXT:
            return self.text()
        if kind != _ARRAY:
            return self.number(_NUMBERS[kind])
        kind, count = self.number("I"), self.number("Q")
        if kind != _TEXT:  # an array of arrays, too, is no number
            self.skip(count * struct.calcsize(_NUMBERS[kind]))
        for _ in range(count if kind == _TEXT else 0):
            self.skip(self.number("Q"))
        return None


def read_gguf(path: AnyPath) -> GgufFile:
    """Read a GGUF file; the tensors stay on disk until their values are asked for.

    Raises:
        FormatError: the file is damaged or of another format. UsageError: the package `gguf` is missing.
    """
    sizes = {kind.value: (kind.name, *size) for kind, size in gguf_package().GGML_QUANT_SIZES.items()}
    try:
        with open_regular(path) as file:
            stream = _Stream(np.memmap(file, np.uint8, "r"))
        return _parsed(stream, sizes)
    except (FormatError, ValueError, LookupError, OSError) as error:
        reason = f"type {error} is unknown" if isinstance(error, KeyError) else error
        raise FormatError(f"{path}: damaged, or not a GGUF file ({reason})") from None


def _parsed(stream: _Stream, sizes: dict[int, tuple[str, int, int]]) -> GgufFile:
    if stream.take(4) != b"GGUF" or stream.number("I") not in (2, 3):
        raise FormatError("no GGUF of version 2 or 3")
    count, keys = stream.number("Q"), stream.number("Q")
    facts = {stream.text(): stream.value(stream.number("I")) for _ in range(keys)}
    entries = {}
    for _ in range(count):
        name, axes = stream.text(), stream.number("I")
        if axes > _MOST_AXES or name in entries:
            raise FormatError(f"tensor {short(name)} has {axes} axes, or comes twice")
        shape = tuple(stream.number("Q") for _ in range(axes))[::-1]
        entries[name] = shape, sizes[stream.number("I")], stream.number("Q")
    alignment = facts.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 16:
        raise FormatError(f"alignment {short(alignment)}")
    start = stream.at + -stream.at % alignment
    tensors, total = {}, 0
    for name, (shape, (kind, block, bytes_), offset) in entries.items():
        length = prod(shape) // block * bytes_
        total += length
        # the sum: tensors that share their bytes would multiply the work on a small file
        if not shape or shape[-1] % block or max(total, offset + length) > len(stream.data) - start:
            raise FormatError(f"tensor {short(name)} of shape {shape} does not fit")
        row = shape[-1] // block * bytes_
        data = stream.data[start + offset : start + offset + length]
        tensors[name] = GgufTensor(kind, shape, data.reshape(*shape[:-1], row))
    return GgufFile({key: value for key, value in facts.items() if value is not None}, tensors)
