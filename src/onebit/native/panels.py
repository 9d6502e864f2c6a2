"""Weights as the kernels read them: in panels, which interleave rows so that one load reads a unit of every output."""

from __future__ import annotations

import numpy as np

WORD = 32
"""Signs or channels per word of the library."""
REAL_LANES = 16
_MOST_CONSTANT = 64
"""Some processors add two products with 255 in 16 bits."""


def xnor_panels(bits: np.ndarray, lanes: int) -> tuple[np.ndarray, int]:
    """(G, O, T, I) bool -> uint32 (G, panels, T · words, lanes), and the words per tap, 32 channels each."""
    words = -(-bits.shape[-1] // WORD)
    return _panels(_words(bits, words, WORD), lanes), words


def lut_panels(bits: np.ndarray, lanes: int, *, inputs: int, groups: int) -> tuple[np.ndarray, int]:
    """(G, O, T, I) bool -> uint32 (G, panels, T · words, lanes), and the words per tap.

    The first input of a lookup is the lowest bit of its index.
    """
    words = -(-bits.shape[-1] // (inputs * groups))
    return _panels(_words(bits, words, inputs * groups), lanes), words


def byte_panels(bits: np.ndarray, lanes: int) -> tuple[np.ndarray, int]:
    """(G, O, T, I) bool -> uint32 (G, panels, T · words, lanes), four int8 each, and the words per tap.

    They multiply uint8 images x and give the sums of 2x − 255, as Σ w(2x − 255) = Σ 2w·x + 255·(−Σ w): weights are ±2,
    and the inputs of a tap are followed by bytes of 255 whose weights add up to −Σ w.
    """
    rest = bits.shape[-1] - 2 * bits.sum(axis=-1)
    constants = max(1, -(-int(np.abs(rest).max(initial=0)) // _MOST_CONSTANT))
    words = -(-(bits.shape[-1] + constants) // 4)
    weights = np.zeros((*bits.shape[:-1], 4 * words), np.int8)
    weights[..., : bits.shape[-1]] = np.where(bits, 2, -2)
    for k in range(bits.shape[-1], 4 * words):
        weights[..., k] = rest.clip(-_MOST_CONSTANT, _MOST_CONSTANT)
        rest = rest - weights[..., k]
    rows = weights.view("<u4").astype(np.uint32, copy=False)
    return _panels(rows.reshape(*bits.shape[:2], -1), lanes), words


def real_panels(weight: np.ndarray) -> np.ndarray:
    """(G, O, K) float64 -> (G, panels, K, 16)."""
    return _panels(weight, REAL_LANES)


def _words(bits: np.ndarray, words: int, size: int) -> np.ndarray:
    """(G, O, T, I) -> (G, O, T · words), `size` signs per word, the first in the lowest bit."""
    *shape, channels = bits.shape
    padded = np.zeros((*shape, words * size), np.bool_)
    padded[..., :channels] = bits
    parted = padded.reshape(*shape[:2], -1, size)
    if size < WORD:
        wide = np.zeros((*parted.shape[:-1], WORD), np.bool_)
        wide[..., :size] = parted
        parted = wide
    rows = np.packbits(parted, axis=-1, bitorder="little")
    return rows.view("<u4")[..., 0].astype(np.uint32, copy=False)


def _panels(rows: np.ndarray, lanes: int) -> np.ndarray:
    """(G, O, U) -> (G, panels, U, lanes), padded with outputs of 0."""
    groups, outputs, units = rows.shape
    panels = -(-outputs // lanes)
    padded = np.zeros((groups, panels * lanes, units), rows.dtype)
    padded[:, :outputs] = rows
    return np.ascontiguousarray(padded.reshape(groups, panels, lanes, units).swapaxes(2, 3))
