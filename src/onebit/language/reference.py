"""Runs a net in numpy: the definition of every number. csrc/decoder.h has the same bits, with any number of threads.

All numbers are float32, and every addition and multiplication is rounded. Sums are in the order of `_sum`, or one after
the other: over blocks of weights, over the numbers of a head, and over positions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onebit.language.net import INTERLEAVED, Matrix, Net
from onebit.packed.gguf_file import GROUP, Q1_0, GgufTensor, unpack_q1_0

_F = np.float32
MAX_SUM = 32703
"""Sum of the magnitudes of 128 rounded inputs before rounding; each adds up to 1/2."""


INT8_SUMS = 256
"""Positions whose values are added as integers."""


class ReferenceDecoder:
    """As `NativeDecoder`."""

    def __init__(self, net: Net, *, context: int, kv: str, exact: bool) -> None:
        self.net, self._int8, self._rounded = net, kv == "int8", not exact
        self._rotation = net.rotation(context)
        shape = net.layers, net.kv_heads, context, net.head_size
        self._keys, self._values = np.zeros(shape, _F), np.zeros(shape, _F)
        self._units = np.zeros((2, *shape[:3]), _F)  # of keys and values in int8

    def run(self, tokens: np.ndarray, position: int, *, all_rows: bool = False) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            logits = [self._token(int(token), position + n) for n, token in enumerate(tokens)]
        return np.stack(logits if all_rows else logits[-1:])

    def _token(self, token: int, position: int) -> np.ndarray:
        net, (embedding, head, *matrices), (last, *norms) = self.net, self.net.matrices, self.net.norms
        x = _row(embedding.weight, token).values()[0]
        for n in range(net.layers):
            q, k, v, out, gate, up, down = matrices[7 * n : 7 * n + 7]
            before, between, q_norm, k_norm = norms[4 * n : 4 * n + 4]
            h = _normalized(x, before, net.eps)
            queries, keys, values = (self._product(m, h).reshape(-1, net.head_size) for m in (q, k, v))
            keys = self._turned(keys, k_norm, position)
            for kept, units, new in zip((self._keys, self._values), self._units, (keys, values), strict=True):
                kept[n, :, position], units[n, :, position] = (
                    _to_integers(new, 127) if self._int8 else (_stored(new), 1)
                )
            queries = self._turned(queries, q_norm, position) * (_F(1) / np.sqrt(_F(net.head_size)))
            x = x + self._product(out, self._attention(n, queries, position + 1).reshape(-1))
            h = _normalized(x, between, net.eps)
            g = self._product(gate, h)
            x = x + self._product(down, g / (_F(1) + _exp(-g)) * self._product(up, h))
        return self._product(head, _normalized(x, last, net.eps))

    def _turned(self, heads: np.ndarray, norm: np.ndarray | None, position: int) -> np.ndarray:
        """Heads normalized, if there is a norm, and rotated."""
        x = heads if norm is None else _normalized(heads, norm, self.net.eps)
        cosine, sine = self._rotation[position].T
        interleaved = INTERLEAVED[self.net.kind]
        a, b = (x[:, ::2], x[:, 1::2]) if interleaved else np.split(x, 2, axis=1)
        pair = a * cosine - b * sine, a * sine + b * cosine
        return np.stack(pair, axis=2).reshape(x.shape) if interleaved else np.concatenate(pair, axis=1)

    def _attention(self, layer: int, queries: np.ndarray, count: int) -> np.ndarray:
        """(heads, head_size) of the first `count` positions."""
        per = len(queries) // self.net.kv_heads
        keys, values = (np.repeat(x[layer, :, :count], per, axis=0) for x in (self._keys, self._values))
        key_units, value_units = (np.repeat(x[layer, :, :count], per, axis=0) for x in self._units)
        if self._int8:
            queries, units = _to_integers(queries, 32767)
            sums = np.einsum("hti,hi->ht", keys.astype(np.int64), queries.astype(np.int64))
            scores = sums.astype(_F) * units[:, None] * key_units
        else:
            halves = np.zeros((2, len(queries), count), _F)
            for i in range(self.net.head_size):
                halves[i % 2] += keys[:, :, i] * queries[:, i : i + 1]
            scores = halves[0] + halves[1]
        scores = _exp(scores - scores.max(axis=1, keepdims=True))
        factor = _F(1) / _sum(np.pad(scores, ((0, 0), (0, -count % 16))), 16)
        to = np.zeros_like(queries)
        if self._int8:
            weights, units = _to_integers(scores * value_units, 32767)
            for t in range(0, count, INT8_SUMS):
                some = weights[:, t : t + INT8_SUMS].astype(np.int64), values[:, t : t + INT8_SUMS].astype(np.int64)
                to += np.einsum("ht,hti->hi", *some).astype(_F)
            return to * (factor * units)[:, None]
        for t in range(count):
            to += values[:, t] * scores[:, t : t + 1]
        return to * factor[:, None]

    def _product(self, matrix: Matrix, x: np.ndarray) -> np.ndarray:
        """(outputs,)."""
        weight = matrix.weight
        if weight.kind == Q1_0 and self._rounded:
            signs, scale = unpack_q1_0(weight.data)
            y = np.zeros(len(signs), _F)
            integers, units = _rounded(x)
            for g, (q, unit) in enumerate(zip(integers, units, strict=True)):
                sums = signs[:, g * GROUP : (g + 1) * GROUP].astype(np.int32) @ q
                y += sums.astype(_F) * unit * scale[:, g].astype(_F)
        else:
            y = _sum(weight.values() * x, 32)
        return y if matrix.bias is None else y + matrix.bias


def _row(weight: GgufTensor, number: int) -> GgufTensor:
    return weight._replace(shape=(1, weight.shape[1]), data=weight.data[number : number + 1])


def _sum(x: np.ndarray, lanes: int) -> np.ndarray:
    """The sums of the last axis: of every `lanes`-th number, then halves of these are added."""
    parts = x.reshape(*x.shape[:-1], -1, lanes)
    total = np.zeros_like(parts[..., 0, :])
    for n in range(parts.shape[-2]):
        total = total + parts[..., n, :]
    while total.shape[-1] > 1:
        first, second = np.split(total, 2, axis=-1)
        total = first + second
    return total[..., 0]


def _normalized(x: np.ndarray, weight: Any, eps: float) -> np.ndarray:
    factor = _F(1) / np.sqrt(_sum(x * x, 32) / _F(x.shape[-1]) + _F(eps))
    return x * factor[..., None] * weight


def _exp(x: np.ndarray) -> np.ndarray:
    """exp of numbers from -87 to 88, which others become: 2^n times a polynomial."""
    x = np.clip(x, _F(-87), _F(88))
    shift = _F(1.5 * 2**23)
    shifted = x * _F(1.44269504) + shift
    n = shifted - shift
    r = (x - n * _F(0.693359375)) + n * _F(2.12194440e-4)
    p = r * _F(0.0013981999) + _F(0.0083334519)
    for term in (0.041665796, 0.16666665, 0.5, 1, 1):
        p = p * r + _F(term)
    return p * ((shifted.view(np.uint32) - np.uint32(0x4B400000) + np.uint32(127)) << np.uint32(23)).view(_F)


def _rounded(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integers (blocks, 128) and units (blocks,), so that every sum of a block's integers with signs fits 16 bits."""
    blocks = x.reshape(-1, GROUP)
    units = _sum(np.abs(blocks), 32) * (_F(1) / _F(MAX_SUM))
    return _nearest(blocks, units, 1).astype(np.int32), units


def _stored(x: np.ndarray) -> np.ndarray:
    """As float16 keeps it; beyond the largest that one."""
    most = _F(np.finfo(np.float16).max)
    return np.clip(x, -most, most).astype(np.float16).astype(_F)


def _to_integers(x: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers of magnitude up to `most` as float32, and the unit, of each row."""
    largest = np.abs(x).max(axis=-1)
    return _nearest(x, largest, most), largest / _F(most)


def _nearest(x: np.ndarray, size: np.ndarray, to: int) -> np.ndarray:
    """The integers nearest to rows of `x` with a row's `size` as `to`; 0 where that is too small or not finite."""
    sound = (size >= 2.0**-100) & (size <= np.finfo(_F).max)
    per = _F(to) / np.where(sound, size, _F(1))
    return np.rint(np.where(sound[..., None], x * per[..., None], _F(0)))
