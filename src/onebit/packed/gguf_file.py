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
IDLE: dict[str, list[object]] = {
    "attention.causal": [True],
    "rope.scaling.factor": [0, 1],
    "rope.scaling.type": ["none", "linear"],
}
"""Key of a file, after its architecture -> values with which llama.cpp computes as without it."""
NOT_COMPUTED = {"context_length", "vocab_size", "tensor_data_layout", "rope.scaling.finetuned"}
_TYPES = (
    "0 F32 1 4, 1 F16 1 2, 2 Q4_0 32 18, 3 Q4_1 32 20, 6 Q5_0 32 22, 7 Q5_1 32 24, 8 Q8_0 32 34, 9 Q8_1 32 40, "
    "10 Q2_K 256 84, 11 Q3_K 256 110, 12 Q4_K 256 144, 13 Q5_K 256 176, 14 Q6_K 256 210, 15 Q8_K 256 292, "
    "16 IQ2_XXS 256 66, 17 IQ2_XS 256 74, 18 IQ3_XXS 256 98, 19 IQ1_S 256 50, 20 IQ4_NL 32 18, 21 IQ3_S 256 110, "
    "22 IQ2_S 256 82, 23 IQ4_XS 256 136, 24 I8 1 1, 25 I16 1 2, 26 I32 1 4, 27 I64 1 8, 28 F64 1 8, 29 IQ1_M 256 56, "
    "30 BF16 1 2, 34 TQ1_0 256 54, 35 TQ2_0 256 66, 39 MXFP4 32 17, 40 NVFP4 64 36, 41 Q1_0 128 18"
)
TYPES = {int(number): (name, int(block), int(size)) for number, name, block, size in map(str.split, _TYPES.split(","))}
"""Number of a type of tensors -> its name, weights of a block, bytes of a block."""
_NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
"""Type of a value -> its format in `struct`."""
_TEXT, _ARRAY = 8, 9
_SIZE = struct.Struct("<Q").unpack_from


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
        if self.kind in ("F32", "F16"):
            return self.data.view(f"<f{4 if self.kind == 'F32' else 2}").astype(np.float32).reshape(self.shape)
        if self.kind == "BF16":
            return (self.data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(self.shape)
        if self.kind == "Q8_0":
            blocks = self.data.reshape(-1, 34)
            scale = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
            return (scale * blocks[:, 2:].view(np.int8)).reshape(self.shape)
        gguf = gguf_package()
        try:
            return gguf.dequantize(self.data, gguf.GGMLQuantizationType[self.kind]).reshape(self.shape)
        except NotImplementedError:
            raise FormatError(f"tensors of type {self.kind} cannot be read") from None


class GgufArray(NamedTuple):
    """An array of a GGUF file: `length` values of a type, from byte `at` of `data` on."""

    data: memoryview
    kind: int
    length: int
    at: int

    def values(self) -> list[Any]:
        """Raises: FormatError: texts that are not UTF-8, or arrays of arrays."""
        texts, data, end = list[Any](), self.data, self.at
        try:
            if self.kind != _TEXT:
                return list(_Stream(data, end).take(f"{self.length}{_NUMBERS[self.kind]}"))
            for _ in range(self.length):  # whose sizes `_Stream.array` has checked
                begin = end + 8
                end = begin + _SIZE(data, end)[0]
                texts.append(str(data[begin:end], "utf-8"))
            return texts
        except (ValueError, KeyError) as error:
            raise FormatError(f"an array of the GGUF file cannot be read ({error})") from None


class GgufFile(NamedTuple):
    """facts: key -> number or text. arrays: key -> array. tensors: by name."""

    facts: dict[str, Any]
    arrays: dict[str, GgufArray]
    tensors: dict[str, GgufTensor]


class _Stream:
    """The bytes of a file, taken in order."""

    def __init__(self, data: memoryview, at: int = 0) -> None:
        self.data, self.at = data, at

    def skip(self, count: int) -> int:
        """Where the skipped bytes begin."""
        self.at += count
        if self.at > len(self.data):
            raise ValueError(f"it ends before byte {self.at:,}")
        return self.at - count

    def take(self, kind: str) -> tuple[Any, ...]:
        form = f"<{kind}"
        return struct.unpack_from(form, self.data, self.skip(struct.calcsize(form)))

    def number(self, kind: str) -> Any:
        return self.take(kind)[0]

    def text(self) -> str:
        size = self.number("Q")
        return str(self.data[self.skip(size) : self.at], "utf-8")

    def array(self) -> GgufArray:
        kind, count = self.take("IQ")
        at = self.at
        if kind == _TEXT:
            data, end = self.data, len(self.data)
            for _ in range(count):
                at += 8 + _SIZE(data, at)[0]
                if at > end:
                    raise ValueError("it ends in a text")
            self.at, at = at, self.at
        else:
            self.skip(count * struct.calcsize(_NUMBERS[kind]))
        return GgufArray(self.data, kind, count, at)


def read_gguf(path: AnyPath, *, private: bool = False) -> GgufFile:
    """Read a GGUF file; arrays and tensors stay on disk until their values are asked for.

    Args:
        private: tensors may be changed, in memory only.

    Raises:
        FormatError: the file is damaged or of another format.
    """
    try:
        with open_regular(path) as file:
            return _parsed(np.memmap(file, np.uint8, "c" if private else "r"))
    except (ValueError, TypeError, LookupError, ArithmeticError, OSError, struct.error) as error:
        reason = f"type {error} is unknown" if isinstance(error, KeyError) else error
        raise FormatError(f"{path}: damaged, or not a GGUF file ({reason})") from None


def _parsed(data: np.ndarray) -> GgufFile:
    stream, facts, arrays = _Stream(data.data), dict[str, Any](), dict[str, GgufArray]()
    if stream.take("4sI") not in ((b"GGUF", 2), (b"GGUF", 3)):
        raise ValueError("no GGUF of version 2 or 3")
    count, keys = stream.take("QQ")
    for _ in range(keys):
        key, kind = stream.text(), stream.number("I")
        if kind == _ARRAY:
            arrays[key] = stream.array()
        else:
            facts[key] = stream.text() if kind == _TEXT else stream.number(_NUMBERS[kind])
    entries, total = {}, 0
    for _ in range(count):
        name, axes = stream.text(), stream.number("I")
        shape = tuple(reversed(stream.take(f"{axes}Q")))
        entries[name] = shape, *TYPES[stream.number("I")], stream.number("Q")
    rest = data[stream.at + -stream.at % facts.get("general.alignment", 32) :]
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
    return GgufFile(facts, arrays, tensors)
